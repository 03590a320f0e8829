//! Backward against central differences of the oracle, and what holds for every gradient: splits, batches, strides,
//! runners, ragged and pooled calls, subsets of what is wanted. Equal means equal bits, except where a test says
//! otherwise. `SUBQUAD_SEED=<seed>` repeats a run.

mod bits;
#[path = "../common/mod.rs"]
mod common;
mod differences;
mod exp;
mod sequences;
mod types;

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
fn each(size: fn(&mut Rng, Problem) -> Problem, mut f: impl FnMut(&mut Rng, Backward)) {
    each_of(size, &mut f);
}

/// Compiled once, not for each test.
#[track_caller]
fn each_of(size: fn(&mut Rng, Problem) -> Problem, f: &mut dyn FnMut(&mut Rng, Backward)) {
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
