//! Sequences in segments: `lasp` against its inner mechanism, whatever messages are asked for.

mod messages;
mod summaries;

use crate::common::backward::Backward;
use crate::common::golden::Array;
use crate::common::oracle;
use crate::common::problem::{self, Problem, Strided, Tensors, assert_same_bits, context};
use crate::common::refusal::{CANARY, Call, expect};
use crate::common::support::Rng;
use crate::common::types::{Stored, TYPES, contiguous, rounded};
use std::sync::Arc;
use subquad::{
    Args, Context, ContextOptions, DType, Desc, Mode, Plan, Role, Serial, Status, ThreadPool, View, ViewMut,
};

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

    fn desc(&self) -> Desc {
        let desc = self.inner.desc().param("ranks", self.ranks).param("inner", self.inner.mechanism.name);
        Desc { mechanism: "lasp".into(), ..desc }
    }

    fn plan(&self, context: &Context) -> Plan {
        Plan::new(context, &self.desc()).unwrap()
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

/// Gradients of a case as `lasp`, of its messages too if they are wanted.
fn backward(case: &Case, b: &Backward, context: &Context, messages: bool) -> Tensors {
    let mut outputs = b.outputs();
    if messages {
        let Problem { heads: [h, ..], d, e, b, .. } = case.inner;
        outputs.insert(Role::MSG_GRAD, Array::filled(&[case.ranks - 1, b, h, d, e], f32::NAN));
    }
    b.call(&case.plan(context), &mut outputs).unwrap();
    outputs
}

fn subsets() -> Vec<Vec<Role>> {
    (0..8).map(|set| (0..3).filter(|i| set >> i & 1 == 1).map(|i| MESSAGES[i]).collect()).collect()
}
