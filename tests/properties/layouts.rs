//! Batches, strides, layouts, states in place.

use super::*;

#[test]
fn batch_order() {
    each_mode(|rng, p| {
        let p = p.batch(&[0, 0, 0, 0]);
        let mut p = resized_batch(rng, &p);
        let plan = p.plan(&context());
        let whole = p.run_plan(&plan);
        let order = rng.pick(&[[3, 1, 0, 2], [1, 2, 3, 0], [2, 0, 3, 1]]);
        let permuted = p.batch(&order).run_plan(&plan);
        let by_hand = whole.iter().map(|(&role, array)| (role, array.pick(0, order))).collect();
        assert_same_bits(&permuted, &by_hand, || format!("{order:?} of {}", text(&p)));
        // One at a time, too.
        let one = rng.below(4);
        let alone = p.batch(&[one]).run_plan(&plan);
        let by_hand = whole.iter().map(|(&role, array)| (role, array.pick(0, [one]))).collect();
        assert_same_bits(&alone, &by_hand, || format!("entry {one} of {}", text(&p)));
        p.b = 4;
    });
}

#[test]
fn any_strides() {
    each_mode(|rng, p| {
        let plan = p.plan(&context());
        let plain = p.run_plan(&plan);
        for _ in 0..2 {
            let inputs: Vec<_> = p.inputs.iter().map(|(&role, a)| (role, Strided::random(rng, a))).collect();
            let outputs = p.outputs().iter().map(|(&role, a)| (role, Strided::random(rng, a))).collect();
            let got = run_strided(&plan, &p, &inputs, outputs);
            let strides: Vec<_> = inputs.iter().map(|(role, s)| (role, s.stride.clone())).collect();
            assert_same_bits(&got, &plain, || format!("{strides:?}, {}", text(&p)));
        }
    });
}

/// The layouts of other libraries: tokens before heads, padded rows, states transposed.
#[test]
fn layouts_of_others() {
    each_mode(|_, p| {
        let plan = p.plan(&context());
        let plain = p.run_plan(&plan);
        let arrange = |role: Role, array: &Array| {
            let rank = array.shape.len();
            let mut order: Vec<usize> = (0..rank).collect();
            let kind = p.mechanism.role(role).unwrap().kind;
            let state = matches!(kind, RoleKind::StateIn | RoleKind::StateOut);
            match rank {
                4 if state => order.swap(2, 3),
                3 | 4 if p.axis(role, "T").or(p.axis(role, "S")) == Some(2) => order.swap(1, 2),
                _ => {}
            }
            let mut pad = vec![0; rank];
            if rank == 4 && !state {
                pad[2] = 8;
            }
            (role, Strided::new(array, &order, &pad, &vec![false; rank]))
        };
        let inputs: Vec<_> = p.inputs.iter().map(|(&role, a)| arrange(role, a)).collect();
        let outputs = p.outputs().iter().map(|(&role, a)| arrange(role, a)).collect();
        assert_same_bits(&run_strided(&plan, &p, &inputs, outputs), &plain, || text(&p));
    });
}

#[test]
fn broadcast_inputs() {
    each_mode(|rng, mut p| {
        let plan = p.plan(&context());
        let mut inputs = Vec::new();
        let roles: Vec<Role> = p.inputs.keys().copied().collect();
        let mut broadcast = 0;
        for role in roles {
            let array = &p.inputs[&role];
            let axis = rng.below(array.shape.len());
            let n = array.shape[axis];
            if n == 0 || rng.one_in(3) {
                inputs.push((role, Strided::random(rng, array)));
                continue;
            }
            let one = array.pick(axis, [0]);
            let same = array.pick(axis, vec![0; n as usize]);
            inputs.push((role, Strided::random(rng, &one).broadcast(axis, n)));
            p.inputs.insert(role, same);
            broadcast += 1;
        }
        let outputs = p.outputs().iter().map(|(&r, a)| (r, Strided::random(rng, a))).collect();
        let got = run_strided(&plan, &p, &inputs, outputs);
        assert_same_bits(&got, &p.run_plan(&plan), || format!("{broadcast} roles, {}", text(&p)));
    });
}

/// A state that is read and written in one place gives what two places give.
#[test]
fn in_place_state() {
    each_mode(|rng, mut p| {
        if p.caches() {
            return;
        }
        p.fill_state(rng);
        let plan = p.plan(&context());
        let want = p.run_plan(&plan);
        let strided = rng.one_in(2);
        let carried: Vec<Role> = p.roles(RoleKind::StateIn).collect();
        let mut states: Vec<(Role, Strided)> = carried
            .iter()
            .map(|&role| {
                let array = &p.inputs[&role];
                let rank = array.shape.len();
                let order: Vec<usize> = (0..rank).collect();
                let plain = Strided::new(array, &order, &vec![0; rank], &vec![false; rank]);
                (role, if strided { Strided::random(rng, array) } else { plain })
            })
            .collect();
        let mut out = Array::filled(&p.shape(Role::OUT), f32::NAN);
        let mut args = Args::new();
        for (&role, array) in p.inputs.iter().filter(|(role, _)| !carried.contains(role)) {
            args = args.input(role, View::new(&array.data, &array.shape).unwrap());
        }
        args = args.output(Role::OUT, ViewMut::new(&mut out.data, &out.shape).unwrap());
        for (role, strided) in &mut states {
            args = args.in_place(*role, out_of(*role), strided.view_mut());
        }
        plan.execute(p.mode, &args, &mut workspace(&plan)).unwrap_or_else(|e| panic!("{}: {e}", text(&p)));
        let mut got = Tensors::from([(Role::OUT, out)]);
        got.extend(states.iter().map(|(role, strided)| (out_of(*role), strided.read())));
        assert_same_bits(&got, &want, || text(&p));
    });
}

/// The properties above on the other instruction sets, in short: strides and splits choose other paths there.
#[test]
fn every_isa() {
    for isa in problem::isas() {
        let context = problem::context_of(isa);
        each_mode(|rng, p| {
            let plan = p.plan(&context);
            let plain = p.run_plan(&plan);
            let inputs: Vec<_> = p.inputs.iter().map(|(&role, a)| (role, Strided::random(rng, a))).collect();
            let outputs = p.outputs().iter().map(|(&role, a)| (role, Strided::random(rng, a))).collect();
            assert_same_bits(&run_strided(&plan, &p, &inputs, outputs), &plain, || {
                format!("{isa}: {}", text(&p))
            });
            if p.mode == Mode::Causal && p.t > 16 && p.splits_exactly() && (!p.caches() || p.t >= 32) {
                let pieces = p.run_pieces(&plan, &[16, p.t]);
                assert_same_bits(&pieces, &plain, || format!("split, {isa}: {}", text(&p)));
            }
        });
    }
    assert!(problem::isas().contains(&Isa::Scalar));
}
