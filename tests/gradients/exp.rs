//! Gradients of the map `exp`, whose features are kept in the scale of a running maximum: where that rises so fast that
//! chunks are cut short, where it leaves the range of `f32`, and for states in plain scale and in its own.

use crate::common::backward::{Backward, compare, noise};
use crate::common::golden::Array;
use crate::common::problem::{Problem, Tensors, context, context_of, isas, out_of};
use crate::common::support::{Rng, seed};
use subquad::{Mode, Role};

/// Mechanisms with the map, in a mode, with the gate that they have.
fn problems(dims: (i64, i64), t: i64) -> Vec<Problem> {
    let mut all = Vec::new();
    for (name, mode) in [
        ("linear", Mode::Causal),
        ("linear", Mode::Bidirectional),
        ("linear", Mode::Cross),
        ("lln", Mode::Causal),
        ("lln", Mode::Bidirectional),
        ("dijiang", Mode::Causal),
        ("dijiang", Mode::Bidirectional),
        ("rfa_gate", Mode::Causal),
    ] {
        let mut p = Problem::named(name);
        if name != "lln" {
            p = p.param("feature_map", "exp");
        }
        if name == "dijiang" {
            p = p.param("normalize", "denominator");
        }
        let heads = if name == "linear" { [4, 2, 2] } else { [2, 2, 2] };
        let mut p = p.sized(heads, dims, 2, t);
        p.mode = mode;
        if mode == Mode::Cross {
            p.s = t + 5;
        }
        all.push(p);
    }
    all
}

/// The keys of one channel rise by 20 a token, which cuts most chunks short, and queries make up for it: what
/// is seen of the channel is of the size of what is seen of the others.
fn steep(rng: &mut Rng, p: &mut Problem, rise: f32) {
    let d = p.d as usize;
    let (scale_q, scale_k) = if p.mechanism.name == "lln" { (0.9, 0.7) } else { (1.0, 1.0) };
    let causal = p.mode == Mode::Causal;
    for (role, len, sign, scale) in [(Role::K, p.s, 1.0, scale_k), (Role::Q, p.t, -1.0, scale_q)] {
        for (row, values) in p.inputs.get_mut(&role).unwrap().data.chunks_exact_mut(d).enumerate() {
            let t = row as i64 % len;
            // Without an order every query sees the last key.
            let t = if causal || role == Role::K { t } else { p.s - 1 };
            values[d / 2] = (sign * rise * (t - p.s / 2) as f32 + 2.0 * rng.signed()) / scale;
        }
    }
}

/// What is not a state.
fn tokens(b: &Backward) -> Tensors {
    let mut all = b.outputs();
    all.retain(|role, _| !b.states().contains(&role.base()));
    all
}

#[test]
fn chunks_cut_short() {
    let mut worst = 0.0f64;
    // More chunks than a block has, in one block and in two.
    for (t, rise, samples) in [(37, 18.0, 12), (300, 4.5, 4)] {
        for p in problems((5, 6), t) {
            let mut rng = Rng::new(seed());
            let mut p = if t > 100 { p.sized([1, 1, 1], (5, 6), 1, t) } else { p }.fill(&mut rng, false);
            if p.mechanism.name == "dijiang" {
                // A projection comes before the map: jumps in all channels.
                p.inputs.get_mut(&Role::K).unwrap().data.iter_mut().for_each(|x| *x *= 30.0);
            } else {
                steep(&mut rng, &mut p, rise);
            }
            let mut b = Backward::new(&mut rng, p);
            b.given.retain(|role, _| *role == Role::OUT.grad());
            let run = |isa| {
                let mut got = tokens(&b);
                b.call(&b.p.plan(&context_of(isa)), &mut got).unwrap();
                got
            };
            let isas = isas();
            let want = run(isas[0]);
            worst = worst.max(compare(&mut rng, &b, &want, samples));
            for &isa in &isas[1..] {
                let got = run(isa);
                want.iter().for_each(|(role, want)| {
                    assert_close(&got[role], want, &format!("{role} of {} on {isa}", b.p))
                });
            }
        }
    }
    println!("worst error {worst:.3} of the tolerance");
}

/// Channels that no key writes to, and those whose first key is far below the others, under a state that begins at
/// zero in plain scale.
#[test]
fn empty_channels() {
    let mut worst = 0.0f64;
    for p in problems((6, 5), 21) {
        for state in [false, true] {
            let mut rng = Rng::new(seed());
            let mut p = p.clone().fill(&mut rng, state);
            let (d, s) = (p.d as usize, p.s as usize);
            let silent = p.mechanism.name != "dijiang";
            let keys = p.inputs.get_mut(&Role::K).unwrap();
            for (row, values) in keys.data.chunks_exact_mut(d).enumerate().filter(|_| silent) {
                values[1] = f32::NEG_INFINITY;
                if row % s < 3 {
                    values[3] = [-70.0, f32::NEG_INFINITY, -40.0][row % s];
                }
            }
            let b = Backward::new(&mut rng, p);
            worst = worst.max(compare(&mut rng, &b, &b.run(&context()), 40));
        }
    }
    println!("worst error {worst:.3} of the tolerance");
}

/// Row `m` of every state times a factor.
fn scaled(state: &Array, shift: &Array, sign: f32) -> Array {
    let inner = state.data.len() / shift.data.len();
    let mut state = state.clone();
    for (row, shift) in state.data.chunks_exact_mut(inner).zip(&shift.data) {
        row.iter_mut().for_each(|x| *x *= (sign * shift).exp());
    }
    state
}

#[track_caller]
fn assert_close(got: &Array, want: &Array, what: &str) {
    let largest = want.data.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    for (i, (g, w)) in got.data.iter().zip(&want.data).enumerate() {
        assert!((g - w).abs() <= 1e-4 * w.abs() + 1e-5 * largest + 1e-6, "{what} [{i}] is {g:e} for {w:e}");
    }
}

/// Gradients of states that come with their shift are those of the same states in plain scale, in that scale.
#[test]
fn states_with_a_shift() {
    let with_shift = |p: &Problem| p.mechanism.role(Role::SHIFT_IN).is_some();
    for p in problems((6, 5), 41).into_iter().filter(with_shift) {
        let mut rng = Rng::new(seed());
        let p = p.fill(&mut rng, true);
        let plain = Backward::new(&mut rng, p);
        let mut shifted = plain.clone();
        let shape = plain.p.shape(Role::SHIFT_IN);
        let shift = noise(&mut rng, &shape);
        shifted.p.inputs.insert(Role::SHIFT_IN, shift.clone());
        shifted.p.shift = true;
        for role in [Role::STATE_IN, Role::Z_IN] {
            let state = shifted.p.inputs.get_mut(&role).unwrap();
            *state = scaled(state, &shift, -1.0);
        }
        // The shift that forward ends with.
        let last = &shifted.p.run(&context())[&Role::SHIFT_OUT];
        for role in [Role::STATE_OUT, Role::Z_OUT] {
            if let Some(state) = shifted.given.get_mut(&role.grad()) {
                *state = scaled(state, last, 1.0);
            }
        }
        let (want, got) = (plain.run(&context()), shifted.run(&context()));
        for (role, want) in &want {
            let state = plain.states().contains(&role.base());
            let want = if state { scaled(want, &shift, 1.0) } else { want.clone() };
            assert_close(&got[role], &want, &format!("{role} of {}", plain.p));
        }
    }
}

/// Pieces that hand states over with their shift are the whole sequence, where plain states leave the range.
#[test]
fn pieces_with_a_shift() {
    for p in problems((5, 6), 60).into_iter().filter(|p| p.mode == Mode::Causal) {
        if p.mechanism.role(Role::SHIFT_IN).is_none() {
            continue;
        }
        let mut rng = Rng::new(seed());
        let mut p = p.fill(&mut rng, false);
        steep(&mut rng, &mut p, 9.0);
        let mut whole = Backward::new(&mut rng, p);
        whole.given.retain(|role, _| *role == Role::OUT.grad());
        let mut want = tokens(&whole);
        whole.call(&whole.p.plan(&context()), &mut want).unwrap();

        let (mut first, mut last) = (whole.tokens(0..23, 0..23), whole.tokens(23..60, 23..60));
        (first.p.shift, last.p.shift) = (true, true);
        for role in [Role::STATE_IN, Role::Z_IN, Role::SHIFT_IN] {
            let empty = if role == Role::SHIFT_IN { f32::NEG_INFINITY } else { 0.0 };
            first.p.inputs.insert(role, Array::filled(&first.p.shape(role), empty));
        }
        last.p.carry(&first.p.run(&context()));
        let last_grads = last.run(&context());
        for role in last.states() {
            first.given.insert(out_of(role).grad(), last_grads[&role.grad()].clone());
        }
        let first_grads = first.run(&context());
        for (role, want) in &want {
            let parts = [first_grads[role].clone(), last_grads[role].clone()];
            let what = format!("{role} of {}", whole.p);
            assert!(parts.iter().all(|part| part.data.iter().all(|x| x.is_finite())), "{what}");
            assert_close(&Array::join(2, &parts), want, &what);
        }
    }
}
