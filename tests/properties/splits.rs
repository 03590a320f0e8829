//! Calls in pieces, as steps, with other values and with none.

use super::*;

#[test]
fn split_at_chunks() {
    each(Mode::Causal, |rng, p| {
        if !p.splits_exactly() {
            return;
        }
        let mut t = 17 + rng.below(80) as i64;
        if p.caches() {
            // Fewer queries than a chunk are summed up otherwise.
            t = (t + 15) / 16 * 16;
        }
        let p = resized(rng, &p, t);
        let plan = p.plan(&context());
        let whole = p.run_plan(&plan);
        assert_lively(&whole, || text(&p));
        let mut ends: Vec<i64> = (1..(t + 15) / 16).map(|n| 16 * n).filter(|_| rng.one_in(2)).collect();
        if ends.is_empty() {
            ends.push(16);
        }
        ends.push(t);
        assert_same_bits(&p.run_pieces(&plan, &ends), &whole, || format!("ends {ends:?}, {}", text(&p)));
    });
}

#[test]
fn split_anywhere() {
    each(Mode::Causal, |rng, mut p| {
        if !p.splits() {
            return;
        }
        // A state in plain scale too, which is not the same bits as one with its shift.
        p.shift = rng.one_in(2);
        p.inputs.remove(&Role::SHIFT_IN);
        if p.inputs.contains_key(&Role::STATE_IN) {
            p.fill_state(rng);
        }
        let t = 2 + rng.below(50) as i64;
        let p = resized(rng, &p, t);
        let plan = p.plan(&context());
        let mut ends: Vec<i64> = (0..1 + rng.below(3)).map(|_| rng.below(t as usize + 1) as i64).collect();
        ends.sort_unstable();
        ends.push(t);
        let pieces = p.run_pieces(&plan, &ends);
        oracle::check(&pieces, &oracle::expect(&p), || format!("ends {ends:?}, {}", text(&p)));
    });
}

#[test]
fn steps_are_a_prefill() {
    each(Mode::Causal, |rng, mut p| {
        if !p.mechanism.modes.contains(&Mode::Step) || !p.splits() {
            return;
        }
        p.shift = rng.one_in(2);
        p.inputs.remove(&Role::SHIFT_IN);
        if p.inputs.contains_key(&Role::STATE_IN) {
            p.fill_state(rng);
        }
        let t = 1 + rng.below(40) as i64;
        let mut p = resized(rng, &p, t);
        let want = oracle::expect(&p);
        oracle::check(&p.run(&context()), &want, || text(&p));
        p.mode = Mode::Step;
        let ends: Vec<i64> = (1..=t).collect();
        let steps = p.run_pieces(&p.plan(&context()), &ends);
        oracle::check(&steps, &want, || format!("as steps, {}", text(&p)));
    });
}

/// Four times the values and state are four times the output, exactly; a sum of them is the sum, within tolerance.
#[test]
fn linear_in_values() {
    let mut linear = 0;
    each_mode(|rng, mut p| {
        // The oracle is slow where the state is large.
        if !p.is_linear_in_v() || p.t == 0 || p.d > 40 {
            return;
        }
        linear += 1;
        p.fill_state(rng);
        let plan = p.plan(&context());
        let once = p.run_plan(&plan);
        let scaled = |tensors: &mut Tensors, factor: f32, roles: &[Role]| {
            for role in roles {
                tensors.get_mut(role).unwrap().data.iter_mut().for_each(|x| *x *= factor);
            }
        };
        let mut fourfold = p.clone();
        let values = p.bound(&[Role::V, p.value_state()]);
        scaled(&mut fourfold.inputs, 4.0, &values);
        let mut want = once.clone();
        let mut linear = vec![Role::OUT];
        linear.extend(values.iter().filter(|role| **role != Role::V).map(|&role| out_of(role)));
        scaled(&mut want, 4.0, &linear);
        let got = fourfold.run_plan(&plan);
        for (role, want) in &want {
            for (&g, &w) in got[role].data.iter().zip(&want.data) {
                // What has all but decayed may be flushed in one and not in the other.
                let same = g == w || (g - w).abs() < 1e-30;
                assert!(same, "{role} is {g:e} for {w:e}: {}", text(&p));
            }
        }

        let mut other = p.clone();
        for &role in &values {
            let values = p.values(rng, role);
            other.inputs.insert(role, values);
        }
        let mut sum = p.clone();
        for role in values {
            let terms = &other.inputs[&role].data;
            sum.inputs.get_mut(&role).unwrap().data.iter_mut().zip(terms).for_each(|(x, y)| *x += y);
        }
        let (got, second) = (sum.run_plan(&plan), other.run_plan(&plan));
        let bounds = [&p, &other, &sum].map(oracle::expect);
        for (role, got) in got.into_iter().filter(|(role, _)| linear.contains(role)) {
            for (i, &x) in got.data.iter().enumerate() {
                let want = f64::from(once[&role].data[i]) + f64::from(second[&role].data[i]);
                // The sum of two inputs is rounded, too.
                let tolerance: f64 = bounds.iter().map(|bound| bound[&role].tolerance[i]).sum();
                assert!((f64::from(x) - want).abs() <= tolerance, "{role} {i}: {x} for {want}, {}", text(&p));
            }
        }
    });
    assert!(linear * 100 > 50 * problem::percent(), "only {linear} linear problems");
}

#[test]
fn nothing_to_do() {
    each_mode(|rng, mut p| {
        p.fill_state(rng);
        // No sequence.
        let none = p.batch(&[]);
        let got = none.run(&context());
        assert!(got.values().all(|array| array.data.is_empty()));
        // No token. A step always has one.
        if p.mode == Mode::Step {
            return;
        }
        (p.t, p.s) = (0, 0);
        let p = resized_batch(rng, &p);
        let mut got = p.run(&context());
        got.retain(|role, array| p.axis(*role, "T").is_none() || !array.data.is_empty());
        let carried = p.inputs.iter().filter(|(role, _)| p.roles(RoleKind::StateIn).any(|own| own == **role));
        let want: Tensors = carried.map(|(&role, array)| (out_of(role), array.clone())).collect();
        assert!(!want.is_empty() || p.roles(RoleKind::StateIn).next().is_none());
        assert_same_bits(&got, &want, || text(&p));
        // Without a state there is the initial one.
        let mut fresh = p.clone();
        fresh.inputs.retain(|role, _| p.mechanism.role(*role).unwrap().kind == RoleKind::Input);
        let got = fresh.run(&context());
        for role in p.roles(RoleKind::StateIn) {
            let log = matches!(role, Role::SHIFT_IN | Role::LSE_IN);
            let initial = if log { f32::NEG_INFINITY } else { 0.0 };
            assert!(got[&out_of(role)].data.iter().all(|&x| x == initial), "{role} of {}", text(&p));
        }
    });
}
