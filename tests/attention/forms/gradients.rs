//! Gradients of mechanisms of the softmax engine that are more than one softmax over a sequence's keys, against central
//! differences of their definitions: random sizes, ragged batches, strides, every instruction set, several numbers of threads.

use super::reverse::{Gradients, Reverse};
use crate::common::golden::Array;
use crate::common::problem::{isas, percent};
use crate::common::support::{Rng, seed};
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

/// Step of the differences, which `f64` takes: small, as there are thousands of kinks to a bias of a convolution.
const STEP: f32 = 2e-6;

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
            let want = difference(STEP);
            let given = f64::from(got.data[at]);
            let tolerance = relative * want.abs() + of_largest * largest + absolute;
            let error = (given - want).abs() / tolerance;
            // Next to a kink differences are none.
            if error > 1.0 && (difference(STEP / 8.0) - want).abs() > 0.25 * tolerance {
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
        for number in 0..cases(20) {
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

/// What no query that counts sees may hold anything; where one sees a NaN, its gradient is one.
#[test]
fn hidden_nan() {
    for name in MECHANISMS {
        for number in 0..cases(60) {
            let mut rng = Rng::new(seed() ^ (number as u64) << 35);
            let call = Reverse::random(&mut rng, name, 5_000_000);
            let case = &call.case;
            let sequence = rng.below(case.lengths.len());
            let ((batch, q0, k0), (n_q, n_k)) = (case.start(sequence), case.lengths[sequence]);
            let live = case.length(Role::QUERY_LEN, sequence, n_q);
            if n_q == 0 || n_k == 0 {
                continue;
            }
            let (key, key_head) = (rng.below(n_k), rng.below(case.heads.1));
            let mut spoilt = call.clone();
            let role = rng.pick(&[Role::K, Role::V]);
            let array = spoilt.case.inputs.get_mut(&role).unwrap();
            let channels = array.shape[3] as usize;
            let row = (batch * case.heads.1 + key_head) * array.shape[2] as usize + k0 + key;
            array.data[row * channels + rng.below(channels)] = f32::NAN;
            let [plain, got] =
                [&call, &spoilt].map(|call| call.run(&context(), &call.wanted(), None).unwrap());
            let sets = case.heads.0 / case.heads.1;
            // Convolutions go across heads.
            let of_head = |head: usize| name == "dape_v2" || head / sets == key_head;
            let reached = |t: usize| t < live && case.visible(sequence, t).contains(&key);
            let dq = Role::Q.grad();
            let (n, d) = (plain[&dq].shape[2] as usize, case.d);
            for (i, (x, y)) in plain[&dq].data.iter().zip(&got[&dq].data).enumerate() {
                let (b, head, t) = (i / d / n / case.heads.0, i / d / n % case.heads.0, i / d % n);
                let own = b == batch && (q0..q0 + n_q).contains(&t) && of_head(head);
                let ok = match own && reached(t - q0) {
                    true => y.is_nan(),
                    false => (x - y).abs() <= 1e-4 * (1.0 + x.abs()),
                };
                assert!(ok, "dq[{i}] is {y}, without the NaN {x}: {case:?}");
            }
            // A key that is seen by nobody who sees the NaN.
            let touched = |s: usize| (0..live).any(|t| reached(t) && case.visible(sequence, t).contains(&s));
            for role in [Role::K, Role::V].map(Role::grad) {
                let [_, heads, n, channels] = [0, 1, 2, 3].map(|axis| plain[&role].shape[axis] as usize);
                for (i, (x, y)) in plain[&role].data.iter().zip(&got[&role].data).enumerate() {
                    let (b, head, s) = (i / channels / n / heads, i / channels / n % heads, i / channels % n);
                    let own = b == batch && (k0..k0 + n_k).contains(&s) && (of_head(head * sets));
                    let ok = own && touched(s - k0) || (x - y).abs() <= 1e-4 * (1.0 + x.abs());
                    assert!(ok, "{role}[{i}] is {y}, without the NaN {x}: {case:?}");
                }
            }
        }
    }
}

/// Queries and keys past their lengths are not read, and have gradients of 0.
#[test]
fn lengths() {
    for name in ["dnas", "lla"] {
        for number in 0..cases(60) {
            let mut rng = Rng::new(seed() ^ (number as u64) << 36);
            let call = Reverse::random(&mut rng, name, 5_000_000);
            let case = &call.case;
            let has = |role| case.indices.iter().any(|(own, _)| *own == role);
            if !has(Role::KEY_LEN) && !has(Role::QUERY_LEN) {
                continue;
            }
            // Which rows of a tensor are past the length of their sequence.
            let past = |shape: &[i64], of_queries: bool, row: usize| {
                let (n, h) = (shape[2] as usize, shape[1] as usize);
                let (b, t) = (row / n / h, row % n);
                (0..case.lengths.len()).any(|i| {
                    let ((batch, q0, k0), (n_q, n_k)) = (case.start(i), case.lengths[i]);
                    let (first, n, role) =
                        if of_queries { (q0, n_q, Role::QUERY_LEN) } else { (k0, n_k, Role::KEY_LEN) };
                    b == batch && (first + case.length(role, i, n)..first + n).contains(&t)
                })
            };
            let spoil = |array: &mut Array, of_queries: bool| {
                let (shape, channels) = (array.shape.clone(), array.shape[3] as usize);
                for (row, data) in array.data.chunks_exact_mut(channels).enumerate() {
                    if past(&shape, of_queries, row) {
                        data.fill(f32::NAN);
                    }
                }
            };
            let mut spoilt = call.clone();
            spoil(&mut spoilt.dout, true);
            for (role, of_queries) in [(Role::Q, true), (Role::K, false), (Role::V, false)] {
                spoil(spoilt.case.inputs.get_mut(&role).unwrap(), of_queries);
            }
            let [plain, got] =
                [&call, &spoilt].map(|call| call.run(&context(), &call.wanted(), None).unwrap());
            for (role, want) in &plain {
                same_bits(&got[role], want, &format!("{role}: {case:?}"));
                if want.shape.len() == 4 {
                    let channels = want.shape[3] as usize;
                    for (row, data) in want.data.chunks_exact(channels).enumerate() {
                        let past = past(&want.shape, role.base() == Role::Q, row);
                        assert!(!past || data.iter().all(|&x| x == 0.0), "{role}, row {row}: {case:?}");
                    }
                }
            }
        }
    }
}

#[track_caller]
fn refused(call: &Reverse, wanted: &[(Role, Vec<i64>)], words: &[&str]) {
    let error = call.run(&context(), wanted, None).expect_err("the call is refused").to_string();
    assert!(words.iter().all(|word| error.contains(word)), "`{error}` does not speak of {words:?}");
}

#[test]
fn wrong_calls() {
    let mut rng = Rng::new(seed());
    let with = |rng: &mut Rng, name, fits: &dyn Fn(&Reverse) -> bool| loop {
        let call = Reverse::random(rng, name, 1_000_000);
        if fits(&call) && call.case.lengths.iter().all(|&(t, s)| t > 0 && s > 0) {
            return call;
        }
    };
    let ridge = Role::RIDGE.grad();
    // The gradient of a parameter is a number, whatever the shapes of the tensor in its place.
    let call = with(&mut rng, "lla", &|call| call.case.real("ridge").is_some());
    call.run(&context(), &[(ridge, vec![1])], None).unwrap();
    let heads = call.case.heads.0 as i64;
    refused(&call, &[(ridge, vec![call.case.lengths.len() as i64, heads])], &["dridge", "rank"]);
    refused(&call, &[(ridge, vec![2])], &["dridge.shape[0] is 2"]);
    let mut bound = call.clone();
    bound.case.inputs.insert(Role::RIDGE, Array::filled(&[1], 0.5));
    refused(&bound, &call.wanted(), &["role ridge", "parameter ridge is given"]);
    // Of a tensor it has its shape.
    let call = with(&mut rng, "lla", &|call| {
        call.case.inputs.get(&Role::RIDGE).is_some_and(|ridge| ridge.shape.len() == 2)
    });
    refused(&call, &[(ridge, vec![1])], &["dridge", "rank"]);
    // Without the tensor there is none.
    let call = with(&mut rng, "dnas", &|call| !call.case.inputs.contains_key(&Role::BLEND));
    refused(&call, &[(Role::BLEND.grad(), vec![call.case.heads.0 as i64])], &["role blend", "wanted"]);
    let mut given = call.clone();
    let shape = call.case.outputs[&Role::OUT].clone();
    given.case.inputs.insert(Role::OUT, Array::filled(&shape, 0.0));
    refused(&given, &[], &["role out", "its gradient"]);
    let call = with(&mut rng, "dape_v2", &|call| call.case.inputs.contains_key(&Role::ALIBI_SLOPES));
    let slopes = (Role::ALIBI_SLOPES.grad(), vec![call.case.heads.0 as i64]);
    refused(&call, &[slopes], &["dalibi_slopes", "no gradient"]);
    let mut part = call.clone();
    part.case.inputs.remove(&Role::B_CONV2);
    refused(&part, &[], &["role b_conv2"]);
    let mut wanted = call.wanted();
    let (_, shape) = wanted.iter_mut().find(|(role, _)| *role == Role::W_CONV1.grad()).unwrap();
    shape[2] += 1;
    refused(&call, &wanted, &["dw_conv1.shape[2]"]);
}
