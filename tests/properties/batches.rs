//! Ragged and pooled calls, shared heads.

use super::*;

/// Some lengths that add up to `total`, empty ones among them.
fn lengths(rng: &mut Rng, n: usize, total: i64) -> Vec<i64> {
    let mut cuts: Vec<i64> = (0..n - 1).map(|_| rng.below(total as usize + 1) as i64).collect();
    cuts.sort_unstable();
    // An empty sequence at least.
    cuts[n / 2] = cuts[n / 2 - 1];
    let ends = cuts.iter().copied().chain([total]);
    let starts = [0].into_iter().chain(cuts.iter().copied());
    starts.zip(ends).map(|(start, end)| end - start).collect()
}

fn offsets(lengths: &[i64]) -> Vec<i32> {
    let mut all = vec![0];
    lengths.iter().for_each(|&n| all.push(all[all.len() - 1] + n as i32));
    all
}

#[test]
fn ragged_is_each_alone() {
    for mode in [Mode::Causal, Mode::Bidirectional, Mode::Cross] {
        each(mode, |rng, p| {
            if mode == Mode::Cross && p.windowed() {
                return;
            }
            let n = 4 + rng.below(3);
            let mut p = p.batch(&[0]);
            p.t = rng.below(90) as i64;
            p.s = if mode == Mode::Cross { rng.below(70) as i64 } else { p.t };
            let p = resized_batch(rng, &p);
            let (of_q, mut of_k) = (lengths(rng, n, p.t), lengths(rng, n, p.s));
            if mode != Mode::Cross {
                of_k = of_q.clone();
            }
            let (ends_q, ends_k) = (offsets(&of_q), offsets(&of_k));
            let plan = p.plan(&context());
            let states = n as i64;
            let parts: Vec<Problem> = (0..n)
                .map(|i| {
                    let range = |ends: &[i32]| i64::from(ends[i])..i64::from(ends[i + 1]);
                    let mut part = p.tokens(range(&ends_q), range(&ends_k));
                    if p.inputs.contains_key(&Role::STATE_IN) {
                        part.fill_state(rng);
                    }
                    part
                })
                .collect();
            let alone: Vec<Tensors> = parts.iter().map(|part| part.run_plan(&plan)).collect();
            let mut packed = p.clone();
            let carried: Vec<Role> =
                p.roles(RoleKind::StateIn).filter(|role| p.inputs.contains_key(role)).collect();
            for role in carried {
                let all: Vec<Array> = parts.iter().map(|part| part.inputs[&role].clone()).collect();
                packed.inputs.insert(role, Array::join(0, &all));
            }
            for (&role, array) in &mut packed.inputs {
                let of_tokens = ["T", "S"].iter().any(|size| p.axis(role, size).is_some());
                let shared = p.mechanism.role(role).unwrap().kind == RoleKind::Input && !of_tokens;
                if let Some(axis) = p.axis(role, "B").filter(|_| shared) {
                    *array = array.pick(axis, vec![0; n]);
                }
            }
            packed.indices.push((Role::CU_SEQLENS, ends_q.clone()));
            if mode == Mode::Cross {
                packed.indices.push((Role::CU_SEQLENS_K, ends_k.clone()));
            }
            let mut outputs = packed.outputs();
            for (_, array) in outputs.iter_mut().filter(|(role, _)| p.axis(**role, "T").is_none()) {
                *array = array.pick(0, vec![0; states as usize]);
            }
            problem::execute(&plan, mode, &packed.inputs, &packed.indices, &mut outputs)
                .unwrap_or_else(|error| panic!("{}: {error}", text(&packed)));
            let join = |role: Role| {
                let all: Vec<Array> = alone.iter().map(|out| out[&role].clone()).collect();
                Array::join(p.axis(role, "T").unwrap_or(0), &all)
            };
            let want = outputs.keys().map(|&role| (role, join(role))).collect();
            assert_same_bits(&outputs, &want, || format!("{of_q:?} {of_k:?} {}", text(&p)));
        });
    }
}

#[test]
fn pooled_states() {
    each_mode(|rng, p| {
        if p.mode == Mode::Transform || p.caches() {
            return;
        }
        let (b, n_slots) = (4usize, 7);
        let mut p = resized_batch(rng, &p.batch(&[0; 4]));
        p.fill_state(rng);
        let plan = p.plan(&context());
        let plain = p.run_plan(&plan);
        // Slots in disorder, with one sequence skipped.
        let mut free: Vec<i32> = (0..n_slots).collect();
        let skipped = rng.below(b);
        let slots: Vec<i32> =
            (0..b).map(|i| if i == skipped { -1 } else { free.remove(rng.below(free.len())) }).collect();
        let pool = |states: &Array, empty: f32| {
            let mut pool = states.pick(0, vec![0; n_slots as usize]);
            pool.data.fill(empty);
            let len = pool.data.len() / n_slots as usize;
            for (i, &slot) in slots.iter().enumerate().filter(|(_, slot)| **slot >= 0) {
                pool.data[slot as usize * len..][..len].copy_from_slice(&states.data[i * len..][..len]);
            }
            pool
        };
        let mut pooled = p.clone();
        pooled.indices.push((Role::STATE_INDEX, slots.clone()));
        let carried: Vec<Role> = p.roles(RoleKind::StateIn).collect();
        for &role in &carried {
            let states = pool(&p.inputs[&role], f32::NAN);
            pooled.inputs.insert(role, states);
        }
        const CANARY: f32 = -7.25e9;
        let mut outputs = p.outputs();
        outputs.get_mut(&Role::OUT).unwrap().data.fill(CANARY);
        let mut want = Tensors::new();
        let mut out = plain[&Role::OUT].clone();
        let len = out.data.len() / b;
        out.data[skipped * len..][..len].fill(CANARY);
        want.insert(Role::OUT, out);
        for &role in &carried {
            outputs.insert(out_of(role), pool(&p.inputs[&role], CANARY));
            outputs.get_mut(&out_of(role)).unwrap().data.fill(CANARY);
            want.insert(out_of(role), pool(&plain[&out_of(role)], CANARY));
        }
        problem::execute(&plan, p.mode, &pooled.inputs, &pooled.indices, &mut outputs)
            .unwrap_or_else(|error| panic!("{}: {error}", text(&pooled)));
        assert_same_bits(&outputs, &want, || format!("slots {slots:?}, {}", text(&p)));
        // In place, as engines do it: the other slots keep what they hold, even NaN.
        let mut states: Vec<(Role, Array)> =
            carried.iter().map(|&role| (role, pool(&p.inputs[&role], CANARY))).collect();
        let mut out = Array::filled(&p.shape(Role::OUT), CANARY);
        let mut args = Args::new();
        for (&role, array) in p.inputs.iter().filter(|(role, _)| !carried.contains(role)) {
            args = args.input(role, View::new(&array.data, &array.shape).unwrap());
        }
        args = args.input(Role::STATE_INDEX, View::new(&slots, &[b as i64]).unwrap());
        args = args.output(Role::OUT, ViewMut::new(&mut out.data, &out.shape).unwrap());
        for (role, array) in &mut states {
            let view = ViewMut::new(&mut array.data, &array.shape).unwrap();
            args = args.in_place(*role, out_of(*role), view);
        }
        plan.execute(p.mode, &args, &mut workspace(&plan)).unwrap();
        let mut got = Tensors::from([(Role::OUT, out)]);
        got.extend(states.into_iter().map(|(role, array)| (out_of(role), array)));
        assert_same_bits(&got, &want, || format!("in place, slots {slots:?}, {}", text(&p)));
    });
}

/// Ragged sequences with pooled states, some skipped.
#[test]
fn ragged_and_pooled() {
    each(Mode::Causal, |rng, p| {
        if p.caches() {
            return;
        }
        let mut p = resized_batch(rng, &p.batch(&[0]));
        p.inputs.retain(|role, _| p.mechanism.role(*role).unwrap().kind == RoleKind::Input);
        let lengths = lengths(rng, 4, p.t);
        let ends = offsets(&lengths);
        let slots = vec![4, -1, 0, 2];
        let plan = p.plan(&context());
        let mut outputs = p.outputs();
        let mut want = outputs.clone();
        for tensors in [&mut outputs, &mut want] {
            for (role, array) in tensors.iter_mut() {
                if *role != Role::OUT {
                    *array = array.pick(0, [0; 5]);
                }
                array.data.fill(9.0);
            }
        }
        for (i, &slot) in slots.iter().enumerate().filter(|(_, slot)| **slot >= 0) {
            let (start, end) = (i64::from(ends[i]), i64::from(ends[i + 1]));
            for (role, got) in p.tokens(start..end, start..end).run_plan(&plan) {
                let all = want.get_mut(&role).unwrap();
                if role == Role::OUT {
                    let before = all.pick(2, 0..start as usize);
                    let after = all.pick(2, end as usize..p.t as usize);
                    *all = Array::join(2, &[before, got, after]);
                } else {
                    let len = got.data.len();
                    all.data[slot as usize * len..][..len].copy_from_slice(&got.data);
                }
            }
        }
        let indices = [(Role::CU_SEQLENS, ends.clone()), (Role::STATE_INDEX, slots.clone())];
        problem::execute(&plan, p.mode, &p.inputs, &indices, &mut outputs)
            .unwrap_or_else(|error| panic!("{}: {error}", text(&p)));
        assert_same_bits(&outputs, &want, || format!("{lengths:?} {}", text(&p)));
    });
}

/// Shared heads, in blocks or cyclically, are the same as heads of their own with the same contents.
#[test]
fn shared_heads() {
    let mut n = 0;
    each_mode(|rng, p| {
        let heads: Vec<_> =
            problem::heads(p.mechanism).into_iter().filter(|[q, k, v]| q != k || k != v).collect();
        if heads.is_empty() {
            return;
        }
        n += 1;
        let mut p = p.clone();
        p.heads = rng.pick(&heads);
        let shared = p.clone();
        p.inputs.retain(|&role, _| shared.takes(role));
        let p = resized_batch(rng, &p);
        let cyclic = p.word("head_map") == "cyclic";
        let [q, k, v] = p.heads.map(|n| n as usize);
        let (state, out) = (k.max(v), q.max(k).max(v));
        let read = |h: usize, of: usize, n: usize| if cyclic { h % n } else { h / (of / n) };
        let of_state: Vec<usize> = (0..out).map(|h| read(h, out, state)).collect();
        let expand = |array: &Array, axes: &[&str]| {
            let single = |name: &str| -> Option<Vec<usize>> {
                Some(match name {
                    "H" => (0..out).map(|h| read(h, out, q)).collect(),
                    "Hk" => of_state.iter().map(|&s| read(s, state, k)).collect(),
                    "Hv" => of_state.iter().map(|&s| read(s, state, v)).collect(),
                    "Hs" => of_state.clone(),
                    _ => return None,
                })
            };
            // Pairs of heads; heads that have one entry for all.
            let head = |name: &str| match name.strip_prefix("2*") {
                Some(name) => single(name).map(|all| all.iter().flat_map(|&h| [2 * h, 2 * h + 1]).collect()),
                None => single(name),
            };
            let name = |axis: usize| axes[axis].strip_suffix("|1").unwrap_or(axes[axis]);
            let own = |&axis: &usize| head(name(axis)).is_some() && array.shape[axis] > 1;
            let axis = (0..axes.len()).find(own);
            axis.map_or(array.clone(), |axis| array.pick(axis, head(name(axis)).unwrap()))
        };
        let mut own = p.clone();
        own.heads = [out as i64; 3];
        for (&role, array) in &mut own.inputs {
            *array = expand(array, &p.axes(role));
        }
        let want = own.run(&context());
        let mut got = p.run(&context());
        for (&role, array) in &mut got {
            *array = expand(array, &p.axes(role));
        }
        assert_same_bits(&got, &want, || text(&p));
    });
    assert!(n * 100 > 50 * problem::percent(), "only {n} problems with shared heads");
}
