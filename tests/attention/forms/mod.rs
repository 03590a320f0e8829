//! Mechanisms of the softmax engine that are more than one softmax over a sequence's keys, against their definitions in
//! `f64`: random sizes, ragged batches, strides, element types, every instruction set, several numbers of threads.

mod backward;
mod case;
mod gradients;
mod oracle;
mod pieces;
mod reverse;
mod steps;

use crate::common::problem::{isas, percent};
use crate::common::support::{Rng, seed};
use crate::common::types::{PLAIN, TYPES, Types, unit};
use case::{Case, Run};
use std::sync::Arc;
use subquad::{Context, ContextOptions, DType, Desc, Error, Mode, Plan, Role, ThreadPool};

const MECHANISMS: [&str; 6] = ["fam_block", "hard_retrieval", "dnas", "srformer", "lla", "dape_v2"];

fn cases() -> usize {
    (120 * percent()).div_ceil(100)
}

/// Panics unless the outputs are those of the definition, evaluated in `f32` and rounded to their types.
#[track_caller]
fn compare(case: &Case, run: &Run, isa: subquad::Isa, types: Types) -> f64 {
    let mut worst = 0.0f64;
    for (role, want) in oracle::expect(case) {
        let Some(got) = run.reals.get(&role) else { continue };
        let carried = [Role::STATE_OUT, Role::MEMORY_OUT, Role::TOTAL_OUT, Role::Z_OUT].contains(&role);
        let stored = if carried { types.of(role) } else { types.out };
        let rounding = if stored == DType::F32 { 0.0 } else { 1.01 * unit(stored) };
        for (i, (&g, w)) in got.data.iter().zip(&want).enumerate() {
            let (value, tolerance) = (w.value, w.tolerance + rounding * w.value.abs() + 1e-7);
            let error = (f64::from(g) - value).abs() / tolerance;
            assert!(
                error <= 1.0,
                "{role} element {i} is {g} for {value} on {isa}, {error} times the tolerance: {case:?}"
            );
            worst = worst.max(error);
        }
    }
    oracle::check_index(case, run);
    worst
}

#[test]
fn every_mechanism() {
    for name in MECHANISMS {
        let mut worst = 0.0f64;
        for number in 0..cases() {
            let mut rng = Rng::new(seed() ^ (number as u64) << 32);
            let case = Case::random(&mut rng, name);
            for isa in isas() {
                let context = Context::new(ContextOptions::new().max_isa(isa)).unwrap();
                let run = case.run(&context, PLAIN, Some(&mut rng)).unwrap();
                worst = worst.max(compare(&case, &run, isa, PLAIN));
            }
        }
        println!("{name}: worst error {worst:.3} of the tolerance");
    }
}

#[test]
fn other_types() {
    for name in MECHANISMS {
        for number in 0..cases() / 2 {
            let mut rng = Rng::new(seed() ^ (number as u64) << 33);
            let types = rng.pick(&TYPES);
            let case = Case::random(&mut rng, name).rounded(types);
            let context = Context::new(ContextOptions::new()).unwrap();
            let run = case.run(&context, types, Some(&mut rng)).unwrap();
            compare(&case, &run, context.isa(), types);
        }
    }
}

#[test]
fn same_bits_for_any_number_of_threads() {
    for name in MECHANISMS {
        for number in 0..cases() / 6 {
            let mut rng = Rng::new(seed() ^ (number as u64) << 34);
            let case = Case::random(&mut rng, name);
            let run = |threads| {
                let context =
                    Context::new(ContextOptions::new().runner(Arc::new(ThreadPool::new(threads).unwrap())))
                        .unwrap();
                case.run(&context, PLAIN, None).unwrap().bits()
            };
            let one = run(1);
            assert!(run(2) == one && run(5) == one, "{case:?}");
        }
    }
}

/// What a query does not see may hold anything; where it sees a NaN, its output is one.
#[test]
fn hidden_nan() {
    let context = Context::new(ContextOptions::new()).unwrap();
    for name in MECHANISMS {
        for number in 0..cases() / 3 {
            let mut rng = Rng::new(seed() ^ (number as u64) << 35);
            let case = Case::random(&mut rng, name);
            let Some((spoilt, reached)) = case.with_nan(&mut rng) else { continue };
            let (plain, run) =
                (case.run(&context, PLAIN, None).unwrap(), spoilt.run(&context, PLAIN, None).unwrap());
            let (plain, out) = (&plain.reals[&Role::OUT].data, &run.reals[&Role::OUT].data);
            for (i, (x, y)) in plain.iter().zip(out).enumerate() {
                let ok = if reached(i) { y.is_nan() } else { (x - y).abs() <= 1e-5 * (1.0 + x.abs()) };
                assert!(ok, "out element {i} is {y}, without the NaN {x}: {spoilt:?}");
            }
        }
    }
}

#[track_caller]
fn refused(desc: Desc, text: &str) {
    let context = Context::new(ContextOptions::new()).unwrap();
    let error: Error = Plan::new(&context, &desc).unwrap_err();
    assert!(error.to_string().contains(text), "`{error}` does not speak of `{text}`");
}

#[test]
fn wrong_parameters() {
    let desc = |name, mode: Mode| Desc::new(name).heads(4, 2, 2).dims(8, 6).modes(mode);
    for smoothing in [-0.1, 1.0, 1.5] {
        refused(desc("hard_retrieval", Mode::Causal).param("smoothing", smoothing), "smoothing");
    }
    refused(desc("hard_retrieval", Mode::Causal).param("softcap", 1.0), "softcap");
    refused(desc("fam_block", Mode::Causal).param("scale", 0.0), "scale");
    refused(desc("fam_block", Mode::Bidirectional), "causal at block granularity");
    refused(desc("dnas", Mode::Causal), "later queries");
    refused(desc("dnas", Mode::Cross).param("scale", -1.0), "scale");
    let srformer = |mode| Desc::new("srformer").heads(2, 2, 2).dims(8, 8).modes(mode).param("block", 4i64);
    refused(srformer(Mode::Step), "gen_len");
    refused(srformer(Mode::Causal), "only cross-attention");
    refused(srformer(Mode::Cross).heads(4, 2, 2), "heads_q");
    refused(srformer(Mode::Cross).dims(8, 6), "dim_v");
    refused(Desc::new("srformer").heads(2, 2, 2).dims(8, 8).modes(Mode::Cross), "block");
    for (name, value) in [("threshold", 0.0), ("leak", 1.5), ("kv_limit", -1.0)] {
        refused(srformer(Mode::Cross).param(name, value), name);
    }
    refused(srformer(Mode::Cross).param("gen_len", 0i64), "gen_len");
    refused(srformer(Mode::Cross).param("pad", "none"), "pad");
    refused(desc("lla", Mode::Causal).param("ridge", 0.0), "ridge");
    refused(desc("dape_v2", Mode::Causal).param("K", 3i64), "F");
    refused(desc("dape_v2", Mode::Causal).param("F", 4i64), "K");
    refused(desc("dape_v2", Mode::Causal).param("F", 4i64).param("K", 4i64), "odd");
    refused(desc("dape_v2", Mode::Causal).param("F", 4i64).param("K", 33i64), "at most 31");
    refused(desc("dape_v2", Mode::Cross), "the map is causal");
    refused(desc("lla", Mode::Causal).param("ridge", 1.0).param("solver", "lu"), "solver");
    refused(desc("lla", Mode::Causal).param("ridge", 1.0).param("cg_max_iters", 0i64), "cg_max_iters");
    refused(desc("lla", Mode::Causal).param("ridge", 1.0).param("window_right", 3i64), "window_right");
}

/// `F` may be given; then the memory has to have it.
#[test]
fn memory_rows() {
    let context = Context::new(ContextOptions::new()).unwrap();
    let mut rng = Rng::new(seed());
    let mut case = Case::random(&mut rng, "fam_block");
    case.params.push(("F", 4096i64.into()));
    let error = case.run(&context, PLAIN, None).unwrap_err();
    assert!(error.to_string().contains("fam_q"), "{error}");
}

/// A ridge is a parameter or a tensor.
#[test]
fn one_ridge() {
    let context = Context::new(ContextOptions::new()).unwrap();
    let mut rng = Rng::new(seed());
    let mut case = Case::random(&mut rng, "lla");
    case.params.retain(|(name, _)| *name != "ridge");
    case.inputs.remove(&Role::RIDGE);
    let error = case.run(&context, PLAIN, None).unwrap_err();
    assert!(error.to_string().contains("ridge"), "{error}");
    case.params.push(("ridge", 0.5.into()));
    case.run(&context, PLAIN, None).unwrap();
    case.inputs.insert(Role::RIDGE, crate::common::golden::Array::filled(&[1], 0.5));
    let error = case.run(&context, PLAIN, None).unwrap_err();
    assert!(error.to_string().contains("ridge"), "{error}");
}

#[test]
fn query_len_is_checked() {
    let context = Context::new(ContextOptions::new()).unwrap();
    let mut rng = Rng::new(seed());
    let mut case = Case::random(&mut rng, "dnas");
    case.indices.retain(|(role, _)| *role != Role::QUERY_LEN);
    case.indices.push((Role::QUERY_LEN, vec![1 << 20; case.lengths.len()]));
    let error = case.run(&context, PLAIN, None).unwrap_err();
    assert!(error.to_string().contains("query_len"), "{error}");
}
