//! Gradients of `bf16` and `f16` tensors: those of the `f32` call on the same values, each rounded once, bit by bit.
//! That the `f32` call is right is for `tests/gradients.rs`; differences of the oracle at rounded inputs close the circle.

use crate::common::backward::{Backward, compare, text};
use crate::common::problem::{
    self, Problem, Strided, Tensors, assert_same_bits, context, context_of, index_of,
};
use crate::common::support::{Rng, seed};
use crate::common::types::{self, PLAIN, TYPES, Types, contiguous, nearest};
use std::collections::BTreeSet;
use std::sync::Arc;
use subquad::{Context, ContextOptions, DType, Mode, Plan, Role, ThreadPool};

const MODES: [Mode; 4] = [Mode::Causal, Mode::Bidirectional, Mode::Cross, Mode::Transform];

/// Problems of every mechanism that has a gradient, with each value of each parameter, in each mode.
#[track_caller]
fn each(mut f: impl FnMut(&mut Rng, Backward)) {
    each_of(&mut f);
}

/// Compiled once, not for each test.
fn each_of(f: &mut dyn FnMut(&mut Rng, Backward)) {
    let mut seen = BTreeSet::new();
    for mechanism in types::mechanisms() {
        let heads = problem::heads(mechanism);
        let variants = problem::variants(mechanism).into_iter().enumerate();
        for (case, params) in variants.filter(|(case, _)| problem::taken(*case)) {
            for mode in MODES.into_iter().filter(|mode| mechanism.modes.contains(mode)) {
                let rng = &mut Rng::new(seed().wrapping_add((case as u64) << 32));
                let (t, dims) = (rng.pick(&[5, 37, 70]), rng.pick(&[(24, 20), (7, 33), (40, 100)]));
                let mut p = Problem::new(mechanism, params.clone()).sized(rng.pick(&heads), dims, 2, t);
                p.mode = mode;
                if p.plan(&context()).has_gradient(mode) {
                    let state = rng.one_in(2);
                    let p = p.fill(rng, state);
                    let b = Backward::new(rng, p);
                    f(rng, b);
                    seen.insert(mechanism.name);
                }
            }
        }
    }
    assert!(seen.len() >= 30, "{seen:?}");
}

/// Panics unless `got` is `want` rounded to the types; one NaN is as good as another.
#[track_caller]
fn assert_rounded(got: &Tensors, want: &Tensors, types: &Types, what: impl Fn() -> String) {
    assert!(got.keys().eq(want.keys()), "{}", what());
    for (&role, want) in want {
        for (i, (g, w)) in got[&role].data.iter().zip(&want.data).enumerate() {
            let near = nearest(*w, types.of(role));
            let same = g.to_bits() == near.to_bits() || (g.is_nan() && near.is_nan());
            let at = || index_of(i, &want.shape);
            assert!(same, "{role}{:?} is {g:e} for {near:e}: {types:?}, {}", at(), what());
        }
    }
}

fn run_plain(types: &Types, wanted: &Types, plan: &Plan, b: &Backward) -> Tensors {
    types.run_backward(wanted, plan, b, |_, array| contiguous(array))
}

fn plan(types: &Types, context: &Context, b: &Backward) -> Plan {
    let plan = types.plan(context, &b.p);
    assert!(
        plan.has_gradient(b.p.mode) && plan.info().gradient_modes.contains(b.p.mode),
        "{types:?}, {}",
        b.p
    );
    plan
}

/// In the type of what they are gradients of, and all in `f32`.
#[test]
fn gradients_are_rounded_once() {
    each(|_, b| {
        for types in TYPES {
            let b = types.round_backward(&b);
            let want = b.run(&context());
            let plan = plan(&types, &context(), &b);
            for wanted in [types, PLAIN] {
                let got = run_plain(&types, &wanted, &plan, &b);
                assert_rounded(&got, &want, &wanted, || text(&b));
            }
        }
    });
}

/// One gradient in `f32`, the others in 16 bits; gradients of outputs in `f32`.
#[test]
fn mixed_types() {
    each(|rng, b| {
        let types = rng.pick(&TYPES);
        let b = types.round_backward(&b);
        let want = b.run(&context());
        let plan = plan(&types, &context(), &b);
        let wanted = Types {
            qkv: rng.pick(&[types.qkv, DType::F32]),
            state: rng.pick(&[types.state, DType::F32]),
            others: rng.pick(&[types.others, DType::F32]),
            ..types
        };
        let given = Types { out: DType::F32, ..types };
        let got = given.run_backward(&wanted, &plan, &b, |_, array| contiguous(array));
        assert_rounded(&got, &want, &wanted, || text(&b));
    });
}

#[test]
fn on_every_isa() {
    for isa in problem::isas() {
        each(|rng, b| {
            let types = rng.pick(&TYPES);
            let b = types.round_backward(&b);
            let want = b.run(&context_of(isa));
            let got = run_plain(&types, &types, &plan(&types, &context_of(isa), &b), &b);
            assert_rounded(&got, &want, &types, || format!("{isa}, {}", text(&b)));
        });
    }
}

#[test]
fn any_strides_and_threads() {
    let pool = |n| Context::new(ContextOptions::new().runner(Arc::new(ThreadPool::new(n).unwrap()))).unwrap();
    let contexts = [pool(2), pool(3)];
    each(|rng, b| {
        let types = rng.pick(&TYPES);
        let serial = plan(&types, &context(), &b);
        let plain = run_plain(&types, &types, &serial, &b);
        let got = types.run_backward(&types, &serial, &b, |_, array| Strided::random(rng, array));
        assert_same_bits(&got, &plain, || format!("{types:?}, {}", text(&b)));
        for context in &contexts {
            let got = run_plain(&types, &types, &plan(&types, context, &b), &b);
            assert_same_bits(&got, &plain, || format!("{types:?}, {}", text(&b)));
        }
    });
}

/// Past the tokens for which states are kept, with heads that share rows.
#[test]
fn long_sequences() {
    for mechanism in crate::common::backward::mechanisms() {
        for heads in problem::heads(mechanism) {
            let rng = &mut Rng::new(seed());
            let p = Problem::new(mechanism, vec![]).sized(heads, (20, 17), 1, 300).fill(rng, true);
            let b = Backward::new(rng, p);
            for types in [TYPES[1], TYPES[2]] {
                let b = types.round_backward(&b);
                let want = b.run(&context());
                let got = run_plain(&types, &types, &plan(&types, &context(), &b), &b);
                assert_rounded(&got, &want, &types, || text(&b));
            }
        }
    }
}

/// Packed sequences with states in a pool; those that are skipped keep the gradients that they have.
#[test]
fn packed_and_skipped() {
    let mut n = 0;
    for mechanism in crate::common::backward::mechanisms() {
        for heads in problem::heads(mechanism) {
            let rng = &mut Rng::new(seed());
            let p = Problem::new(mechanism, vec![]).sized(heads, (12, 9), 1, 61).fill(rng, false);
            let mut b = Backward::new(rng, p);
            b.given.retain(|role, _| *role == Role::OUT.grad());
            if let Some(scales) = b.p.inputs.get_mut(&Role::SCALE_BH) {
                *scales = scales.pick(0, [0; 3]);
            }
            b.p.indices = vec![(Role::CU_SEQLENS, vec![0, 21, 21, 61])];
            let states = b.states();
            if !states.is_empty() {
                b.p.indices.push((Role::STATE_INDEX, vec![2, -1, 0]));
            }
            let mut outputs = b.outputs();
            for (role, array) in &mut outputs {
                if states.contains(&role.base()) || role.base() == Role::SCALE_BH {
                    *array = array.pick(0, [0; 3]);
                }
                array.data.fill(-96.0);
            }
            let types = rng.pick(&TYPES);
            let b = types.round_backward(&b);
            let mut want = outputs.clone();
            b.call(&b.p.plan(&context()), &mut want).unwrap_or_else(|error| panic!("{error}: {}", text(&b)));
            let plan = plan(&types, &context(), &b);
            let got = types.backward_to(&types, &plan, &b, &outputs, |_, array| contiguous(array));
            assert_rounded(&got, &want, &types, || text(&b));
            n += 1;
        }
    }
    assert!(n > 50, "{n} calls");
}

#[test]
fn hostile_values() {
    each(|rng, mut b| {
        let types = rng.pick(&TYPES);
        let roles = [Role::Q, Role::K, Role::V, Role::X, Role::STATE_IN, Role::OUT.grad()];
        for (&role, array) in b.p.inputs.iter_mut().chain(&mut b.given) {
            if !roles.contains(&role) || array.data.is_empty() {
                continue;
            }
            for _ in 0..3 {
                let at = rng.below(array.data.len());
                let x = rng.pick(&[f32::NAN, f32::INFINITY, 3.38e38, 65504.0, 65520.0, 5.9e-8, 3e-5]);
                array.data[at] = if rng.one_in(2) { -x } else { x };
            }
        }
        let b = types.round_backward(&b);
        let want = b.run(&context());
        let got = run_plain(&types, &types, &plan(&types, &context(), &b), &b);
        assert_rounded(&got, &want, &types, || text(&b));
    });
}

/// Against differences of the oracle at the rounded inputs.
#[test]
fn finite_differences() {
    for mechanism in crate::common::backward::mechanisms() {
        for types in TYPES {
            let rng = &mut Rng::new(seed());
            let p = Problem::new(mechanism, vec![]).sized([2, 2, 2], (5, 4), 1, 9).fill(rng, true);
            let b = types.round_backward(&Backward::new(rng, p));
            let got = run_plain(&types, &PLAIN, &plan(&types, &context(), &b), &b);
            let worst = compare(rng, &b, &got, 6);
            println!("{} {types:?}: {worst:.3} of the tolerance", mechanism.name);
        }
    }
}
