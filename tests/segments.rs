//! Sequences in segments: `lasp` against its inner mechanism, whatever messages are asked for.

mod common;

use common::golden::Array;
use common::problem::{self, Problem, Tensors, assert_same_bits, context};
use common::support::Rng;
use std::sync::Arc;
use subquad::{Context, ContextOptions, Mode, Plan, Role, Serial, Status, ThreadPool};

const MESSAGES: [Role; 3] = [Role::MSG_STATE, Role::MSG_LOCAL, Role::MSG_TRANSITION];

/// A problem of the inner mechanism, and the number of segments that it is cut into.
#[derive(Clone)]
struct Case {
    inner: Problem,
    ranks: i64,
}

impl Case {
    fn new(inner: &str, ranks: i64, n: i64, (d, e): (i64, i64), state: bool) -> Case {
        let p = Problem::named(inner).sized([3, 3, 3], (d, e), 2, ranks * n);
        Case { inner: p.fill(&mut Rng::new(41 + ranks as u64), state), ranks }
    }

    fn plan(&self, context: &Context) -> Plan {
        let mut desc = self.inner.desc().param("ranks", self.ranks).param("inner", self.inner.mechanism.name);
        desc.mechanism = "lasp".into();
        Plan::new(context, &desc).unwrap()
    }

    fn message(&self, role: Role) -> Array {
        let Problem { heads: [h, ..], d, e, b, .. } = self.inner;
        let (ranks, last) = match role {
            Role::MSG_STATE => (self.ranks - 1, e),
            Role::MSG_LOCAL => (self.ranks, e),
            _ => (self.ranks, d),
        };
        Array::filled(&[ranks, b, h, d, last], f32::NAN)
    }

    fn run(&self, context: &Context, messages: &[Role]) -> Tensors {
        let mut outputs = self.inner.outputs();
        outputs.extend(messages.iter().map(|&role| (role, self.message(role))));
        let plan = self.plan(context);
        problem::execute(&plan, Mode::Causal, &self.inner.inputs, &[], &mut outputs).unwrap();
        outputs
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for inner in ["lightning", "gated_delta_rule"] {
        for (ranks, n, dims) in
            [(1, 37, (8, 6)), (2, 1, (5, 7)), (3, 17, (24, 20)), (4, 40, (16, 70)), (5, 16, (1, 3))]
        {
            cases.extend([false, true].map(|state| Case::new(inner, ranks, n, dims, state)));
        }
    }
    cases
}

#[track_caller]
fn assert_close(got: &Array, want: &Array, what: &str) {
    assert_eq!(got.shape, want.shape, "{what}");
    for (i, (g, w)) in got.data.iter().zip(&want.data).enumerate() {
        assert!((g - w).abs() <= 2e-5 * (1.0 + w.abs()), "{what} [{i}] is {g} for {w}");
    }
}

fn subsets() -> Vec<Vec<Role>> {
    (0..8).map(|set| (0..3).filter(|i| set >> i & 1 == 1).map(|i| MESSAGES[i]).collect()).collect()
}

#[test]
fn outputs_are_those_of_the_inner_mechanism() {
    for case in cases() {
        let want = case.inner.run(&context());
        for messages in subsets() {
            let got = case.run(&context(), &messages);
            let what = format!("{} in {} with {messages:?}", case.inner, case.ranks);
            assert_close(&got[&Role::OUT], &want[&Role::OUT], &what);
            assert_close(&got[&Role::STATE_OUT], &want[&Role::STATE_OUT], &what);
            for role in &messages {
                assert!(got[role].data.iter().all(|x| x.is_finite()), "{role} of {what}");
            }
        }
    }
}

/// What the messages say, by running the inner mechanism on the segments.
#[test]
fn messages_are_states_of_segments() {
    for case in cases() {
        let got = case.run(&context(), &MESSAGES);
        let n = case.inner.t / case.ranks;
        let plan = case.inner.plan(&context());
        let mut carried = case.inner.clone();
        for rank in 0..case.ranks {
            let what = |role| format!("{role}[{rank}] of {} in {}", case.inner, case.ranks);
            let entry = |role: Role| {
                let mut entry = got[&role].pick(0, [rank as usize]);
                entry.shape.remove(0);
                entry
            };
            let tokens = rank * n..(rank + 1) * n;
            let mut part = carried.tokens(tokens.clone(), tokens);
            let outputs = part.run_plan(&plan);
            if rank + 1 < case.ranks {
                assert_close(&entry(Role::MSG_STATE), &outputs[&Role::STATE_OUT], &what(Role::MSG_STATE));
            }
            carried.carry(&outputs);
            part.inputs.remove(&Role::STATE_IN);
            let local = &part.run_plan(&plan)[&Role::STATE_OUT];
            assert_close(&entry(Role::MSG_LOCAL), local, &what(Role::MSG_LOCAL));

            let (d, heads, b) = (part.d, part.heads[0], part.b);
            part.e = d;
            part.inputs.insert(Role::V, Array::filled(&[b, heads, n, d], 0.0));
            let mut identity = Array::filled(&[b, heads, d, d], 0.0);
            let size = (d * d) as usize;
            identity
                .data
                .chunks_mut(size)
                .for_each(|m| (0..size).step_by(d as usize + 1).for_each(|i| m[i] = 1.0));
            part.inputs.insert(Role::STATE_IN, identity);
            let transition = &part.run(&context())[&Role::STATE_OUT];
            assert_close(&entry(Role::MSG_TRANSITION), transition, &what(Role::MSG_TRANSITION));
        }
    }
}

#[test]
fn any_runner() {
    let pool = |n| ContextOptions::new().runner(Arc::new(ThreadPool::new(n).unwrap()));
    let contexts = [2, 3, 8].map(|n| Context::new(pool(n)).unwrap());
    let serial = Context::new(ContextOptions::new().runner(Arc::new(Serial))).unwrap();
    for case in cases() {
        for messages in subsets() {
            let want = case.run(&serial, &messages);
            for context in &contexts {
                assert_same_bits(&case.run(context, &messages), &want, || case.inner.to_string());
            }
        }
    }
}

/// A reset in a segment cuts off all that comes in.
#[test]
fn reset() {
    let mut case = Case::new("gated_delta_rule", 3, 20, (8, 6), true);
    case.inner.inputs.get_mut(&Role::G).unwrap().data.fill(-0.1);
    let g = case.inner.inputs.get_mut(&Role::G).unwrap();
    g.data.chunks_mut(60).for_each(|row| row[33] = f32::NEG_INFINITY);
    let got = case.run(&context(), &MESSAGES);
    assert_close(&got[&Role::OUT], &case.inner.run(&context())[&Role::OUT], "out");
    let transition = got[&Role::MSG_TRANSITION].pick(0, [1]);
    assert!(transition.data.iter().all(|&x| x == 0.0), "a reset lets nothing through");
}

#[test]
fn refused() {
    let mut case = Case::new("lightning", 3, 10, (8, 6), false);
    let plan = case.plan(&context());
    let refuse = |case: &Case, indices: &[(Role, Vec<i32>)], status: Status, words: &[&str]| {
        let mut outputs = case.inner.outputs();
        let result = problem::execute(&plan, Mode::Causal, &case.inner.inputs, indices, &mut outputs);
        let error = result.expect_err("the call is refused");
        assert_eq!(error.status(), status, "{error}");
        words.iter().for_each(|word| assert!(error.to_string().contains(word), "`{word}` in `{error}`"));
        assert!(outputs[&Role::OUT].data.iter().all(|x| x.is_nan()), "something was written");
    };
    let batch = vec![(Role::CU_SEQLENS, vec![0, 10, 30])];
    refuse(&case, &batch, Status::WrongRole, &["cu_seqlens"]);
    refuse(&case, &[(Role::STATE_INDEX, vec![0, 1])], Status::WrongRole, &["state_index"]);
    case.inner = case.inner.tokens(0..29, 0..29);
    refuse(&case, &[], Status::WrongShape, &["q.shape[2] is 29", "ranks", "30"]);
    let beta = Array::filled(&[2, 3, 30], 1.0);
    let mut with_beta = Case::new("lightning", 3, 10, (8, 6), false);
    with_beta.inner.inputs.insert(Role::BETA, beta);
    refuse(&with_beta, &[], Status::WrongRole, &["beta", "gated_delta_rule"]);
    for ranks in [0, -1, 1 << 17] {
        let desc = subquad::Desc::new("lasp").param("ranks", ranks);
        let error = Plan::new(&context(), &desc).expect_err("ranks out of range");
        assert_eq!(error.status(), Status::ParameterRange, "{error}");
    }
}
