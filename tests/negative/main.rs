//! Every status that a call of the Rust API can give: the message names the argument, what was given and what is
//! expected; nothing is written; the plan still works afterwards. Planning: `plan.rs`; gradients: `backward.rs`.
//!
//! `OutOfMemory` and `WrongStruct` belong to the C interface and to failing allocations, and are tested there.

mod backward;
#[path = "../common/mod.rs"]
mod common;
mod plan;
mod roles;
mod tensors;

use common::problem::{self, Problem, Tensors, assert_same_bits, context, mechanisms};
use common::refusal::{Bound, CANARY, Call, expect};
use common::support::Rng;
use subquad::catalog;
use subquad::{DType, Desc, Error, Layout, MAX_TENSORS, Mode, Plan, Role, Status};

fn execute(call: &mut Call, plan: &Plan) -> Result<(), Error> {
    call.run(|mode, args, workspace| plan.execute(mode, args, workspace))
}

/// A plan, a call that it runs, and what that gives.
struct Fixture {
    problem: Problem,
    plan: Plan,
    inputs: Tensors,
    outputs: Tensors,
    want: Tensors,
}

impl Fixture {
    fn of(problem: Problem) -> Fixture {
        Fixture::seeded(problem, 7)
    }

    fn seeded(problem: Problem, seed: u64) -> Fixture {
        let problem = problem.fill(&mut Rng::new(seed), true);
        let plan = problem.plan(&context());
        let want = problem.run_plan(&plan);
        let mut outputs = problem.outputs();
        outputs.values_mut().for_each(|array| array.data.fill(CANARY));
        let inputs = problem.inputs.clone();
        Fixture { problem, plan, inputs, outputs, want }
    }

    /// Heads that are shared, dimensions that all differ.
    fn named(name: &str) -> Fixture {
        Fixture::of(Problem::named(name).sized([2, 2, 4], (8, 6), 3, 5))
    }

    fn call(&mut self) -> Call {
        let workspace = problem::workspace(&self.plan);
        Call::of(self.problem.mode, &mut self.inputs, &mut self.outputs, workspace)
    }

    /// A call with this change is refused, with this status and these words; see the top of this file.
    #[track_caller]
    fn refuse(&mut self, status: Status, words: &[&str], change: impl FnOnce(&mut Call)) {
        let mut call = self.call();
        change(&mut call);
        let error = execute(&mut call, &self.plan).expect_err("the call is refused");
        expect(&error, status, words);
        assert_eq!(self.inputs, self.problem.inputs, "an input was written");
        for (role, array) in &self.outputs {
            assert!(array.data.iter().all(|&x| x == CANARY), "{role} was written");
        }
        self.works();
    }

    #[track_caller]
    fn works(&mut self) {
        execute(&mut self.call(), &self.plan).expect("the plain call works");
        assert_same_bits(&self.outputs, &self.want, || "after a refused call".into());
        self.outputs.values_mut().for_each(|array| array.data.fill(CANARY));
    }
}
