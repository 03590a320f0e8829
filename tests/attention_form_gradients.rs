//! Gradients of mechanisms of the softmax engine that are more than one softmax over a sequence's keys, against central
//! differences of their definitions: random sizes, ragged batches, strides, every instruction set, several numbers of threads.

mod common;

#[path = "attention_forms/case.rs"]
#[allow(dead_code, reason = "forward tests use the rest")]
mod case;
#[path = "attention_forms/oracle.rs"]
#[allow(dead_code, reason = "forward tests use the rest")]
mod oracle;
#[path = "attention_forms/reverse.rs"]
mod reverse;

use common::golden::Array;
use common::problem::{isas, percent};
use common::support::{Rng, seed};
use reverse::{Gradients, Reverse};
use std::sync::Arc;
use subquad::{Context, ContextOptions, Role, ThreadPool};

const MECHANISMS: [&str; 3] = ["dnas", "lla", "dape_v2"];

fn cases(n: usize) -> usize {
    (n * percent()).div_ceil(100)
}

fn context() -> Context {
    Context::new(ContextOptions::new()).unwrap()
}

/// Relative to the gradient, to the largest one of its tensor, and absolute. A fit divides by what is small.
fn tolerances(name: &str) -> [f64; 3] {
    match name {
        "lla" => [2e-3, 5e-4, 1e-4],
        _ => [1e-4, 3e-5, 1e-5],
    }
}

/// Panics unless some elements of each gradient are the differences; gives the worst error over its tolerance.
#[track_caller]
fn compare(rng: &mut Rng, call: &Reverse, got: &Gradients, samples: usize) -> f64 {
    let [relative, of_largest, absolute] = tolerances(call.case.name);
    let mut worst = 0.0f64;
    for (&role, got) in got {
        assert!(got.data.iter().all(|x| x.is_finite()), "{role} has what is no number: {:?}", call.case);
        let largest = got.data.iter().fold(0.0f64, |most, &x| most.max(f64::from(x).abs()));
        for _ in 0..samples.min(got.data.len()) {
            let at = rng.below(got.data.len());
            let difference = |step| call.difference(role.base(), at, step);
            // A ridge may be as small as a step would be.
            let step = if role.base() == Role::RIDGE { 1e-5 } else { 1e-3 };
            let want = difference(step);
            let given = f64::from(got.data[at]);
            let tolerance = relative * want.abs() + of_largest * largest + absolute;
            let error = (given - want).abs() / tolerance;
            // Next to a kink differences are none.
            if error > 1.0 && (difference(step / 8.0) - want).abs() > 0.25 * tolerance {
                continue;
            }
            assert!(
                error <= 1.0,
                "{role}[{at}] is {given:e} for {want:e}, {error:.2} times the tolerance: {:?}",
                call.case
            );
            worst = worst.max(error);
        }
    }
    worst
}

#[test]
fn every_gradient() {
    for name in MECHANISMS {
        let mut worst = 0.0f64;
        for number in 0..cases(60) {
            let mut rng = Rng::new(seed() ^ (number as u64) << 32);
            let call = Reverse::random(&mut rng, name, 2_000_000);
            for isa in isas() {
                let context = Context::new(ContextOptions::new().max_isa(isa)).unwrap();
                let got = call.run(&context, &call.wanted(), Some(&mut rng)).unwrap();
                worst = worst.max(compare(&mut rng, &call, &got, 3));
            }
        }
        println!("{name}: worst error {worst:.3} of the tolerance");
    }
}

#[track_caller]
fn same_bits(got: &Array, want: &Array, what: &str) {
    let bits = |array: &Array| array.data.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(got), bits(want), "{what}");
}

/// Neither threads nor what else is wanted change a bit.
#[test]
fn same_bits_for_any_number_of_threads() {
    for name in MECHANISMS {
        for number in 0..cases(20) {
            let mut rng = Rng::new(seed() ^ (number as u64) << 33);
            let call = Reverse::random(&mut rng, name, 20_000_000);
            let wanted = call.wanted();
            let all = call.run(&context(), &wanted, None).unwrap();
            for threads in [2, 5] {
                let runner = Arc::new(ThreadPool::new(threads).unwrap());
                let context = Context::new(ContextOptions::new().runner(runner)).unwrap();
                let some: Vec<_> = wanted.iter().filter(|_| rng.one_in(2)).cloned().collect();
                for (role, got) in call.run(&context, &some, None).unwrap() {
                    same_bits(&got, &all[&role], &format!("{role} with {threads} threads: {:?}", call.case));
                }
                for (role, got) in call.run(&context, &wanted, None).unwrap() {
                    same_bits(&got, &all[&role], &format!("{role} with {threads} threads: {:?}", call.case));
                }
            }
            for one in &wanted {
                let got = call.run(&context(), std::slice::from_ref(one), None).unwrap();
                same_bits(&got[&one.0], &all[&one.0], &format!("{} alone: {:?}", one.0, call.case));
            }
        }
    }
}

/// Every entry of a batch is a call of its own.
#[test]
fn batches() {
    for name in MECHANISMS {
        for number in 0..cases(20) {
            let mut rng = Rng::new(seed() ^ (number as u64) << 34);
            let call = Reverse::random(&mut rng, name, 20_000_000);
            if call.case.ragged || call.case.lengths.len() < 2 {
                continue;
            }
            let whole = call.run(&context(), &call.wanted(), None).unwrap();
            for i in 0..call.case.lengths.len() {
                let mut one = call.clone();
                let n = call.case.lengths.len() as i64;
                let own = |role: &Role| {
                    let shape = &call.case.inputs[role].shape;
                    ![Role::BLEND, Role::ALIBI_SLOPES].contains(role) && shape.len() > 1 && shape[0] == n
                };
                one.case.lengths = vec![call.case.lengths[i]];
                let weights = [Role::W_CONV1, Role::W_CONV2];
                for (role, array) in one.case.inputs.iter_mut().filter(|(role, _)| !weights.contains(role)) {
                    if own(role) {
                        *array = array.pick(0, [i]);
                    }
                }
                for (_, values) in &mut one.case.indices {
                    *values = vec![values[i]];
                }
                one.dout = call.dout.pick(0, [i]);
                let got = one.run(&context(), &one.wanted(), None).unwrap();
                for role in [Role::Q, Role::K, Role::V].map(Role::grad) {
                    same_bits(&got[&role], &whole[&role].pick(0, [i]), &format!("{role}: {:?}", call.case));
                }
            }
        }
    }
}
