//! Types, shapes, strides, memory, indices.

use super::*;

#[test]
fn wrong_types() {
    let mut fixture = Fixture::named("gated_delta_rule");
    let roles: Vec<Role> = fixture.inputs.keys().chain(fixture.outputs.keys()).copied().collect();
    for role in roles {
        for dtype in [DType::Bf16, DType::F16, DType::I32] {
            let words = [role.to_string(), dtype.to_string(), "f32".into()];
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            fixture.refuse(Status::WrongDType, &words, |call| call.get(role).dtype = dtype);
        }
    }
    for role in [Role::CU_SEQLENS, Role::STATE_INDEX] {
        let word = role.to_string();
        fixture.refuse(Status::WrongDType, &[&word, "f32", "i32"], |call| call.input(role, &[0f32; 3], &[3]));
    }
}

/// What each role may be in plans of every type, as the documentation of `Desc` has it.
#[test]
fn types_of_a_call() {
    use DType::{Bf16, F16, F32, I32};
    for (qkv, out, state) in [(F32, F32, F32), (Bf16, F32, Bf16), (F16, Bf16, F32), (F32, F16, Bf16)] {
        let p = Problem::named("linear").param("feature_map", "exp").sized([2, 2, 2], (8, 6), 2, 5);
        let p = Problem { shift: true, ..p }.fill(&mut Rng::new(7), true);
        let norm = Problem::named("retention").param("normalize", "rms_gate").sized([2, 2, 2], (8, 6), 2, 5);
        let mut norm = norm.fill(&mut Rng::new(7), true);
        let weight = norm.values(&mut Rng::new(8), Role::OUT_NORM_WEIGHT);
        norm.inputs.insert(Role::OUT_NORM_WEIGHT, weight);
        for p in [p, norm] {
            let desc = Desc { dtype_qkv: qkv, dtype_out: out, dtype_state: state, ..p.desc() };
            let plan = Plan::new(&context(), &desc).unwrap();
            let allowed = |role: Role| match role {
                Role::Q | Role::K | Role::V => vec![qkv],
                Role::OUT => vec![out],
                Role::STATE_IN | Role::STATE_OUT => vec![state],
                Role::Z_IN | Role::Z_OUT | Role::SHIFT_IN | Role::SHIFT_OUT => vec![F32],
                _ => vec![F32, qkv],
            };
            let mut outputs = p.outputs();
            let bind = |outputs: &mut Tensors| {
                let mut bound = Vec::new();
                for (out, tensors) in [(false, &mut p.inputs.clone()), (true, outputs)] {
                    for (&role, array) in tensors {
                        // Memory for the widest type, zeros in each.
                        let data = vec![0f32; array.data.len()].leak().as_mut_ptr().cast();
                        let layout = Layout::contiguous(&array.shape).unwrap();
                        bound.push(Bound { role, out, data, dtype: *allowed(role).last().unwrap(), layout });
                    }
                }
                Call { mode: p.mode, bound, workspace: problem::workspace(&plan) }
            };
            execute(&mut bind(&mut outputs), &plan)
                .unwrap_or_else(|error| panic!("{qkv} {out} {state}: {error}"));
            for role in p.inputs.keys().chain(p.outputs().keys()) {
                for dtype in [F32, Bf16, F16, I32] {
                    let mut call = bind(&mut outputs);
                    call.get(*role).dtype = dtype;
                    let result = execute(&mut call, &plan);
                    if allowed(*role).contains(&dtype) {
                        result.unwrap_or_else(|error| panic!("{role} as {dtype}: {error}"));
                        continue;
                    }
                    let error = result.expect_err("a type that the role can't have");
                    let expected: Vec<_> = allowed(*role).iter().map(|dtype| dtype.name()).collect();
                    let mut words = vec![role.to_string(), dtype.to_string()];
                    words.extend(expected.into_iter().map(str::to_owned));
                    if words.len() == 4 && words[2] == words[3] {
                        words.pop();
                    }
                    let words: Vec<&str> = words.iter().map(String::as_str).collect();
                    expect(&error, Status::WrongDType, &words);
                }
            }
        }
    }
}

#[test]
fn wrong_shapes() {
    for mechanism in mechanisms() {
        let mut fixture = Fixture::of(Problem::new(mechanism, vec![]).sized([2, 2, 2], (8, 6), 3, 5));
        let roles: Vec<Role> = fixture.inputs.keys().chain(fixture.outputs.keys()).copied().collect();
        for role in roles {
            let shape = fixture.problem.shape(role);
            let name = role.to_string();
            let rank = shape.len();
            let shapes = mechanism.role(role).unwrap().shapes;
            let other = |rank: usize| shapes.iter().any(|shape| shape.split(',').count() == rank);
            for wrong in [rank + 1, rank - 1].into_iter().filter(|&rank| !other(rank)) {
                let expected = if shapes.len() > 1 { "expected".into() } else { format!("expected {rank}") };
                let words = [&name, &*format!("rank {wrong}"), &*expected];
                fixture.refuse(Status::WrongShape, &words, |call| {
                    let layout = &mut call.get(role).layout;
                    layout.rank = wrong;
                    // An extra axis of one element, or one less.
                    layout.shape[wrong.min(rank)] = 1;
                });
            }
            for (axis, &extent) in shape.iter().enumerate() {
                for wrong in [extent - 1, extent + 1, 0, -1] {
                    // Where a size is free, the tensor that disagrees is the one that is named.
                    let free = matches!(fixture.problem.axes(role)[axis], "B" | "T" | "S") && wrong >= 0;
                    let named = format!("{name}.shape[{axis}] is {wrong}");
                    let words: &[&str] =
                        if free { &[".shape[", "is "] } else { &[&named, &extent.to_string()] };
                    let words = if wrong == -1 { &words[..1] } else { words };
                    fixture.refuse(Status::WrongShape, words, |call| call.resize(role, axis, wrong));
                }
            }
        }
    }
}

#[test]
fn lengths() {
    let shorter = |role: Role, n: i64| move |call: &mut Call| call.get(role).layout.shape[2] = n;
    // Two tensors agree on another S than T.
    let mut fixture = Fixture::of(Problem::named("linear").sized([4, 2, 2], (8, 6), 3, 5));
    fixture.refuse(Status::WrongShape, &["k.shape[2]", "is 4", "query length", "5"], |call| {
        shorter(Role::K, 4)(call);
        shorter(Role::V, 4)(call);
    });
    let mut right_aligned = Fixture::of(Problem::named("linear1p").sized([4, 2, 2], (8, 6), 3, 5));
    right_aligned.refuse(Status::WrongShape, &["k.shape[2]", "is 4", "5"], |call| {
        shorter(Role::K, 4)(call);
        shorter(Role::V, 4)(call);
    });
    let mut one = Fixture::of(Problem::named("lavo").sized([2, 2, 2], (8, 6), 3, 5));
    one.refuse(Status::WrongShape, &["kv.shape[2]", "is 4", "query length", "5"], shorter(Role::KV, 4));
    for n in [0, 2] {
        let steps = |m: &&catalog::Mechanism| m.modes.contains(&Mode::Step);
        for mechanism in mechanisms().into_iter().filter(steps) {
            let mut p = Problem::new(mechanism, vec![]).sized([2, 2, 2], (8, 6), 3, 1);
            p.mode = Mode::Step;
            let tokens_of = p.clone();
            let mut fixture = Fixture::of(p);
            let given = format!("{}.shape[2] is {n}", mechanism.roles[0].role);
            fixture.refuse(Status::WrongShape, &[&given, "step", "1"], |call| {
                for bound in &mut call.bound {
                    for axis in ["T", "S"].into_iter().filter_map(|size| tokens_of.axis(bound.role, size)) {
                        let mut shape = bound.layout.shape[..bound.layout.rank].to_vec();
                        shape[axis] = n;
                        bound.layout = Layout::contiguous(&shape).unwrap();
                    }
                }
            });
        }
    }
}

#[test]
fn wrong_strides() {
    let mut fixture = Fixture::named("gated_delta_rule");
    let stride = |role: Role, axis: usize, stride: i64| {
        move |call: &mut Call| call.get(role).layout.stride[axis] = stride
    };
    for far in [i64::MAX, i64::MIN, 1 << 62, -(1 << 61)] {
        for role in [Role::Q, Role::STATE_IN, Role::OUT] {
            let word = role.to_string();
            fixture.refuse(Status::WrongStride, &[&word, "leave the address space"], stride(role, 0, far));
            fixture.refuse(Status::WrongStride, &[&word, "leave the address space"], stride(role, 3, far));
        }
    }
    // Fits an i64, but not an address.
    fixture.refuse(Status::WrongStride, &["q", "address space"], stride(Role::Q, 0, -(1 << 58)));
    for role in [Role::OUT, Role::STATE_OUT] {
        for axis in 0..4 {
            let word = format!("{role}.stride[{axis}] is 0");
            fixture.refuse(Status::WrongStride, &[&word, "must not share memory"], stride(role, axis, 0));
        }
        // Rows that overlap by all but an element.
        let word = format!("{role}.stride[");
        fixture.refuse(Status::WrongStride, &[&word, "must not share memory"], stride(role, 2, 1));
        fixture.refuse(Status::WrongStride, &[&word, "must not share memory"], stride(role, 2, -5));
    }
}

/// Moves each tensor of the call to a place of its own, far from the others, so that where the allocator put them
/// has no say in which of them overlap. A refused call reads none of it.
fn spread(call: &mut Call) {
    const APART: usize = 1 << 16;
    let places = vec![0f32; APART / 4 * call.bound.len()].leak().as_mut_ptr().cast::<u8>();
    for (i, bound) in call.bound.iter_mut().enumerate() {
        bound.data = places.wrapping_add(APART * i);
    }
}

#[test]
fn overlaps() {
    let mut fixture = Fixture::named("gated_delta_rule");
    let mut refuse = |words: &[&str], change: &dyn Fn(&mut Call)| {
        fixture.refuse(Status::Overlap, words, |call| {
            spread(call);
            change(call);
        });
    };
    for other in [Role::Q, Role::K, Role::V, Role::G, Role::BETA, Role::STATE_IN, Role::STATE_OUT] {
        let words = ["output", &other.to_string()];
        // The last element of the output is the first of the other.
        refuse(&words, &|call| {
            let (first, layout) = (call.get(other).data, call.get(Role::OUT).layout);
            let last = layout.shape[..4].iter().product::<i64>() as usize - 1;
            call.get(Role::OUT).data = first.wrapping_sub(4 * last);
        });
        refuse(&words, &|call| call.get(Role::OUT).data = call.get(other).data);
    }
    // A state may be carried in place, and only so.
    for shift in [-1isize, 1, 8] {
        refuse(&["state_out", "state_in"], &|call| {
            call.get(Role::STATE_OUT).data = call.get(Role::STATE_IN).data.wrapping_offset(4 * shift);
        });
    }
    refuse(&["state_out", "state_in"], &|call| {
        let mut bound = Bound { role: Role::STATE_OUT, out: true, ..*call.get(Role::STATE_IN) };
        // Transposed: the same memory, other places.
        bound.layout.stride.swap(0, 1);
        bound.layout.stride[0] = 8 * 6;
        bound.layout.stride[1] = 3 * 8 * 6;
        *call.get(Role::STATE_OUT) = bound;
    });
    refuse(&["state_out", "q"], &|call| call.get(Role::STATE_OUT).data = call.get(Role::Q).data);
    // z in the place of the state, which is no pair.
    let mut linear = Fixture::of(Problem::named("linear").sized([4, 2, 2], (8, 6), 3, 5));
    linear.refuse(Status::Overlap, &["output", "z_"], |call| {
        spread(call);
        call.get(Role::Z_OUT).data = call.get(Role::STATE_IN).data;
        call.get(Role::Z_IN).data = call.get(Role::STATE_IN).data;
    });
}

#[test]
fn pointers() {
    let mut fixture = Fixture::named("gated_delta_rule");
    let roles: Vec<Role> = fixture.inputs.keys().chain(fixture.outputs.keys()).copied().collect();
    for role in roles {
        let word = format!("{role}.data");
        for off in 1..4 {
            fixture.refuse(Status::Misaligned, &[&word, "4 bytes"], |call| {
                let data = &mut call.get(role).data;
                *data = data.wrapping_add(off);
            });
        }
        fixture
            .refuse(Status::NullPointer, &[&word, "null"], |call| call.get(role).data = std::ptr::null_mut());
    }
    fixture.refuse(Status::NullPointer, &["state_index.data"], |call| {
        call.index(Role::STATE_INDEX, &[0, 1, 2]);
        call.get(Role::STATE_INDEX).data = std::ptr::null_mut();
    });
    // Where there is no element, there need be no memory.
    let mut empty = Fixture::of(Problem::named("gla").sized([2, 2, 2], (8, 6), 3, 0));
    let mut call = empty.call();
    for role in [Role::Q, Role::K, Role::V, Role::G, Role::OUT] {
        call.get(role).data = std::ptr::null_mut();
    }
    execute(&mut call, &empty.plan).unwrap();
    assert_same_bits(&empty.outputs, &empty.want, || "null for no elements".into());
}

#[test]
fn workspaces() {
    for mechanism in mechanisms() {
        let mut fixture = Fixture::of(Problem::new(mechanism, vec![]).sized([2, 2, 2], (8, 6), 3, 5));
        let needed = fixture.plan.workspace_size();
        for given in [0, needed / 2, needed - 1] {
            let words = [&*format!("{given} bytes"), &*format!("needs {needed}")];
            fixture.refuse(Status::Workspace, &words, |call| call.workspace.truncate(given));
        }
    }
}

#[test]
fn ragged() {
    let mut fixture = Fixture::of(Problem::named("gated_delta_rule").sized([2, 2, 4], (8, 6), 1, 5));
    for (offsets, at, given) in [
        (&[1, 5][..], 0, 1),
        (&[-1, 5], 0, -1),
        (&[0, 4], 1, 4),
        (&[0, 6], 1, 6),
        (&[0], 0, 0),
        (&[0, 3, 2, 5], 2, 2),
        (&[0, 7, 5], 2, 5),
        (&[0, i32::MAX], 1, i32::MAX.into()),
        (&[0, i32::MIN, 5], 1, i32::MIN.into()),
    ] {
        let word: (String, i64) = (format!("cu_seqlens[{at}] is {given}"), given);
        fixture.refuse(Status::InvalidArgument, &[&word.0], |call| {
            call.index(Role::CU_SEQLENS, offsets);
            // The number of sequences is right.
            for (role, state) in [(Role::STATE_IN, false), (Role::STATE_OUT, true)] {
                let n = offsets.len() as i64 - 1;
                let data = vec![CANARY; (n * 4 * 8 * 6) as usize].leak().as_mut_ptr().cast();
                let layout = Layout::contiguous(&[n, 4, 8, 6]).unwrap();
                *call.get(role) = Bound { role, out: state, data, dtype: DType::F32, layout };
            }
        });
    }
    fixture.refuse(Status::WrongShape, &["state_in.shape[0]", "is 1", "sequences", "2"], |call| {
        call.index(Role::CU_SEQLENS, &[0, 3, 5]);
    });
    fixture.refuse(Status::WrongShape, &["cu_seqlens.shape[0]", "is 0", "1"], |call| {
        call.index(Role::CU_SEQLENS, &[]);
    });
    fixture.refuse(Status::WrongShape, &["cu_seqlens", "rank 2", "1"], |call| {
        call.input(Role::CU_SEQLENS, &[0i32, 5], &[1, 2]);
    });
    fixture.refuse(Status::WrongRole, &["cu_seqlens_k", "own tokens"], |call| {
        call.index(Role::CU_SEQLENS, &[0, 5]);
        call.index(Role::CU_SEQLENS_K, &[0, 5]);
    });
    // Packed sequences have a batch of one.
    let mut batch = Fixture::named("gated_delta_rule");
    batch.refuse(Status::WrongShape, &["q.shape[0]", "is 3", "packed", "1"], |call| {
        call.index(Role::CU_SEQLENS, &[0, 2, 4, 5]);
    });
    let mut p = Problem::named("gated_delta_rule").sized([2, 2, 2], (8, 6), 1, 1);
    p.mode = Mode::Step;
    Fixture::of(p)
        .refuse(Status::WrongRole, &["cu_seqlens", "step"], |call| call.index(Role::CU_SEQLENS, &[0, 1]));
}

#[test]
fn ragged_cross() {
    let mut p = Problem::named("linear").sized([4, 2, 2], (8, 6), 1, 5);
    (p.mode, p.s) = (Mode::Cross, 7);
    let mut fixture = Fixture::of(p);
    fixture.refuse(Status::MissingRole, &["cu_seqlens_k", "lengths of their own"], |call| {
        call.index(Role::CU_SEQLENS, &[0, 5]);
    });
    fixture.refuse(Status::MissingRole, &["cu_seqlens", "cu_seqlens_k is bound"], |call| {
        call.index(Role::CU_SEQLENS_K, &[0, 7]);
    });
    fixture.refuse(Status::WrongShape, &["cu_seqlens_k.shape[0]", "is 3", "2"], |call| {
        call.index(Role::CU_SEQLENS, &[0, 5]);
        call.index(Role::CU_SEQLENS_K, &[0, 3, 7]);
    });
    fixture.refuse(Status::InvalidArgument, &["cu_seqlens_k[1] is 6"], |call| {
        call.index(Role::CU_SEQLENS, &[0, 5]);
        call.index(Role::CU_SEQLENS_K, &[0, 6]);
    });
}

#[test]
fn pools() {
    for mode in [Mode::Causal, Mode::Step] {
        let mut p = Problem::named("gated_delta_rule").sized([2, 2, 4], (8, 6), 3, 1);
        p.mode = mode;
        let mut fixture = Fixture::of(p);
        for (slots, at, given, why) in [
            ([0, 3, 1], 1, 3, "no slot"),
            ([0, -2, 1], 1, -2, "no slot"),
            ([i32::MAX, 0, 1], 0, i64::from(i32::MAX), "no slot"),
            ([i32::MIN, 0, 1], 0, i64::from(i32::MIN), "no slot"),
            ([2, 0, 2], 2, 2, "earlier sequence"),
            ([0, 0, -1], 1, 0, "earlier sequence"),
        ] {
            let word = format!("state_index[{at}] is {given}");
            fixture
                .refuse(Status::InvalidArgument, &[&word, why], |call| call.index(Role::STATE_INDEX, &slots));
        }
        fixture.refuse(Status::WrongShape, &["state_index.shape[0]", "is 2", "3"], |call| {
            call.index(Role::STATE_INDEX, &[0, 1]);
        });
        fixture.refuse(Status::WrongShape, &["state_index", "rank 2", "1"], |call| {
            call.input(Role::STATE_INDEX, &[0i32, 1, 2], &[1, 3]);
        });
        // The smaller of two pools counts.
        fixture.refuse(Status::InvalidArgument, &["state_index[2] is 2"], |call| {
            call.index(Role::STATE_INDEX, &[0, 1, 2]);
            call.get(Role::STATE_IN).layout.shape[0] = 2;
        });
    }
}

#[test]
fn too_many_tensors() {
    let mut fixture = Fixture::named("gated_delta_rule");
    let words = [&*(MAX_TENSORS + 1).to_string(), &*format!("at most {MAX_TENSORS}")];
    fixture.refuse(Status::InvalidArgument, &words, |call| {
        let again = *call.get(Role::Q);
        call.bound.resize(MAX_TENSORS + 1, again);
    });
}

/// Each status has a number and a name of its own.
#[test]
fn statuses() {
    let mut names: Vec<&str> = Status::ALL.iter().map(|status| status.name()).collect();
    let mut numbers: Vec<i32> = Status::ALL.iter().map(|&status| status as i32).collect();
    names.sort_unstable();
    names.dedup();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!((names.len(), numbers.len()), (Status::ALL.len(), Status::ALL.len()));
}
