//! What holds for every mechanism, whatever it computes: splits, batches, strides, runners, ragged and pooled calls,
//! shared heads, in-place states. Equal means equal bits, except where a test says otherwise.
//!
//! Problems come from the catalogue: each mechanism with its defaults, with every value of every parameter, and with
//! some at random. `SUBQUAD_SEED=<seed>` repeats a run.

mod batches;
#[path = "../common/mod.rs"]
mod common;
mod gated_units;
mod hostile;
mod isa;
mod layouts;
mod runners;
mod splits;

use common::golden::Array;
use common::oracle;
use common::problem::{
    self, Problem, Strided, Tensors, assert_lively, assert_same_bits, context, out_of, workspace,
};
use common::support::{Rng, seed};
use std::sync::Arc;
use subquad::catalog::RoleKind;
use subquad::{Args, Context, ContextOptions, Isa, Mode, Plan, Role, Runner, ThreadPool, View, ViewMut};

const MODES: [Mode; 5] = [Mode::Causal, Mode::Bidirectional, Mode::Cross, Mode::Step, Mode::Transform];

/// Calls `f` with problems of every mechanism that has `mode`; the last of each is large enough for several panels of
/// the state and several blocks of chunks.
#[track_caller]
fn each(mode: Mode, mut f: impl FnMut(&mut Rng, Problem)) {
    each_of(mode, &mut f);
}

/// Compiled once, not for each test.
#[track_caller]
fn each_of(mode: Mode, f: &mut dyn FnMut(&mut Rng, Problem)) {
    let mut n = 0;
    for mechanism in problem::mechanisms().into_iter().filter(|m| m.modes.contains(&mode)) {
        let heads = problem::heads(mechanism);
        let variants = problem::variants(mechanism);
        let cases = variants.len() + 4;
        // The last one is large.
        for case in (0..cases).filter(|&case| case + 1 == cases || problem::taken(case)) {
            let mut rng = Rng::new(seed().wrapping_add((case as u64) << 32));
            let rng = &mut rng;
            let params = variants.get(case).cloned();
            let params = params.unwrap_or_else(|| problem::random_params(rng, mechanism));
            let (dims, t) = if case + 1 == cases {
                ((100 + rng.below(40) as i64, 150), 40)
            } else {
                ((1 + rng.below(40) as i64, 1 + rng.below(40) as i64), rng.below(80) as i64)
            };
            let mut p =
                Problem::new(mechanism, params).sized(rng.pick(&heads), dims, 1 + rng.below(3) as i64, t);
            p.mode = mode;
            p.shift = true;
            match mode {
                Mode::Step => (p.t, p.s) = (1, if p.caches() { 1 + rng.below(150) as i64 } else { 1 }),
                Mode::Cross if p.windowed() => p.s = p.t + rng.below(50) as i64,
                Mode::Cross => p.s = rng.below(50) as i64,
                _ => {}
            }
            let state = rng.one_in(2);
            let p = p.fill(rng, state);
            f(rng, p);
            n += 1;
        }
    }
    assert!(n * 100 >= 10 * problem::percent(), "{n} problems of mode {mode}");
}

fn each_mode(mut f: impl FnMut(&mut Rng, Problem)) {
    MODES.into_iter().for_each(|mode| each_of(mode, &mut f));
}

fn text(p: &Problem) -> String {
    format!("SUBQUAD_SEED={}: {p}", seed())
}

/// The same problem with another number of tokens.
fn resized(rng: &mut Rng, p: &Problem, t: i64) -> Problem {
    let mut p = p.clone();
    (p.t, p.s) = (t, t);
    let roles: Vec<Role> = p.inputs.keys().copied().collect();
    for role in roles {
        let values = p.values(rng, role);
        p.inputs.insert(role, values);
    }
    p
}

/// New values for a problem whose batch has changed.
fn resized_batch(rng: &mut Rng, p: &Problem) -> Problem {
    let mut p = p.clone();
    let roles: Vec<Role> = p.inputs.keys().copied().collect();
    for role in roles {
        let values = p.values(rng, role);
        p.inputs.insert(role, values);
    }
    p
}

/// Runs a problem on these arrangements of its inputs and outputs, and gives the outputs as contiguous arrays.
fn run_strided(
    plan: &Plan,
    p: &Problem,
    inputs: &[(Role, Strided)],
    mut outputs: Vec<(Role, Strided)>,
) -> Tensors {
    let mut args = Args::new();
    for (role, strided) in inputs {
        args = args.input(*role, strided.view());
    }
    for (role, strided) in &mut outputs {
        args = args.output(*role, strided.view_mut());
    }
    plan.execute(p.mode, &args, &mut workspace(plan)).unwrap_or_else(|error| panic!("{}: {error}", text(p)));
    outputs.iter().map(|(role, strided)| (*role, strided.read())).collect()
}
