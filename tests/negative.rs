//! Every status that a call of the Rust API can give: the message names the argument, what was given and what is
//! expected; nothing is written; the plan still works afterwards. Planning: `negative_plan.rs`; gradients:
//! `negative_backward.rs`.
//!
//! `OutOfMemory` and `WrongStruct` belong to the C interface and to failing allocations, and are tested there.

mod common;

use common::problem::{self, Problem, Tensors, assert_same_bits, context, mechanisms};
use common::refusal::{Bound, CANARY, Call, expect};
use common::support::Rng;
use subquad::catalog;
use subquad::{DType, Desc, Error, Layout, MAX_TENSORS, Mode, Plan, Role, Status};

fn execute(call: &mut Call, plan: &Plan) -> Result<(), Error> {
    call.run(|mode, args, workspace| plan.execute(mode, args, workspace))
}

/// A plan, a call that it runs, and what that gives.
struct Fixture {
    problem: Problem,
    plan: Plan,
    inputs: Tensors,
    outputs: Tensors,
    want: Tensors,
}

impl Fixture {
    fn of(problem: Problem) -> Fixture {
        Fixture::seeded(problem, 7)
    }

    fn seeded(problem: Problem, seed: u64) -> Fixture {
        let problem = problem.fill(&mut Rng::new(seed), true);
        let plan = problem.plan(&context());
        let want = problem.run_plan(&plan);
        let mut outputs = problem.outputs();
        outputs.values_mut().for_each(|array| array.data.fill(CANARY));
        let inputs = problem.inputs.clone();
        Fixture { problem, plan, inputs, outputs, want }
    }

    /// Heads that are shared, dimensions that all differ.
    fn named(name: &str) -> Fixture {
        Fixture::of(Problem::named(name).sized([2, 2, 4], (8, 6), 3, 5))
    }

    fn call(&mut self) -> Call {
        let mut bound = Vec::new();
        for (out, tensors) in [(false, &mut self.inputs), (true, &mut self.outputs)] {
            for (&role, array) in tensors {
                let layout = Layout::contiguous(&array.shape).unwrap();
                let data = array.data.as_mut_ptr().cast();
                bound.push(Bound { role, out, data, dtype: DType::F32, layout });
            }
        }
        Call { mode: self.problem.mode, bound, workspace: problem::workspace(&self.plan) }
    }

    /// A call with this change is refused, with this status and these words; see the top of this file.
    #[track_caller]
    fn refuse(&mut self, status: Status, words: &[&str], change: impl FnOnce(&mut Call)) {
        let mut call = self.call();
        change(&mut call);
        let error = execute(&mut call, &self.plan).expect_err("the call is refused");
        expect(&error, status, words);
        assert_eq!(self.inputs, self.problem.inputs, "an input was written");
        for (role, array) in &self.outputs {
            assert!(array.data.iter().all(|&x| x == CANARY), "{role} was written");
        }
        self.works();
    }

    #[track_caller]
    fn works(&mut self) {
        execute(&mut self.call(), &self.plan).expect("the plain call works");
        assert_same_bits(&self.outputs, &self.want, || "after a refused call".into());
        self.outputs.values_mut().for_each(|array| array.data.fill(CANARY));
    }
}

#[test]
fn mode_not_planned() {
    let mut fixture = Fixture::named("gated_delta_rule");
    for mode in [Mode::Step, Mode::Cross, Mode::Draw] {
        fixture.refuse(Status::Unsupported, &["mode", mode.name(), "desc.modes"], |call| call.mode = mode);
    }
}

#[test]
fn wrong_roles() {
    let mut fixture = Fixture::named("gated_delta_rule");
    let ones = [1f32; 64];
    fixture
        .refuse(Status::WrongRole, &["dt", "no such role"], |call| call.input(Role::DT, &ones, &[2, 4, 5]));
    fixture.refuse(Status::WrongRole, &["dq", "belongs to backward"], |call| {
        let bound = Bound { role: Role::Q.grad(), ..*call.get(Role::OUT) };
        call.bound.push(bound);
    });
    for role in [Role::Q, Role::K, Role::G, Role::BETA, Role::STATE_IN] {
        let word = role.to_string();
        fixture.refuse(Status::WrongRole, &[&word, "it is an input"], |call| call.get(role).out = true);
    }
    for role in [Role::OUT, Role::STATE_OUT] {
        let word = role.to_string();
        fixture.refuse(Status::WrongRole, &[&word, "it is an output"], |call| call.get(role).out = false);
    }
    fixture.refuse(Status::WrongRole, &["cu_seqlens", "it is an input"], |call| {
        call.index(Role::CU_SEQLENS, &[0, 5]);
        call.get(Role::CU_SEQLENS).out = true;
    });
    for role in [Role::Q, Role::OUT, Role::STATE_OUT] {
        let word = role.to_string();
        fixture.refuse(Status::WrongRole, &[&word, "bound twice"], |call| {
            let again = *call.get(role);
            call.bound.push(again);
        });
    }
}

/// Roles that parameters rule out, or ask for.
#[test]
fn roles_by_parameters() {
    let ones = [1f32; 2048];
    let mut plain =
        Fixture::of(Problem::named("linear").param("normalize", "none").sized([2, 2, 2], (8, 6), 3, 5));
    plain.refuse(Status::WrongRole, &["z_in", "denominator"], |call| {
        call.input(Role::Z_IN, &ones, &[3, 2, 8])
    });
    plain.refuse(Status::WrongRole, &["shift_in", "exp"], |call| {
        call.input(Role::SHIFT_IN, &ones, &[3, 2, 8])
    });
    plain.refuse(Status::WrongRole, &["gate", "rms_gate"], |call| {
        call.input(Role::GATE, &ones, &[3, 2, 5, 6])
    });
    plain.refuse(Status::WrongRole, &["out_norm_weight", "norm"], |call| {
        call.input(Role::OUT_NORM_WEIGHT, &ones, &[6]);
    });
    let mut gated =
        Fixture::of(Problem::named("gla").param("normalize", "rms_gate").sized([2, 2, 2], (8, 6), 3, 5));
    gated.refuse(Status::MissingRole, &["gate", "rms_gate"], |call| call.remove(Role::GATE));
    let mut all =
        Fixture::of(Problem::named("gla").param("normalize", "srms_all").sized([2, 2, 2], (8, 6), 3, 5));
    all.refuse(Status::WrongShape, &["out_norm_weight.shape[0]", "is 6", "12"], |call| {
        call.remove(Role::OUT_NORM_WEIGHT);
        call.input(Role::OUT_NORM_WEIGHT, &ones, &[6]);
    });
}

/// Weights of feature maps: asked for by parameters, ruled out without them.
#[test]
fn roles_of_feature_maps() {
    let ones = [1f32; 2048];
    let sized = |p: Problem| Fixture::of(p.sized([2, 2, 2], (8, 6), 3, 5));
    let mut rfa = sized(Problem::named("rfa_gate"));
    rfa.refuse(Status::MissingRole, &["role w is missing"], |call| call.remove(Role::W));
    rfa.refuse(Status::WrongShape, &["w.shape[0]", "is 12", "11"], |call| {
        call.remove(Role::W);
        call.input(Role::W, &ones, &[12, 8]);
    });
    let mut plain = sized(Problem::named("rfa_gate").param("feature_map", "elu1"));
    for (role, shape) in [(Role::W, &[11, 8][..]), (Role::SIGMA, &[2, 8])] {
        let name = role.to_string();
        plain.refuse(Status::WrongRole, &[&name, "feature_map = rfa"], |call| call.input(role, &ones, shape));
    }
    let mut grouped = Fixture::of(Problem::named("rfa_gate").sized([4, 2, 2], (8, 6), 3, 5));
    grouped.refuse(Status::WrongRole, &["sigma", "heads_q", "heads_k"], |call| {
        call.input(Role::SIGMA, &ones, &[4, 8]);
    });

    let mut bare = sized(Problem::named("hedgehog"));
    bare.refuse(Status::WrongRole, &["w_q", "parameter F"], |call| call.input(Role::W_Q, &ones, &[2, 8, 8]));
    bare.refuse(Status::WrongRole, &["b_qk", "parameter F"], |call| call.input(Role::B_QK, &ones, &[8]));
    let mut split = sized(Problem::named("hedgehog").param("F", 9));
    split.refuse(Status::MissingRole, &["role w_k is missing"], |call| call.remove(Role::W_K));
    split.refuse(Status::WrongRole, &["w_qk", "concat"], |call| call.input(Role::W_QK, &ones, &[8, 9]));
    let mut concat = sized(Problem::named("hedgehog").param("F", 9).param("form", "concat"));
    concat.refuse(Status::MissingRole, &["role w_qk is missing"], |call| call.remove(Role::W_QK));
    concat.refuse(Status::WrongRole, &["b_q", "split"], |call| call.input(Role::B_Q, &ones, &[2, 9]));

    let mut gated = sized(Problem::named("feature_fixation"));
    let pair = [(Role::W_GATE_K, &[6, 18][..], Role::B_GATE_K), (Role::B_GATE_K, &[6], Role::W_GATE_K)];
    for (role, shape, other) in pair {
        let word = format!("role {other} is missing");
        gated.refuse(Status::MissingRole, &[&word, "comes with"], |call| {
            call.bound.retain(|bound| ![role, other].contains(&bound.role));
            call.input(role, &ones, shape);
        });
    }

    for mode in [Mode::Bidirectional, Mode::Cross] {
        let mut p = Problem::named("dijiang");
        p.mode = mode;
        sized(p).refuse(Status::WrongRole, &["decay", "order of tokens"], |call| {
            call.input(Role::DECAY, &ones, &[2]);
        });
    }
}

/// Positions of cosFormer stay within its period, those of each sequence of a packed call.
#[test]
fn positions_beyond_the_period() {
    for (mode, t, s) in [(Mode::Causal, 5, 5), (Mode::Cross, 3, 5), (Mode::Cross, 5, 3)] {
        let of = |period: f64| {
            let mut p = Problem::named("cosformer").param("period", period).param("position0", 3);
            p = p.sized([2, 2, 2], (8, 6), 1, t);
            (p.mode, p.s) = (mode, s);
            p
        };
        // The last position is 7.
        let problem = of(7.0).fill(&mut Rng::new(7), false);
        problem.run(&context());
        let short = Problem { params: of(6.5).params, ..problem };
        let refused =
            problem::execute(&short.plan(&context()), mode, &short.inputs, &[], &mut short.outputs());
        expect(&refused.unwrap_err(), Status::ParameterRange, &["period", "is 6.5", "at least 7"]);
    }
    let mut p = Problem::named("cosformer").param("period", 4.0).sized([1, 1, 1], (4, 4), 1, 7);
    p.indices.push((Role::CU_SEQLENS, vec![0, 4, 7]));
    p.inputs = p.clone().fill(&mut Rng::new(7), false).inputs;
    let outputs = |p: &Problem| Tensors::from([(Role::OUT, p.outputs()[&Role::OUT].clone())]);
    let plan = p.plan(&context());
    problem::execute(&plan, p.mode, &p.inputs, &p.indices, &mut outputs(&p)).unwrap();
    p.indices[0].1[1] = 2;
    let refused = problem::execute(&plan, p.mode, &p.inputs, &p.indices, &mut outputs(&p));
    expect(&refused.unwrap_err(), Status::ParameterRange, &["period", "is 4", "at least 5"]);
}

#[test]
fn missing_roles() {
    for mechanism in mechanisms() {
        let p = Problem::new(mechanism, vec![]).sized([2, 2, 2], (8, 6), 3, 5);
        let mut fixture = Fixture::of(p);
        let specs = mechanism.roles.iter();
        for spec in specs.filter(|spec| spec.required || spec.role == Role::OUT) {
            let word = format!("role {} is missing", spec.role);
            fixture.refuse(Status::MissingRole, &[&word], |call| call.remove(spec.role));
        }
    }
}

/// What a gate takes depends on its form, and the rank of its other tensors on that of `x`.
#[test]
fn roles_of_gates() {
    let ones = [1f32; 512];
    let gate = |form: &str, alternative| {
        let p = Problem::named("gate").param("form", form).sized([2, 2, 2], (8, 6), 3, 5);
        // The fixture draws the alternative: take the first seed that gives this one.
        let drawn = |seed| Fixture::seeded(p.clone(), seed);
        (0..).map(drawn).find(|fixture| fixture.problem.alternative == alternative).unwrap()
    };
    for alternative in [0, 1] {
        for form in ["logsigmoid", "sigmoid"] {
            let mut fixture = gate(form, alternative);
            for role in [Role::A_LOG, Role::DT_BIAS] {
                let words = [&*role.to_string(), "softplus and lower_bound"];
                fixture.refuse(Status::WrongRole, &words, |call| call.input(role, &ones, &[2]));
            }
        }
        for form in ["softplus", "lower_bound"] {
            let mut fixture = gate(form, alternative);
            fixture.refuse(Status::MissingRole, &["a_log", "have a rate"], |call| call.remove(Role::A_LOG));
            let wrong = [&[2i64, 8][..], &[2]][alternative];
            let words = ["dt_bias", "rank", &*wrong.len().to_string(), &*(3 - wrong.len()).to_string()];
            fixture.refuse(Status::WrongShape, &words, |call| {
                call.remove(Role::DT_BIAS);
                call.input(Role::DT_BIAS, &ones, wrong);
            });
            fixture.refuse(Status::WrongRole, &["cu_seqlens", "transform"], |call| {
                call.index(Role::CU_SEQLENS, &[0, 5]);
            });
            fixture.refuse(Status::WrongRole, &["state_index", "transform"], |call| {
                call.index(Role::STATE_INDEX, &[0, 1, 2]);
            });
        }
    }
}

/// Mamba-2 needs a step size and a decay, each in one of its forms.
#[test]
fn missing_group() {
    let mut fixture = Fixture::of(Problem::named("mamba2").sized([2, 2, 4], (8, 6), 3, 5));
    let groups = [("dt", [Role::DT, Role::DT_RAW]), ("decay_rate", [Role::DECAY_RATE, Role::G])];
    for (word, roles) in groups {
        let word = format!("role {word} is missing");
        fixture.refuse(Status::MissingRole, &[&word, "another role of its group"], |call| {
            roles.into_iter().for_each(|role| call.remove(role));
        });
    }
}

/// A normaliser without its state, or the other way round, would be silently wrong.
#[test]
fn half_a_state() {
    let of_linear = [Role::STATE_IN, Role::Z_IN, Role::STATE_OUT, Role::Z_OUT];
    let of_slots = [Role::STATE_K_IN, Role::STATE_V_OUT, Role::LSE_IN, Role::LSE_OUT];
    let of_mean = [Role::STATE_IN, Role::COUNT_IN, Role::STATE_OUT, Role::COUNT_OUT];
    for (name, heads, parts) in
        [("linear", [4, 2, 2], of_linear), ("abc", [4, 2, 2], of_slots), ("lavo", [2, 2, 2], of_mean)]
    {
        let mut fixture = Fixture::of(Problem::named(name).sized(heads, (8, 6), 3, 5));
        for part in parts {
            let word = format!("role {part} is missing");
            fixture.refuse(Status::MissingRole, &[&word, "comes whole"], |call| call.remove(part));
        }
    }
}

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
            for axis in 0..rank {
                for wrong in [shape[axis] - 1, shape[axis] + 1, 0, -1] {
                    // Where a size is free, the tensor that disagrees is the one that is named.
                    let free = matches!(fixture.problem.axes(role)[axis], "B" | "T" | "S") && wrong >= 0;
                    let named = format!("{name}.shape[{axis}] is {wrong}");
                    let words: &[&str] =
                        if free { &[".shape[", "is "] } else { &[&named, &shape[axis].to_string()] };
                    let words = if wrong == -1 { &words[..1] } else { words };
                    fixture.refuse(Status::WrongShape, words, |call| {
                        let mut shape = shape.clone();
                        shape[axis] = wrong.max(0);
                        let layout = &mut call.get(role).layout;
                        *layout = Layout::contiguous(&shape).unwrap();
                        layout.shape[axis] = wrong;
                    });
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
