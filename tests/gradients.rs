//! Backward against central differences of the oracle, and what holds for every gradient: splits, batches, strides,
//! runners, ragged and pooled calls, subsets of what is wanted. Equal means equal bits, except where a test says
//! otherwise. `SUBQUAD_SEED=<seed>` repeats a run.

mod common;

use common::backward::{Backward, compare, mechanisms, noise, text, with_states};
use common::golden::Array;
use common::oracle;
use common::problem::{
    self, Problem, Strided, Tensors, assert_same_bits, context, context_of, index_of, out_of,
};
use common::support::{Rng, seed};
use std::collections::BTreeSet;
use std::sync::Arc;
use subquad::catalog::{RoleKind, StepKind};
use subquad::{Args, Context, ContextOptions, Mode, Plan, Role, Runner, ThreadPool};

const MODES: [Mode; 4] = [Mode::Causal, Mode::Bidirectional, Mode::Cross, Mode::Transform];

/// Calls `f` with problems of every mechanism that has a gradient, in each of its modes, with each value of each
/// parameter: `size` draws heads, dimensions, batch and length.
#[track_caller]
fn each(size: impl Fn(&mut Rng, Problem) -> Problem, mut f: impl FnMut(&mut Rng, Backward)) {
    let (mut n, mut without) = (0, BTreeSet::new());
    let mut seen = BTreeSet::new();
    for mechanism in problem::mechanisms() {
        let heads = problem::heads(mechanism);
        let variants = problem::variants(mechanism);
        for mode in MODES.into_iter().filter(|mode| mechanism.modes.contains(mode)) {
            for case in (0..variants.len() + 3).filter(|&case| problem::taken(case)) {
                let mut rng = Rng::new(seed().wrapping_add((case as u64) << 32));
                let rng = &mut rng;
                let params = variants.get(case).cloned();
                let params = params.unwrap_or_else(|| problem::random_params(rng, mechanism));
                let mut p = Problem::new(mechanism, params);
                p.heads = rng.pick(&heads);
                p = size(rng, p);
                p.mode = mode;
                match mode {
                    // With a window queries are the last positions.
                    Mode::Cross if p.windowed() => p.s += rng.below(40) as i64,
                    Mode::Cross => p.s = rng.below(40) as i64,
                    Mode::Causal if (mechanism.name == "linear1p" || p.caches()) && rng.one_in(2) => {
                        p.s += rng.below(90) as i64
                    }
                    _ => {}
                }
                if !p.plan(&context()).has_gradient(mode) {
                    without.insert(format!("{} {mode} {:?}", mechanism.name, p.params));
                    continue;
                }
                let state = !rng.one_in(3);
                let p = p.fill(rng, state);
                let b = Backward::new(rng, p);
                f(rng, b);
                n += 1;
                seen.insert(mechanism.name);
            }
        }
    }
    println!("without a gradient: {without:#?}");
    assert!(n >= problem::percent().min(100) && seen.len() >= 10, "{n} problems of {seen:?}");
}

fn small(rng: &mut Rng, p: Problem) -> Problem {
    let (dims, b) = ((1 + rng.below(9) as i64, 1 + rng.below(9) as i64), 1 + rng.below(2) as i64);
    let (heads, t) = (p.heads, rng.below(40) as i64);
    p.sized(heads, dims, b, t)
}

fn middling(rng: &mut Rng, p: Problem) -> Problem {
    let (dims, b) = ((1 + rng.below(40) as i64, 1 + rng.below(40) as i64), 1 + rng.below(3) as i64);
    let (heads, t) = (p.heads, rng.below(80) as i64);
    p.sized(heads, dims, b, t)
}

/// Whether the oracle's own error bounds say that the outputs are well conditioned: no denominator near zero.
fn well_conditioned(p: &Problem) -> bool {
    let all = oracle::expect(p);
    all.values().all(|one| {
        let largest = one.value.iter().fold(1.0f64, |m, x| m.max(x.abs()));
        one.tolerance.iter().all(|&tolerance| tolerance <= 3e-4 * largest) && largest < 100.0
    })
}

#[test]
fn finite_differences() {
    let (mut worst, mut n, mut skipped) = (0.0f64, 0, 0);
    each(small, |rng, b| {
        if !well_conditioned(&b.p) {
            skipped += 1;
            return;
        }
        n += 1;
        let got = b.run(&context());
        worst = worst.max(compare(rng, &b, &got, 10));
    });
    println!("worst error {worst:.3} of the tolerance; {skipped} problems are ill-conditioned");
    assert!(n > 3 * skipped, "{skipped} of {n} problems are ill-conditioned");
}

/// Past the tokens for which states are kept.
#[test]
fn long_sequences() {
    for mechanism in mechanisms().into_iter().filter(|mechanism| mechanism.step != StepKind::Cache) {
        for (t, heads, e) in [(257, [1, 1, 1], 3), (530, [2, 2, 2], 2)] {
            let mut rng = Rng::new(seed());
            let p = Problem::new(mechanism, vec![]).sized(heads, (4, e), 1, t).fill(&mut rng, true);
            let b = Backward::new(&mut rng, p);
            let worst = compare(&mut rng, &b, &b.run(&context()), 12);
            println!("{} T = {t}: {worst:.3} of the tolerance", mechanism.name);
        }
    }
}

/// What the first pass leaves in `dq` and `dv` on the way changes no bit of the others.
#[test]
fn long_sequences_without_places() {
    for mechanism in mechanisms() {
        let mut rng = Rng::new(seed());
        let p = Problem::new(mechanism, vec![]).sized([2, 2, 2], (4, 3), 1, 300).fill(&mut rng, true);
        let b = Backward::new(&mut rng, p);
        let plan = b.p.plan(&context());
        let mut want = b.run_plan(&plan);
        let places = [Role::Q.grad(), Role::V.grad()];
        want.retain(|role, _| !places.contains(role));
        let mut got = b.outputs();
        got.retain(|role, _| !places.contains(role));
        b.call(&plan, &mut got).unwrap_or_else(|error| panic!("{}: {error}", text(&b)));
        assert_same_bits(&got, &want, || text(&b));
    }
}

/// States of several panels, the last one narrower, with every parameter; more than one query to a state where heads
/// may differ.
#[test]
fn several_panels() {
    let mut seen = BTreeSet::new();
    for mechanism in problem::attention() {
        for (case, params) in
            problem::variants(mechanism).into_iter().enumerate().filter(|(case, _)| problem::taken(*case))
        {
            let mut rng = Rng::new(seed().wrapping_add((case as u64) << 32));
            let most = problem::heads(mechanism).into_iter().max_by_key(|heads| heads[0] / heads[1]);
            let p = Problem::new(mechanism, params);
            // With slots, so many channels that both memories have panels.
            let dims = if p.has_slots() { (400, 626) } else { (150, 75) };
            let p = p.sized(most.unwrap(), dims, 1, 18);
            let plan = p.plan(&context());
            // Few features are a state of one panel.
            if !plan.has_gradient(p.mode) || p.e <= 2 * plan.info().panel as i64 {
                continue;
            }
            seen.insert(mechanism.name);
            let p = p.fill(&mut rng, true);
            // The bounds of two writes grow with the width faster than their errors.
            if well_conditioned(&p) || p.mechanism.name == "rwkv7" {
                let b = Backward::new(&mut rng, p);
                let worst = compare(&mut rng, &b, &b.run(&context()), 2);
                println!("{}: {worst:.3} of the tolerance", text(&b));
            }
        }
    }
    assert!(seen.len() * 100 >= 12 * problem::percent(), "states of several panels: {seen:?}");
}

#[test]
fn every_isa() {
    for isa in problem::isas() {
        let context = context_of(isa);
        for mechanism in mechanisms() {
            for mode in MODES.into_iter().filter(|mode| mechanism.modes.contains(mode)) {
                let mut rng = Rng::new(seed());
                let heads = problem::heads(mechanism);
                let p = Problem::new(mechanism, vec![]).sized(heads[heads.len() - 1], (5, 7), 1, 19);
                let p = Problem { mode, ..p }.fill(&mut rng, true);
                let b = Backward::new(&mut rng, p);
                let worst = compare(&mut rng, &b, &b.run(&context), 15);
                println!("{} {mode} on {isa}: {worst:.3} of the tolerance", mechanism.name);
            }
        }
    }
}

/// Runs tasks last to first on three threads.
struct LastFirst;

impl Runner for LastFirst {
    fn max_workers(&self) -> usize {
        3
    }
    fn run(&self, n_tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        std::thread::scope(|scope| {
            for worker in 0..3 {
                let mine = (0..n_tasks).rev().filter(move |index| index % 3 == worker);
                scope.spawn(move || mine.for_each(|index| task(index, worker)));
            }
        });
    }
}

fn runners() -> Vec<(String, Context)> {
    let of = |runner: Arc<dyn Runner>| Context::new(ContextOptions::new().runner(runner)).unwrap();
    let pools = [2, 3, 8].map(|n| (format!("{n} workers"), of(Arc::new(ThreadPool::new(n).unwrap()))));
    let mut all = Vec::from(pools);
    all.push(("last first".into(), of(Arc::new(LastFirst))));
    all
}

#[test]
fn any_runner() {
    let runners = runners();
    each(middling, |_, b| {
        let serial = b.run(&context());
        for (name, context) in &runners {
            assert_same_bits(&b.run(context), &serial, || format!("{name}: {}", text(&b)));
        }
    });
}

/// Few heads, a wide state and more tokens than one kept state covers.
#[test]
fn any_runner_one_head() {
    let runners = runners();
    for mechanism in mechanisms() {
        let mut rng = Rng::new(seed());
        let p = Problem::new(mechanism, vec![]).sized([1, 1, 1], (100, 333), 1, 300).fill(&mut rng, true);
        let b = Backward::new(&mut rng, p);
        let serial = b.run(&context());
        for (name, context) in &runners {
            assert_same_bits(&b.run(context), &serial, || format!("{name}: {}", text(&b)));
        }
    }
}

/// What else is wanted changes no bit.
#[test]
fn subsets() {
    each(middling, |rng, b| {
        let plan = b.p.plan(&context());
        let all = b.run_plan(&plan);
        let wanted = b.wanted();
        let subsets = wanted
            .iter()
            .map(|&role| vec![role])
            .chain([wanted.iter().copied().filter(|_| rng.one_in(2)).collect(), vec![]]);
        for subset in subsets.collect::<Vec<Vec<Role>>>() {
            let mut got = b.outputs();
            got.retain(|role, _| subset.contains(role));
            b.call(&plan, &mut got).unwrap_or_else(|error| panic!("{}: {error}", text(&b)));
            let want = all.iter().filter(|(role, _)| subset.contains(role));
            let want = want.map(|(&role, array)| (role, array.clone())).collect();
            assert_same_bits(&got, &want, || format!("{subset:?} of {}", text(&b)));
        }
    });
}

/// An absent gradient of what is carried out is one of zeros.
#[test]
fn absent_is_zero() {
    each(middling, |_, b| {
        let (mut absent, mut zero) = (b.clone(), b.clone());
        absent.given.retain(|&role, _| role == Role::OUT.grad());
        for (_, array) in zero.given.iter_mut().filter(|(role, _)| **role != Role::OUT.grad()) {
            array.data.fill(0.0);
        }
        let plan = b.p.plan(&context());
        let (got, want) = (absent.run_plan(&plan), zero.run_plan(&plan));
        for (role, want) in &want {
            // A zero may have either sign; without keys and without an epsilon there are no numbers.
            let same = |(g, w): (&f32, &f32)| g == w || (g.is_nan() && w.is_nan());
            assert!(got[role].data.iter().zip(&want.data).all(same), "{role} of {}", text(&b));
        }
    });
}

fn run_strided(plan: &Plan, b: &Backward, rng: &mut Rng) -> Tensors {
    let inputs: Vec<_> = b.inputs().map(|(role, array)| (role, Strided::random(rng, array))).collect();
    let mut outputs: Vec<_> =
        b.outputs().iter().map(|(&role, array)| (role, Strided::random(rng, array))).collect();
    let mut args = Args::new();
    for (role, strided) in &inputs {
        args = args.input(*role, strided.view());
    }
    for (role, strided) in &mut outputs {
        args = args.output(*role, strided.view_mut());
    }
    plan.backward(b.p.mode, &args, &mut b.workspace(plan))
        .unwrap_or_else(|error| panic!("{}: {error}", text(b)));
    outputs.iter().map(|(role, strided)| (*role, strided.read())).collect()
}

#[test]
fn any_strides() {
    each(middling, |rng, b| {
        let plan = b.p.plan(&context());
        let plain = b.run_plan(&plan);
        for _ in 0..2 {
            assert_same_bits(&run_strided(&plan, &b, rng), &plain, || text(&b));
        }
    });
}

/// The output's gradient broadcast, as that of a sum is.
#[test]
fn broadcast_gradient() {
    each(middling, |rng, b| {
        let mut b = b;
        let plan = b.p.plan(&context());
        let out = Role::OUT.grad();
        let one = noise(rng, &vec![1; b.given[&out].shape.len()]);
        let shape = b.given[&out].shape.clone();
        b.given.insert(out, Array::filled(&shape, one.data[0]));
        let want = b.run_plan(&plan);
        let rank = shape.len();
        let order: Vec<usize> = (0..rank).collect();
        let mut strided = Strided::new(&one, &order, &vec![0; rank], &vec![false; rank]);
        for (axis, &n) in shape.iter().enumerate() {
            strided = strided.broadcast(axis, n);
        }
        if shape.contains(&0) {
            return;
        }
        let mut got = b.outputs();
        let mut args = Args::new().input(out, strided.view());
        for (role, array) in b.inputs().filter(|(role, _)| *role != out) {
            args = args.input(role, subquad::View::new(&array.data, &array.shape).unwrap());
        }
        for (&role, array) in &mut got {
            args = args.output(role, subquad::ViewMut::new(&mut array.data, &array.shape).unwrap());
        }
        plan.backward(b.p.mode, &args, &mut b.workspace(&plan)).unwrap();
        assert_same_bits(&got, &want, || text(&b));
    });
}

#[test]
fn batch_order() {
    each(middling, |rng, b| {
        let plain = b.batch(&[0, 0, 0]);
        let mut three = plain.clone();
        for array in three.p.inputs.iter_mut().filter(|(role, _)| plain.p.axis(**role, "B").is_some()) {
            *array.1 = plain.p.values(rng, *array.0);
        }
        let plan = three.p.plan(&context());
        let whole = three.run_plan(&plan);
        let order = rng.pick(&[[2, 0, 1], [1, 2, 0], [0, 2, 1]]);
        let own = |tensors: &Tensors| -> Tensors {
            let own = tensors.iter().filter(|(role, _)| three.per_sequence(**role));
            own.map(|(&role, array)| (role, array.clone())).collect()
        };
        let pick = |entries: &[usize]| -> Tensors {
            let pick = |array: &Array| array.pick(0, entries.iter().copied());
            own(&whole).iter().map(|(&role, array)| (role, pick(array))).collect()
        };
        let permuted = three.batch(&order).run_plan(&plan);
        assert_same_bits(&own(&permuted), &pick(&order), || format!("{order:?} of {}", text(&three)));
        let alone = three.batch(&[1]).run_plan(&plan);
        assert_same_bits(&own(&alone), &pick(&[1]), || format!("one of {}", text(&three)));
    });
}

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

/// Decays from none to all but a reset.
#[test]
fn steep_decays() {
    let mut worst = 0.0f64;
    for mechanism in mechanisms().into_iter().filter(|mechanism| mechanism.role(Role::G).is_some()) {
        let mut rng = Rng::new(seed());
        let p = Problem::new(mechanism, vec![]).sized([2, 2, 2], (5, 7), 1, 45).fill(&mut rng, true);
        let mut b = Backward::new(&mut rng, p);
        let g = b.p.shape(Role::G);
        let mut steep = Array::filled(&g, 0.0);
        let decays = [0.0, -1e-6, -0.01, -3.0, -17.0, -60.0, -88.0, -104.0, -3000.0];
        steep.data.iter_mut().for_each(|g| *g = rng.pick(&decays));
        b.p.inputs.insert(Role::G, steep);
        worst = worst.max(compare(&mut rng, &b, &b.run(&context()), 30));
    }
    println!("worst error {worst:.3} of the tolerance");
}

/// Logits that write nothing, to a slot that is empty as well, and those beside which others count for nothing.
#[test]
fn extreme_logits() {
    let (mut worst, mut n) = (0.0f64, 0);
    for mechanism in mechanisms().into_iter().filter(|mechanism| mechanism.role(Role::SLOT_LOGITS).is_some())
    {
        for mode in MODES.into_iter().filter(|mode| mechanism.modes.contains(mode)) {
            for state in [false, true] {
                let mut rng = Rng::new(seed());
                let p = Problem::new(mechanism, vec![]).sized([2, 1, 1], (6, 7), 1, 45);
                let p = Problem { mode, ..p }.fill(&mut rng, state);
                let mut b = Backward::new(&mut rng, p);
                let slots = b.p.slots() as usize;
                let logits = b.p.inputs.get_mut(&Role::SLOT_LOGITS).unwrap();
                for (i, logit) in logits.data.iter_mut().enumerate() {
                    let silent = i < slots || i % slots == 3;
                    let few = [f32::NEG_INFINITY, -100.0, -1.0, 0.0, 1.0, 90.0, 100.0];
                    *logit = if silent { f32::NEG_INFINITY } else { rng.pick(&few) };
                }
                let got = b.run(&context());
                let silent = b.p.inputs[&Role::SLOT_LOGITS].data.iter().map(|x| *x == f32::NEG_INFINITY);
                for (gradient, silent) in got[&Role::SLOT_LOGITS.grad()].data.iter().zip(silent) {
                    assert!(!silent || *gradient == 0.0, "{gradient}: {}", text(&b));
                }
                worst = worst.max(compare(&mut rng, &b, &got, 60));
                n += 1;
            }
        }
    }
    println!("worst error {worst:.3} of the tolerance in {n} problems");
    assert!(n > 0);
}

/// What is no number stays in its sequence.
#[test]
fn nan_stays() {
    each(middling, |rng, b| {
        if b.p.b < 2 || b.p.t == 0 {
            return;
        }
        let mut hurt = b.clone();
        let out = hurt.given.get_mut(&Role::OUT.grad()).unwrap();
        let len = out.data.len() / b.p.b as usize;
        out.data[rng.below(len)] = rng.pick(&[f32::NAN, f32::INFINITY]);
        let plan = b.p.plan(&context());
        let rest = |all: Tensors| -> Tensors {
            let own = all.into_iter().filter(|(role, _)| b.per_sequence(*role));
            own.map(|(role, array)| (role, array.pick(0, 1..b.p.b as usize))).collect()
        };
        assert_same_bits(&rest(hurt.run_plan(&plan)), &rest(b.run_plan(&plan)), || text(&b));
    });
}
