//! Chains, ragged and pooled calls, resets.

use super::*;

/// Adds up, as shared parameters do over sequences.
fn add(to: &mut Array, from: &Array) {
    to.data.iter_mut().zip(&from.data).for_each(|(x, y)| *x += y);
}

/// Panics unless all numbers are close, on the scale of the largest of their tensor, or of gradients near 1 where
/// they cancel.
#[track_caller]
fn assert_close(got: &Tensors, want: &Tensors, bound: f32, what: impl Fn() -> String) {
    assert!(got.keys().eq(want.keys()), "{}", what());
    for (role, want) in want {
        let largest = want.data.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        for (i, (&g, &w)) in got[role].data.iter().zip(&want.data).enumerate() {
            let at = || index_of(i, &want.shape);
            let close = (g - w).abs() <= bound * largest + 1e-5;
            assert!(close, "{role}{:?} is {g:e} for {w:e}, largest {largest:e}: {}", at(), what());
        }
    }
}

/// A sequence in two pieces, the state handed over forward and its gradient backward, is the whole sequence.
#[test]
fn chained() {
    let mut n = 0;
    each(middling, |rng, b| {
        if b.p.mode != Mode::Causal || b.p.t != b.p.s || b.p.t < 2 || !well_conditioned(&with_states(&b).p) {
            return;
        }
        if b.states().is_empty() || !b.p.splits() {
            return;
        }
        n += 1;
        let b = with_states(&b);
        let (plan, t) = (b.p.plan(&context()), b.p.t);
        let cut = 1 + rng.below(t as usize - 1) as i64;
        let first = b.tokens(0..cut, 0..cut);
        let mut last = b.tokens(cut..t, cut..t);
        last.p = last.p.advanced(cut);
        last.p.carry(&first.p.run_plan(&plan));
        // Where positions count, a plan of its own.
        let last = last.run(&context());
        let mut handed = first.clone();
        handed.given.retain(|&role, _| role == Role::OUT.grad());
        for role in b.states() {
            handed.given.insert(out_of(role).grad(), last[&role.grad()].clone());
        }
        let first = handed.run_plan(&plan);
        let mut joined = Tensors::new();
        for (&role, array) in &first {
            let axis = b.p.axis(role.base(), "T").or(b.p.axis(role.base(), "S"));
            let both = match axis {
                Some(axis) => Array::join(axis, &[array.clone(), last[&role].clone()]),
                // The state's comes from the beginning; what all tokens share is a sum.
                None if b.p.roles(RoleKind::StateIn).any(|own| own == role.base()) => array.clone(),
                None => {
                    let mut sum = array.clone();
                    add(&mut sum, &last[&role]);
                    sum
                }
            };
            joined.insert(role, both);
        }
        assert_close(&joined, &b.run_plan(&plan), 1e-4, || format!("cut at {cut}: {}", text(&b)));
    });
    assert!(n * 100 > 40 * problem::percent(), "only {n} problems");
}

/// Lengths of packed sequences, an empty one among them.
fn offsets(rng: &mut Rng, n: usize, total: i64) -> Vec<i32> {
    let mut cuts: Vec<i32> = (0..n - 1).map(|_| rng.below(total as usize + 1) as i32).collect();
    cuts.sort_unstable();
    cuts[n / 2] = cuts[n / 2 - 1];
    [0].into_iter().chain(cuts).chain([total as i32]).collect()
}

/// Packed sequences with states in a pool: each is what it is alone; slots and rows of skipped ones are untouched.
#[test]
fn ragged_and_pooled() {
    const CANARY: f32 = -7.25e9;
    each(middling, |rng, b| {
        // Without a state to hand over: `tests/softmax_gradients.rs`.
        if b.p.mode != Mode::Causal || b.p.t != b.p.s || b.p.caches() {
            return;
        }
        let mut b = b.batch(&[0]);
        let t = b.p.t;
        let (ends, states) = (offsets(rng, 4, t), b.states());
        // A state without a gradient is left out.
        let slots = if states.is_empty() { vec![0; 4] } else { vec![3, -1, 0, 4] };
        let bound = states.iter().any(|role| b.p.inputs.contains_key(role));
        let carried: Vec<Role> = b.p.roles(RoleKind::StateIn).filter(|role| !states.contains(role)).collect();
        b.p.inputs.retain(|role, _| !carried.contains(role));
        b.given.retain(|&role, _| role == Role::OUT.grad());
        // Pools of five and six slots.
        let mut pooled = b.clone();
        for &role in &states {
            pooled.p.b = 5;
            let values = if bound { Some(pooled.p.values(rng, role)) } else { None };
            pooled.p.b = 6;
            let given = noise(rng, &pooled.p.shape(role));
            pooled.given.insert(out_of(role).grad(), given);
            if let Some(values) = values {
                pooled.p.inputs.insert(role, values);
            }
        }
        pooled.p.b = 1;
        let plan = b.p.plan(&context());
        let (mut got, mut want) = (b.outputs(), Tensors::new());
        for (&role, array) in &mut got {
            if states.contains(&role.base()) {
                *array = array.pick(0, [0; 5]);
            }
            array.data.fill(CANARY);
            want.insert(role, array.clone());
        }
        for (&role, array) in &mut want {
            if !b.per_sequence(role) {
                array.data.fill(0.0);
            }
        }
        for (i, &slot) in slots.iter().enumerate().filter(|(_, slot)| **slot >= 0) {
            let (start, end) = (i64::from(ends[i]), i64::from(ends[i + 1]));
            let mut alone = b.tokens(start..end, start..end);
            for (&role, pool) in pooled.p.inputs.iter().filter(|(role, _)| states.contains(role)) {
                alone.p.inputs.insert(role, pool.pick(0, [slot as usize]));
            }
            for &role in &states {
                let role = out_of(role).grad();
                alone.given.insert(role, pooled.given[&role].pick(0, [slot as usize]));
            }
            for (role, array) in alone.run_plan(&plan) {
                let all = want.get_mut(&role).unwrap();
                let axis = b.p.axis(role.base(), "T").or(b.p.axis(role.base(), "S"));
                if states.contains(&role.base()) {
                    let len = array.data.len();
                    all.data[slot as usize * len..][..len].copy_from_slice(&array.data);
                } else if let Some(axis) = axis {
                    let before = all.pick(axis, 0..start as usize);
                    let after = all.pick(axis, end as usize..t as usize);
                    *all = Array::join(axis, &[before, array, after]);
                } else {
                    add(all, &array);
                }
            }
        }
        pooled.p.indices = vec![(Role::CU_SEQLENS, ends.clone())];
        if !states.is_empty() {
            pooled.p.indices.push((Role::STATE_INDEX, slots.clone()));
        }
        pooled.call(&plan, &mut got).unwrap_or_else(|error| panic!("{}: {error}", text(&pooled)));
        let split = |all: Tensors| -> (Tensors, Tensors) {
            all.into_iter().partition(|(role, _)| b.per_sequence(*role))
        };
        let ((own, shared), (want, sums)) = (split(got), split(want));
        assert_same_bits(&own, &want, || format!("ends {ends:?}, {}", text(&pooled)));
        assert_close(&shared, &sums, 1e-5, || format!("ends {ends:?}, {}", text(&pooled)));
    });
}

/// Shapes without a token, without a sequence, without either: gradients of the state pass through.
#[test]
fn nothing_to_do() {
    each(middling, |rng, b| {
        let none = b.batch(&[]);
        let got = none.run(&context());
        for (role, array) in &got {
            // What all sequences share has no one to get a gradient from.
            assert!(array.data.iter().all(|&x| x == 0.0), "{role} of {}", text(&none));
        }
        let mut empty = b.tokens(0..0, 0..0);
        for role in b.states().into_iter().map(out_of) {
            let values = noise(rng, &b.p.shape(role));
            empty.given.insert(role.grad(), values);
        }
        for (role, array) in empty.run(&context()) {
            if b.p.roles(RoleKind::StateIn).any(|own| own == role.base()) {
                let given = &empty.given[&out_of(role.base()).grad()];
                assert_eq!(array.data, given.data, "{role} of {}", text(&empty));
            } else {
                assert!(array.data.iter().all(|&x| x == 0.0), "{role} of {}", text(&empty));
            }
        }
    });
}

/// A reset, `g = -inf`, has no gradient and lets none through.
#[test]
fn resets() {
    let mut n = 0;
    each(middling, |rng, b| {
        let Some(g) = b.p.inputs.get(&Role::G).filter(|g| g.shape.len() >= 3) else { return };
        let inner = g.shape[3..].iter().product::<i64>() as usize;
        if b.p.t < 2 || b.p.t != b.p.s || !b.p.splits() {
            return;
        }
        n += 1;
        let mut b = b;
        let t = b.p.t as usize;
        let cut = rng.below(t);
        let g = b.p.inputs.get_mut(&Role::G).unwrap();
        for (row, values) in g.data.chunks_exact_mut(inner).enumerate() {
            if row % t == cut {
                values.fill(f32::NEG_INFINITY);
            }
        }
        b.given.retain(|&role, _| role == Role::OUT.grad());
        let plan = b.p.plan(&context());
        let whole = b.run_plan(&plan);
        for (role, array) in &whole {
            assert!(array.data.iter().all(|x| x.is_finite()), "{role} is not finite: {}", text(&b));
        }
        let dg = &whole[&Role::G.grad()];
        for (row, values) in dg.data.chunks_exact(inner).enumerate().filter(|(row, _)| row % t == cut) {
            assert!(values.iter().all(|&x| x == 0.0), "dg of row {row}: {values:?}: {}", text(&b));
        }
        // A token that reads the state before its decay does so before the reset, and may write what it read after it.
        if b.p.mechanism.name == "rwkv7" {
            return;
        }
        let pre = b.p.mechanism.name == "rwkv6";
        let through = cut > 0 || pre;
        for role in b.states() {
            let given = &whole[&role.grad()].data;
            assert!(through || given.iter().all(|&x| x == 0.0), "{role}: {}", text(&b));
        }
        // Tokens before the reset see nothing of what comes after.
        let last = (cut + usize::from(pre)) as i64;
        let before = b.tokens(0..last, 0..last).run_plan(&plan);
        let own = |all: Tensors| -> Tensors {
            let own = all.into_iter().filter_map(|(role, array)| {
                let mut axes =
                    ["T", "S"].into_iter().filter_map(|size| b.p.axis(role.base(), size)).peekable();
                axes.peek()?;
                Some((role, axes.fold(array, |array, axis| array.pick(axis, 0..cut))))
            });
            own.collect()
        };
        assert_close(&own(whole), &own(before), 1e-5, || text(&b));
    });
    assert!(n * 100 > 10 * problem::percent(), "only {n} problems");
}
