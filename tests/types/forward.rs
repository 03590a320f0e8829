//! `bf16` and `f16`: a call on 16-bit tensors gives what the `f32` call on the same values gives, rounded once.
//!
//! Arithmetic is `f32` in the same order whatever the types, so this is checked bit by bit, but where scores of `bf16` rows
//! are sums in another order. That the `f32` call is
//! right is for the other tests; the oracle here closes the circle with rounded inputs.

use crate::common::golden::{Array, Golden, files};
use crate::common::problem::{self, Problem, Strided, Tensors, assert_lively, context, context_of};
use crate::common::support::{Rng, seed};
use crate::common::types::{PLAIN, TYPES, Types, nearest, rounded, tiny, unit};
use crate::common::{oracle, types};
use std::sync::Arc;
use subquad::catalog::RoleKind;
use subquad::{Context, ContextOptions, DType, Mode, Plan, Role, ThreadPool};

/// Panics unless `got` is `want` rounded to the types; one NaN is as good as another.
#[track_caller]
fn assert_rounded(got: &Tensors, want: &Tensors, types: &Types, what: impl Fn() -> String) {
    assert!(got.keys().eq(want.keys()), "{}", what());
    for (role, want) in want {
        assert_nearest(&got[role], want, types.of(*role), || format!("{role} of {}", what()));
    }
}

/// Whether scores are summed in another order than those of `f32` rows.
fn pairs(plan: &Plan) -> bool {
    plan.info().kernel.contains("matmul_bf16")
}

/// [`assert_rounded`], and where scores are summed in another order, that the rounded results are neighbours.
#[track_caller]
fn assert_same(plan: &Plan, got: &Tensors, want: &Tensors, types: &Types, what: impl Fn() -> String) {
    if !pairs(plan) {
        return assert_rounded(got, want, types, what);
    }
    for (role, want) in want {
        let dtype = types.of(*role);
        let largest = want.data.iter().filter(|x| x.is_finite()).fold(0.0f32, |m, x| m.max(x.abs()));
        for (g, &w) in got[role].data.iter().zip(&want.data) {
            let near = nearest(w, dtype);
            let (off, w) = (f64::from(*g) - f64::from(near), f64::from(w).abs());
            let bound = 2.0 * (unit(dtype) * w + tiny(dtype)) + 1e-5 * f64::from(largest);
            let close = g.is_finite() && near.is_finite() && off.abs() <= bound;
            let same = *g == near || g.is_nan() && near.is_nan() || close;
            assert!(same, "{role} of {}: {g:e} for {near:e}", what());
        }
    }
}

#[track_caller]
fn assert_nearest(got: &Array, want: &Array, dtype: DType, what: impl Fn() -> String) {
    assert_eq!(got.shape, want.shape, "{}", what());
    for (i, (g, w)) in got.data.iter().zip(&want.data).enumerate() {
        let near = nearest(*w, dtype);
        let same = g.to_bits() == near.to_bits() || (g.is_nan() && near.is_nan());
        assert!(same, "{} at {:?}: {g:e} for {near:e}", what(), problem::index_of(i, &want.shape));
    }
}

/// Problems of every mechanism, variant and mode, filled.
fn each(mut f: impl FnMut(&mut Rng, Problem)) {
    each_of(&mut f);
}

/// Compiled once, not for each test.
fn each_of(f: &mut dyn FnMut(&mut Rng, Problem)) {
    for mechanism in types::mechanisms() {
        let heads = problem::heads(mechanism);
        let variants = problem::variants(mechanism).into_iter().enumerate();
        for (case, params) in variants.filter(|(case, _)| problem::taken(*case)) {
            for &mode in mechanism.modes {
                let rng = &mut Rng::new(seed().wrapping_add((case as u64) << 32));
                let t = if mode == Mode::Step { 1 } else { rng.pick(&[5, 37, 150]) };
                let dims = rng.pick(&[(24, 20), (7, 33), (40, 100)]);
                let mut p = Problem::new(mechanism, params.clone()).sized(rng.pick(&heads), dims, 2, t);
                (p.mode, p.shift) = (mode, rng.one_in(2));
                let state = mode == Mode::Step || rng.one_in(2);
                let p = p.fill(rng, state);
                f(rng, p);
            }
        }
    }
}

#[test]
fn results_are_rounded_once() {
    each(|_, p| {
        for types in TYPES {
            let p = types.round(&p);
            let want = p.run(&context());
            assert_lively(&want, || p.to_string());
            let plan = types.plan(&context(), &p);
            let got = types.run_plain(&plan, &p);
            assert_same(&plan, &got, &want, &types, || format!("{types:?}, {p}"));
        }
    });
}

#[test]
fn on_every_isa() {
    for isa in problem::isas() {
        each(|rng, p| {
            let types = rng.pick(&TYPES);
            let p = types.round(&p);
            let want = p.run(&context_of(isa));
            let plan = types.plan(&context_of(isa), &p);
            let got = types.run_plain(&plan, &p);
            assert_same(&plan, &got, &want, &types, || format!("{isa}, {types:?}, {p}"));
        });
    }
}

#[test]
fn any_strides() {
    each(|rng, p| {
        let types = rng.pick(&TYPES);
        let plan = types.plan(&context(), &p);
        let plain = types.run_plain(&plan, &p);
        let got = types.run(&plan, &p, |_, array| Strided::random(rng, array));
        problem::assert_same_bits(&got, &plain, || format!("{types:?}, {p}"));
    });
}

#[test]
fn any_threads() {
    let pool = |n| Context::new(ContextOptions::new().runner(Arc::new(ThreadPool::new(n).unwrap()))).unwrap();
    let contexts = [pool(2), pool(3)];
    each(|rng, p| {
        let types = rng.pick(&TYPES);
        let serial = types.run_plain(&types.plan(&context(), &p), &p);
        for context in &contexts {
            let got = types.run_plain(&types.plan(context, &p), &p);
            problem::assert_same_bits(&got, &serial, || format!("{types:?}, {p}"));
        }
    });
}

/// Calls that end at multiples of 16 give the bits of one call, if the state is carried in `f32`; a `bf16` state is
/// rounded after each.
#[test]
fn split_at_chunks() {
    each(|rng, p| {
        if p.mode != Mode::Causal || !p.splits_exactly() || p.t < 37 || p.caches() {
            return;
        }
        let state = p.inputs.keys().any(|&role| is_state(&p, role));
        let mut p = Problem { shift: true, ..p };
        if state {
            p.fill_state(rng);
        }
        for types in TYPES {
            let p = types.round(&p);
            let ends = [16, 32, p.t];
            let run = |part: &Problem| types.run_plain(&types.plan(&context(), part), part);
            let pieces = run_pieces(&types, run, &p, &ends);
            let want = if types.state == DType::F32 {
                run(&p)
            } else {
                run_pieces(&types, |part| part.run(&context()), &p, &ends)
            };
            assert_rounded(&pieces, &want, &types, || format!("{types:?}, {p}"));
        }
    });
}

/// Calls that end at these tokens, with what is carried rounded between them.
fn run_pieces(types: &Types, run: impl Fn(&Problem) -> Tensors, p: &Problem, ends: &[i64]) -> Tensors {
    let (mut next, mut start, mut pieces) = (p.clone(), 0, Vec::new());
    let mut last = Tensors::new();
    for &end in ends {
        let mut part = p.advanced(start).tokens(start..end, start..end);
        for role in p.roles(RoleKind::StateIn) {
            if let Some(state) = next.inputs.get(&role) {
                part.inputs.insert(role, rounded(state, types.of(role)));
            }
        }
        last = run(&part);
        pieces.push(last[&Role::OUT].clone());
        next.carry(&last);
        start = end;
    }
    last.insert(Role::OUT, Array::join(2, &pieces));
    last
}

/// A `bf16` state in place, with its columns together and apart: two ways through the library.
#[test]
fn steps_in_place() {
    each(|rng, p| {
        if p.mode != Mode::Step {
            return;
        }
        let types = Types { qkv: DType::Bf16, out: DType::Bf16, state: DType::Bf16, others: DType::F32 };
        let plan = types.plan(&context(), &p);
        let direct = types.run_plain(&plan, &p);
        let apart = types.run(&plan, &p, |role, array| match role {
            _ if types.of(role) == DType::Bf16 && array.shape.len() == 4 && is_state(&p, role) => {
                Strided::new(array, &[0, 1, 2, 3], &[0, 0, 0, 1 + rng.below(2)], &[false; 4])
            }
            _ => types::contiguous(array),
        });
        problem::assert_same_bits(&apart, &direct, || p.to_string());
    });
}

fn is_state(p: &Problem, role: Role) -> bool {
    [RoleKind::StateIn, RoleKind::StateOut].into_iter().any(|kind| p.roles(kind).any(|own| own == role))
}

/// NaN, infinities, the largest values, and the denormals of either type.
#[test]
fn hostile_values() {
    each(|rng, mut p| {
        let types = rng.pick(&TYPES);
        let plan = types.plan(&context(), &p);
        // Scores in the thousands say nothing of the order of their sums.
        let limit = if pairs(&plan) { 1.0 } else { f32::INFINITY };
        for (&role, array) in &mut p.inputs {
            let dtype = types.of(role);
            if ![Role::Q, Role::K, Role::V, Role::X, Role::STATE_IN].contains(&role) || dtype == DType::F32 {
                continue;
            }
            for _ in 0..3 {
                let at = rng.below(array.data.len());
                let x =
                    rng.pick(&[f32::NAN, f32::INFINITY, 3.38e38, 65504.0, 65520.0, 5.9e-8, 3e-5, 9.2e-41]);
                // The state of a convolution is a copy of its inputs: in `f32` nothing computes with it, and nothing
                // flushes it.
                let copied = p.mechanism.name == "causal_conv" && x < f32::MIN_POSITIVE;
                let x = if copied || x.is_finite() && x > limit { 0.0 } else { x };
                array.data[at] = if rng.one_in(2) { -x } else { x };
            }
        }
        let p = types.round(&p);
        let want = p.run(&context());
        let got = types.run_plain(&plan, &p);
        assert_same(&plan, &got, &want, &types, || format!("{types:?}, {p}"));
    });
}

/// Outputs beyond the range of the type are infinite, below it zero or denormal.
#[test]
fn ranges() {
    for (scale, types) in [1e5f32, 1e-6, 1e-9].into_iter().flat_map(|x| TYPES.map(|types| (x, types))) {
        let mut p = Problem::named("simple_gla").fill(&mut Rng::new(seed()), false);
        p.inputs.get_mut(&Role::Q).unwrap().data.iter_mut().for_each(|x| *x *= scale);
        let p = types.round(&p);
        let got = types.run_plain(&types.plan(&context(), &p), &p);
        assert_rounded(&got, &p.run(&context()), &types, || format!("{scale}, {types:?}"));
        if scale > 1.0 && types.out == DType::F16 && types.qkv != DType::F16 {
            assert!(got[&Role::OUT].data.iter().any(|x| x.is_infinite()));
        }
    }
}

#[test]
fn oracle_of_rounded_inputs() {
    let isas = problem::isas();
    each(|rng, p| {
        let types = rng.pick(&TYPES);
        let p = types.round(&p);
        let mut want = oracle::expect(&p);
        for (&role, expected) in &mut want {
            let (u, tiny) = (unit(types.of(role)), tiny(types.of(role)));
            let rounding = |(t, w): (&mut f64, &f64)| *t += u * (w.abs() + *t) + tiny;
            expected.tolerance.iter_mut().zip(&expected.value).for_each(rounding);
        }
        for &isa in &isas {
            let got = types.run_plain(&types.plan(&context_of(isa), &p), &p);
            oracle::check(&got, &want, || format!("{isa}, {types:?}, {p}"));
        }
    });
}

#[test]
fn reference_files() {
    let mut runs = 0;
    for path in ["linear", "hf", "random_features", "sparse"].into_iter().flat_map(files) {
        let file = Golden::read(&path);
        if !types::mechanisms().any(|known| known.name == file.mechanism()) {
            continue;
        }
        for types in TYPES {
            let want = file.outputs(&context(), PLAIN, types).unwrap();
            let got = file.outputs(&context(), types, types).unwrap();
            for (name, want) in &want {
                let dtype = types.of(Role::from_name(name).unwrap());
                let what = || format!("{name} of {}, {types:?}", path.display());
                assert_nearest(&got[name], want, dtype, what);
            }
            runs += 1;
        }
    }
    assert!(runs >= 40 * TYPES.len() / 3, "only {runs} runs");
}

#[test]
fn states_of_plans() {
    let p = Problem::named("linear").param("feature_map", "exp").sized([2, 2, 2], (8, 6), 1, 1);
    let types = Types { state: DType::Bf16, ..PLAIN };
    let layout = types.plan(&context(), &p).state_layout().clone();
    let found: Vec<_> = layout.components.iter().map(|part| (part.role_in, part.dtype)).collect();
    let expected = [(Role::STATE_IN, DType::Bf16), (Role::Z_IN, DType::F32), (Role::SHIFT_IN, DType::F32)];
    assert_eq!(found, expected);
    // Each part at a multiple of 64: 192, 64 and 64 bytes.
    assert_eq!(layout.size_bytes, 320);
    let wide = p.plan(&context()).state_layout().size_bytes;
    assert_eq!(wide, 384 + 64 + 64);
}
