//! Forget gates with a tolerance: what is left out is what the rule says, no more and no less, and changes results by no
//! more than the tolerance.

use crate::common::backward::Backward;
use crate::common::golden::{Array, Golden, files};
use crate::common::problem::{self, Problem, Tensors, assert_same_bits, context};
use crate::common::support::{Rng, seed};
use std::sync::Arc;
use subquad::{Context, ContextOptions, Mode, Role, ThreadPool};

/// Queries, keys, values and gates.
fn problem(heads: [i64; 3], d: i64, b: i64, (t, s): (i64, i64)) -> Problem {
    let mut p = Problem::named("fox").sized(heads, (d, 20), b, t);
    (p.mode, p.s) = (if t == 1 { Mode::Step } else { Mode::Causal }, s);
    let mut p = p.fill(&mut Rng::new(seed()), false);
    p.inputs.retain(|role, _| [Role::Q, Role::K, Role::V, Role::G].contains(role));
    p
}

/// The same with gates of this many units, a strong one now and then.
fn gated(mut p: Problem, unit: f32) -> Problem {
    let mut rng = Rng::new(seed() ^ 1);
    for x in &mut p.inputs.get_mut(&Role::G).unwrap().data {
        *x = if rng.one_in(50) { 300.0 } else { 1.0 } * -unit * rng.signed().abs();
    }
    p
}

fn with(mut p: Problem, role: Role, data: &[f32]) -> Problem {
    p.inputs.insert(role, Array { shape: p.shape(role), data: data.to_vec() });
    p
}

/// Problems that differ in what else there is.
fn problems() -> Vec<Problem> {
    let mut all = Vec::new();
    for (heads, lengths) in
        [([4, 2, 2], (700, 700)), ([2, 2, 2], (70, 900)), ([3, 1, 1], (5, 600)), ([4, 1, 1], (1, 1200))]
    {
        let p = gated(problem(heads, if heads[0] == 2 { 32 } else { 24 }, 2, lengths), 0.6);
        let sinks: Vec<f32> = (0..heads[0]).map(|h| h as f32 - 1.0).collect();
        all.push(p.clone().param("softcap", 2.0));
        all.push(p.clone().param("window_left", 333));
        all.push(with(p.clone(), Role::SINK, &sinks));
        let mut short = p.clone();
        short.indices.push((Role::KEY_LEN, vec![lengths.1 as i32, lengths.1 as i32 - 40]));
        all.extend([short, p]);
    }
    all
}

/// Half of the keys lie behind one strong gate, and all scores are the largest or the least that norms allow.
struct Cliff {
    p: Problem,
    /// Twice the bound of a score.
    span: f64,
    tol: f64,
}

const OLD: usize = 128;

impl Cliff {
    fn new(d: i64, (t, s): (i64, i64), tol: f64) -> Cliff {
        let mut p = problem([2, 1, 1], d, 1, (t, s)).param("prune_log_tol", tol).param("scale", 0.5);
        let (d, s) = (p.d as usize, s as usize);
        // Queries of norm 2, keys of norm 4, along one axis; the values of old keys are not numbers.
        let axis = |n: usize, norm: &dyn Fn(usize) -> f32| -> Vec<f32> {
            (0..n * d).map(|i| if i % d == 7 { norm(i / d) } else { 0.0 }).collect()
        };
        p.inputs.get_mut(&Role::Q).unwrap().data = axis(2 * t as usize, &|_| 2.0);
        p.inputs.get_mut(&Role::K).unwrap().data = axis(s, &|key| if key < OLD { 4.0 } else { -4.0 });
        let e = p.e as usize;
        p.inputs.get_mut(&Role::V).unwrap().data[..OLD * e].fill(f32::NAN);
        Cliff { p, span: 8.0, tol }
    }

    /// The gate that leaves `slack` between the decay and the limit of a row that sees `n` keys.
    fn gate(&mut self, n: usize, slack: f64) {
        let limit = self.tol - (n as f64).ln() - self.span;
        let s = self.p.s as usize;
        let g = &mut self.p.inputs.get_mut(&Role::G).unwrap().data;
        g.fill(0.0);
        (0..2).for_each(|head| g[head * s + OLD] = (limit - slack) as f32);
    }

    /// Rows that see keys behind the gate: outputs of both heads.
    fn rows(&self) -> Vec<f32> {
        let (t, s, e) = (self.p.t as usize, self.p.s as usize, self.p.e as usize);
        let out = self.p.run(&context()).remove(&Role::OUT).unwrap().data;
        let first = OLD.saturating_sub(s - t);
        (0..2).flat_map(|head| out[(head * t + first) * e..(head + 1) * t * e].to_vec()).collect()
    }
}

/// Values of keys that are left out are not read, and those of all others are.
#[test]
fn the_limit() {
    for (d, lengths) in [(24, (190, 190)), (32, (40, 180)), (80, (3, 150)), (24, (1, 256)), (32, (1, 200))] {
        for tol in [-10.0, -20.0, 0.0] {
            let mut cliff = Cliff::new(d, lengths, tol);
            let s = lengths.1 as usize;
            let first = OLD.max(s - lengths.0 as usize) + 1;
            let (all, none) = (|x: &f32| !x.is_nan(), |x: &f32| x.is_nan());
            let what = |cliff: &Cliff| format!("{lengths:?}, {tol}: {}", cliff.p);
            // What is added for rounding is less than 1/10.
            cliff.gate(s, 0.1);
            assert!(cliff.rows().iter().all(all), "{}", what(&cliff));
            cliff.gate(first, -0.01);
            assert!(cliff.rows().iter().all(none), "{}", what(&cliff));
            // A cap bounds scores as well.
            cliff.p = cliff.p.param("softcap", 1.5);
            cliff.span = 3.0;
            cliff.gate(first, -0.01);
            assert!(cliff.rows().iter().all(none), "{}", what(&cliff));
            cliff.gate(s, 0.1);
            assert!(cliff.rows().iter().all(all), "{}", what(&cliff));
            // A sink takes nothing away.
            cliff.p = with(cliff.p, Role::SINK, &[30.0, -30.0]);
            assert!(cliff.rows().iter().all(all), "{}", what(&cliff));
        }
    }
}

/// A bias and slopes shift scores by what no norm bounds: nothing is left out.
#[test]
fn shifted_scores() {
    for role in [Role::BIAS, Role::ALIBI_SLOPES] {
        for lengths in [(190, 190), (1, 200)] {
            let mut cliff = Cliff::new(24, lengths, -10.0);
            cliff.gate(lengths.1 as usize, 3.0);
            assert!(cliff.rows().iter().all(|x| !x.is_nan()));
            let n = cliff.p.shape(role).iter().product::<i64>() as usize;
            cliff.p = with(cliff.p, role, &vec![0.0; n]);
            assert!(cliff.rows().iter().all(|x| x.is_nan()), "{role}");
        }
    }
}

/// A key that is not a number, or whose norm overflows, is not left out, nor is any other of its head.
#[test]
fn keys_without_a_bound() {
    for key in [f32::NAN, -f32::NAN, f32::INFINITY, 1e30] {
        for (at, cap) in [(5, 0.0), (OLD + 3, 0.0), (5, 1.5)] {
            let mut cliff = Cliff::new(if at < OLD { 24 } else { 32 }, (190, 190), -10.0);
            cliff.p = cliff.p.param("softcap", cap);
            cliff.gate(190, 3.0);
            let d = cliff.p.d as usize;
            cliff.p.inputs.get_mut(&Role::K).unwrap().data[at * d + 9] = key;
            assert!(cliff.rows().iter().all(|x| x.is_nan()), "{key} at {at}");
            // Unless it is padding.
            cliff.p.indices.push((Role::KEY_LEN, vec![OLD as i32 + 1]));
            let read = cliff.rows().iter().any(|x| x.is_nan());
            assert_eq!(read, at < OLD, "{key} at {at}");
        }
    }
}

fn largest(array: &Array) -> f64 {
    array.data.iter().fold(0.0, |most, &x| most.max(f64::from(x).abs()))
}

/// The largest difference to what is computed without a tolerance.
fn difference(got: &Array, want: &Array) -> f64 {
    let pairs = got.data.iter().zip(&want.data);
    let one = |(&a, &b): (&f32, &f32)| if a.to_bits() == b.to_bits() { 0.0 } else { f64::from(a - b).abs() };
    pairs.map(one).fold(0.0, f64::max)
}

#[test]
fn within_the_tolerance() {
    let mut changed = 0;
    for p in problems() {
        for isa in problem::isas() {
            let context = &problem::context_of(isa);
            let want = p.run(context);
            for tol in [-0.5, -10.0, -20.0] {
                let got = p.clone().param("prune_log_tol", tol).run(context);
                let share = f64::exp(tol);
                let out = difference(&got[&Role::OUT], &want[&Role::OUT]);
                let v = largest(&p.inputs[&Role::V]);
                assert!(out <= (2.0 * share + 4e-7) * v, "{isa}, {tol}: {out:e}: {p}");
                let lse = difference(&got[&Role::LSE], &want[&Role::LSE]);
                let loss = -f64::ln_1p(-share);
                assert!(
                    lse <= loss + 4e-7 * largest(&want[&Role::LSE]).min(50.0),
                    "{isa}, {tol}: {lse:e}: {p}"
                );
                changed += usize::from(out > 0.0);
            }
        }
    }
    assert!(changed > 0, "nothing was left out");
}

#[test]
fn gradients_within_the_tolerance() {
    let mut rng = Rng::new(seed());
    for p in problems().into_iter().filter(|p| p.mode == Mode::Causal) {
        let mut b = Backward::new(&mut rng, p);
        b.given.retain(|&role, _| role == Role::OUT.grad());
        let want = b.run(&context());
        for tol in [-10.0, -20.0] {
            b.p = b.p.param("prune_log_tol", tol);
            let got = b.run(&context());
            for (role, want) in &want {
                // What is left out counts for each row with its share, times what a pair adds at most; many rows add up.
                let scale = largest(want).max(1.0);
                let error = difference(&got[role], want);
                let allowed = (40.0 * f64::exp(tol) + 2e-5) * scale;
                assert!(error <= allowed, "{role}, {tol}: {error:e} of {allowed:e}: {}", b.p);
            }
        }
    }
}

/// Keys that are left out have no gradients of the rows that leave them out, and give them none.
#[test]
fn gradients_of_what_is_left_out() {
    for (t, s) in [(190, 190), (50, 180)] {
        let mut cliff = Cliff::new(24, (t, s), -10.0);
        cliff.gate(s as usize, 0.1);
        let mut b = Backward::new(&mut Rng::new(seed()), cliff.p);
        b.given.retain(|&role, _| role == Role::OUT.grad());
        let got = b.run(&context());
        let (d, t, s) = (b.p.d as usize, t as usize, s as usize);
        let first = OLD.saturating_sub(s - t);
        let dq = &got[&Role::Q.grad()].data;
        assert!(
            (0..2).all(|head| dq[(head * t + first) * d..(head + 1) * t * d].iter().all(|x| !x.is_nan()))
        );
        assert!(got[&Role::K.grad()].data[OLD * d..].iter().all(|x| !x.is_nan()));
        if first == 0 {
            assert!(got[&Role::K.grad()].data[..OLD * d].iter().all(|&x| x == 0.0));
        }
    }
}

/// The same bits for any number of threads, and whatever else is in the batch.
#[test]
fn same_bits() {
    let pool = |n| ContextOptions::new().runner(Arc::new(ThreadPool::new(n).unwrap()));
    let contexts = [2, 3].map(|n| Context::new(pool(n)).unwrap());
    for p in problems() {
        let p = p.param("prune_log_tol", -10.0);
        let serial = p.run(&context());
        for context in &contexts {
            assert_same_bits(&p.run(context), &serial, || format!("{} workers: {p}", context.max_workers()));
        }
        let want: Tensors = serial.iter().map(|(&role, array)| (role, array.pick(0, [1]))).collect();
        let mut one = p.batch(&[1]);
        for (_, lengths) in &mut one.indices {
            *lengths = vec![*lengths.last().unwrap()];
        }
        assert_same_bits(&one.run(&context()), &want, || format!("alone: {p}"));
    }
}

/// More heads than norms are kept of at a time.
#[test]
fn many_heads() {
    let mut cliff = Cliff::new(32, (1, 200), -10.0);
    cliff.gate(200, 0.1);
    let n = 1500;
    cliff.p = cliff.p.batch(&vec![0; n]);
    let is_large = |sequence: usize| (sequence * 37 % 101).is_multiple_of(2);
    let keys = &mut cliff.p.inputs.get_mut(&Role::K).unwrap().data;
    let per_sequence = keys.len() / n;
    for (sequence, keys) in keys.chunks_mut(per_sequence).enumerate() {
        keys.iter_mut().for_each(|x| *x *= if is_large(sequence) { 2.0 } else { 0.5 });
    }
    let out = &cliff.p.run(&context())[&Role::OUT].data;
    for (sequence, out) in out.chunks(out.len() / n).enumerate() {
        assert!(out.iter().all(|x| x.is_nan() == is_large(sequence)), "sequence {sequence}");
    }
}

/// Reference files of `fox` pass with a tolerance, their gradients too.
#[test]
fn reference_files() {
    let mut passed = 0;
    for path in files("softmax") {
        let mut file = Golden::read(&path);
        if file.mechanism() != "fox" {
            continue;
        }
        let params = file.meta.get_mut("params").unwrap();
        let mut object: serde_json::Value = serde_json::from_str(params).unwrap();
        object["prune_log_tol"] = (-20.0).into();
        *params = object.to_string();
        for isa in problem::isas() {
            let context = problem::context_of(isa);
            let worst = file.replay(&context).unwrap();
            assert!(worst <= 1.0, "{}: {worst}", path.display());
            if file.has_gradient() {
                let worst = file.replay_gradient(&context).unwrap();
                assert!(worst <= 1.0, "gradients of {}: {worst}", path.display());
            }
            passed += 1;
        }
    }
    assert!(passed >= 6, "only {passed} files");
}
