//! `Flags::BF16_DOT`: results within the bound that `docs/numerics.md` gives, the same bits however a call is cut into
//! tasks, strides and pieces, and no bit different where the flag does not apply.

use crate::common::backward::Backward;
use crate::common::problem::{self, Problem, Strided, Tensors, assert_lively, context, context_of};
use crate::common::support::{Rng, seed};
use crate::common::types::{PLAIN, Types, tiny, unit};
use crate::common::{backward, oracle, types};
use std::collections::BTreeSet;
use std::sync::Arc;
use subquad::simd::has_bf16_dot;
use subquad::{Context, ContextOptions, DType, Error, Flags, Isa, Mode, Plan, Role, ThreadPool};

const TYPES: [Types; 4] = [
    PLAIN,
    Types { qkv: DType::Bf16, out: DType::Bf16, state: DType::F32, others: DType::F32 },
    Types { qkv: DType::Bf16, out: DType::F32, state: DType::Bf16, others: DType::Bf16 },
    Types { qkv: DType::F16, out: DType::F16, state: DType::F32, others: DType::F32 },
];

/// Roundings of operands that a result is off by at most, in units of its magnitude.
const OPERANDS: f64 = 4.0;

fn plan(context: &Context, types: &Types, p: &Problem) -> Plan {
    let desc = types.desc(p.desc()).flags(Flags::BF16_DOT);
    Plan::new(context, &desc).unwrap_or_else(|error| panic!("{types:?}, {p}: {error}"))
}

/// Whether pairs are multiplied.
fn applies(plan: &Plan, p: &Problem) -> bool {
    plan.info().kernel.contains("matmul_bf16") && p.mode != Mode::Step
}

/// Problems of every mechanism, variant and mode, filled and rounded to some types.
fn each(mut f: impl FnMut(&mut Rng, Types, Problem)) {
    each_of(&mut f);
}

/// Compiled once, not for each test.
fn each_of(f: &mut dyn FnMut(&mut Rng, Types, Problem)) {
    for mechanism in types::mechanisms() {
        let heads = problem::heads(mechanism);
        let variants = problem::variants(mechanism).into_iter().enumerate();
        for (case, params) in variants.filter(|(case, _)| problem::taken(*case)) {
            for &mode in mechanism.modes {
                let rng = &mut Rng::new(seed().wrapping_add((case as u64) << 32));
                let t = if mode == Mode::Step { 1 } else { rng.pick(&[1, 16, 37, 150]) };
                let dims = rng.pick(&[(24, 20), (7, 33), (40, 100), (64, 48)]);
                let mut p = Problem::new(mechanism, params.clone()).sized(rng.pick(&heads), dims, 2, t);
                (p.mode, p.shift) = (mode, rng.one_in(2));
                let state = mode == Mode::Step || rng.one_in(2);
                let p = p.fill(rng, state);
                let types = rng.pick(&TYPES);
                f(rng, types, types.round(&p));
            }
        }
    }
}

/// `‖got − want‖ / ‖want‖`, elements of `want` counted as this large at least. What is equal may be infinite.
fn distance(got: &[f32], want: &[f32], least: f64) -> f64 {
    let square = |x: f64| x * x;
    let others = || got.iter().zip(want).filter(|(g, w)| g != w).map(|(&g, &w)| (f64::from(g), f64::from(w)));
    let off: f64 = others().map(|(g, w)| square(g - w)).sum();
    let finite = want.iter().map(|&w| f64::from(w)).filter(|w| w.is_finite());
    let size: f64 = finite.map(|w| square(w.abs().max(least))).sum();
    if off == 0.0 { 0.0 } else { (off / size).sqrt() }
}

#[test]
fn within_the_bound() {
    let (mut honoured, mut worst) = (BTreeSet::new(), 0.0f64);
    each(|_, types, p| {
        let plan = plan(&context(), &types, &p);
        let got = types.run_plain(&plan, &p);
        // A denominator near zero may leave the range of the output.
        if !p.has_denominator() {
            assert_lively(&got, || p.to_string());
        }
        if !applies(&plan, &p) {
            let plain = types.run_plain(&types.plan(&context(), &p), &p);
            return problem::assert_same_bits(&got, &plain, || format!("{types:?}, {p}"));
        }
        honoured.insert(p.mechanism.name);
        let mut want = oracle::expect_rounded(&p, OPERANDS * unit(DType::Bf16) / oracle::U);
        for (&role, expected) in &mut want {
            let (u, tiny) = (unit(types.of(role)), tiny(types.of(role)));
            let rounding = |(t, w): (&mut f64, &f64)| *t += u * (w.abs() + *t) + tiny;
            expected.tolerance.iter_mut().zip(&expected.value).for_each(rounding);
        }
        worst = worst.max(oracle::check(&got, &want, || format!("{types:?}, {p}")));
    });
    println!("{honoured:?}: at most {worst:.2} of the bound");
    for name in ["gated_delta_rule", "softmax", "fox", "bswa", "focal", "integral", "diff", "parallax"] {
        assert_eq!(has_bf16_dot(Isa::best()), honoured.contains(name), "{name}");
    }
    for name in ["gla", "kda", "rwkv6", "rwkv7", "gsa", "abc"] {
        assert!(!honoured.contains(name), "{name}");
    }
}

/// The bound allows for every rounding to point the same way. They don't: a wrong term would show here.
#[test]
fn close_to_single_precision() {
    each(|_, types, p| {
        let types = Types { out: DType::F32, state: DType::F32, ..types };
        let plan = plan(&context(), &types, &p);
        // A denominator near zero, or a norm of a row near zero, leaves nothing to compare.
        let divides = p.has_denominator() || !["", "none"].contains(&p.word("normalize").as_str());
        if !applies(&plan, &p) || divides {
            return;
        }
        let got = types.run_plain(&plan, &p);
        let want = types.run_plain(&types.plan(&context(), &p), &p);
        for (role, want) in &want {
            // The error of a normaliser is that of the scores, which are about 1, however small it is itself.
            let least = if *role == Role::LSE { 1.0 } else { 0.0 };
            let off = distance(&got[role].data, &want.data, least);
            assert!(off <= 2.0 * unit(DType::Bf16), "{role} is off by {off:.1e}: {types:?}, {p}");
        }
    });
}

/// The table of `docs/numerics.md`: largest error of `out` against double precision, relative to its largest value.
#[test]
fn measured_errors() {
    let table = [
        ("simple_gla", false, [5e-3, 3e-3]),
        ("retention", false, [4.5e-3, 3.2e-3]),
        ("linear", false, [1e-3, 6e-4]),
        ("delta_rule", true, [6.5e-3, 7e-3]),
        ("gated_delta_rule", true, [5e-3, 5e-3]),
        ("softmax", false, [4e-3, 1.5e-3]),
    ];
    for (name, unit_rows, limits) in table {
        let p = Problem::named(name).sized([2, 2, 2], (64, 64), 1, 1024);
        let p = if unit_rows { p.param("l2norm_qk", true) } else { p };
        let p = p.fill(&mut Rng::new(seed()), false);
        for (qkv, limit) in [DType::F32, DType::Bf16].into_iter().zip(limits) {
            let types = Types { qkv, ..PLAIN };
            let p = types.round(&p);
            let want = &oracle::expect(&p)[&Role::OUT].value;
            let largest = want.iter().fold(0.0f64, |m, w| m.max(w.abs()));
            let error = |plan: &Plan| {
                let got = &types.run_plain(plan, &p)[&Role::OUT].data;
                let off = got.iter().zip(want).map(|(&g, w)| (f64::from(g) - w).abs());
                off.fold(0.0, f64::max) / largest
            };
            let (without, with) = (error(&types.plan(&context(), &p)), error(&plan(&context(), &types, &p)));
            println!("{name}, {qkv}: {without:.1e}, with the flag {with:.1e}");
            assert!(with <= limit, "{name}, {qkv}: {with:.1e}");
        }
    }
}

/// Without the instruction the flag changes nothing.
#[test]
fn other_instruction_sets() {
    for isa in problem::isas().into_iter().filter(|&isa| !has_bf16_dot(isa)) {
        each(|_, types, p| {
            let plan = plan(&context_of(isa), &types, &p);
            assert!(!applies(&plan, &p), "{isa}: {}", plan.info().kernel);
            let (got, plain) = (types.run_plain(&plan, &p), types.plan(&context_of(isa), &p));
            let plain = types.run_plain(&plain, &p);
            problem::assert_same_bits(&got, &plain, || format!("{isa}, {types:?}, {p}"));
        });
    }
}

#[test]
fn any_threads_and_strides() {
    let pool = |n| Context::new(ContextOptions::new().runner(Arc::new(ThreadPool::new(n).unwrap()))).unwrap();
    let contexts = [pool(2), pool(3)];
    each(|rng, types, p| {
        let serial = plan(&context(), &types, &p);
        let want = types.run_plain(&serial, &p);
        for context in &contexts {
            let got = types.run_plain(&plan(context, &types, &p), &p);
            problem::assert_same_bits(&got, &want, || format!("threads, {types:?}, {p}"));
        }
        let got = types.run(&serial, &p, |_, array| Strided::random(rng, array));
        problem::assert_same_bits(&got, &want, || format!("strides, {types:?}, {p}"));
    });
}

/// Calls that end at multiples of 16 give the bits of one call.
#[test]
fn split_at_chunks() {
    each(|_, types, p| {
        if p.mode != Mode::Causal
            || !p.splits_exactly()
            || p.caches()
            || p.t < 37
            || types.state != DType::F32
        {
            return;
        }
        let p = Problem { shift: true, ..p };
        let plan = plan(&context(), &types, &p);
        let want = types.run_plain(&plan, &p);
        let (mut next, mut start, mut pieces) = (p.clone(), 0, Vec::new());
        let mut last = Tensors::new();
        for end in [16, 32, p.t] {
            let mut part = p.tokens(start..end, start..end);
            for role in p.roles(subquad::catalog::RoleKind::StateIn) {
                if let Some(state) = next.inputs.get(&role) {
                    part.inputs.insert(role, state.clone());
                }
            }
            let part = part.advanced(start);
            last = types.run_plain(&plan_of(&types, &part), &part);
            pieces.push(last[&Role::OUT].clone());
            next.carry(&last);
            start = end;
        }
        last.insert(Role::OUT, crate::common::golden::Array::join(2, &pieces));
        problem::assert_same_bits(&last, &want, || format!("{types:?}, {p}"));
    });
}

fn plan_of(types: &Types, p: &Problem) -> Plan {
    plan(&context(), types, p)
}

#[test]
fn gradients_are_single_precision() {
    for mechanism in backward::mechanisms() {
        let rng = &mut Rng::new(seed());
        let p = Problem::new(mechanism, problem::variants(mechanism).remove(0));
        let p = p.sized([2, 2, 2], (24, 20), 1, 37).fill(rng, false);
        if Plan::new(&context(), &p.desc()).is_ok_and(|plan| plan.info().gradient_modes.contains(p.mode)) {
            let flagged = Plan::new(&context(), &p.desc().flags(Flags::BF16_DOT)).unwrap();
            let backward = Backward::new(rng, p.clone());
            let (got, want) = (backward.run_plan(&flagged), backward.run(&context()));
            problem::assert_same_bits(&got, &want, || p.to_string());
        }
    }
}

#[test]
fn unknown_flags_are_refused() {
    let desc = Problem::named("gla").desc().flags(Flags::from_bits(3));
    let error = Plan::new(&context(), &desc).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { what: "desc.flags", given: 3, .. }), "{error}");
    assert_eq!(Flags::from_bits(1), Flags::BF16_DOT);
    assert!(Flags::BF16_DOT.contains(Flags::NONE) && !Flags::NONE.contains(Flags::BF16_DOT));
}
