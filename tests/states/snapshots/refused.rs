//! Wrong calls.

use super::*;

/// A call with snapshots that works until it is changed.
struct Fixture {
    problem: Problem,
    plan: Plan,
}

impl Fixture {
    fn new(p: Problem) -> Fixture {
        let problem = p.fill(&mut Rng::new(7), true);
        let plan = problem.plan(&context());
        Fixture { problem, plan }
    }

    fn call(&self, at: &[i32], shape: &[i64]) -> Call {
        let p = &self.problem;
        let mut call = Call { mode: p.mode, bound: vec![], workspace: problem::workspace(&self.plan) };
        for (&role, array) in &p.inputs {
            call.input(role, &array.data, &array.shape);
        }
        for (role, array) in p.outputs() {
            call.bind(role, true, &vec![CANARY; array.data.len()], &array.shape);
        }
        call.input(Role::SNAPSHOT_AT, at, shape);
        for role in p.roles(RoleKind::StateOut) {
            let shape = [&[p.b, 2], &p.shape(role)[1..]].concat();
            let len = shape.iter().product::<i64>() as usize;
            call.bind(role.snapshots(), true, &vec![CANARY; len], &shape);
        }
        call
    }

    #[track_caller]
    fn refuse_at(
        &self,
        at: &[i32],
        shape: &[i64],
        status: Status,
        words: &[&str],
        f: impl FnOnce(&mut Call),
    ) {
        let mut call = self.call(at, shape);
        f(&mut call);
        let error = call.run(|mode, args, workspace| self.plan.execute(mode, args, workspace));
        expect(&error.expect_err("the call is refused"), status, words);
        for bound in call.bound.iter().filter(|bound| bound.out && bound.role == Role::OUT) {
            // SAFETY: memory of the fixture, a float at least.
            assert_eq!(unsafe { *bound.data.cast::<f32>() }, CANARY, "something was written");
        }
        let mut call = self.call(&[1, 2, 2, 5], &[2, 2]);
        call.run(|mode, args, workspace| self.plan.execute(mode, args, workspace)).expect("the call works");
    }

    #[track_caller]
    fn refuse(&self, status: Status, words: &[&str], f: impl FnOnce(&mut Call)) {
        self.refuse_at(&[1, 2, 2, 5], &[2, 2], status, words, f);
    }
}

#[test]
fn refused() {
    let f = Fixture::new(Problem::named("linear").sized([2, 2, 2], (8, 6), 2, 5));
    let (at, state, z) = (Role::SNAPSHOT_AT, Role::STATE_OUT.snapshots(), Role::Z_OUT.snapshots());
    f.refuse(Status::MissingRole, &["snapshot_at", "snapshots are bound"], |call| call.remove(at));
    f.refuse(Status::MissingRole, &["state_snapshots", "whole state"], |call| call.remove(state));
    f.refuse(Status::MissingRole, &["z_snapshots", "whole state"], |call| call.remove(z));
    f.refuse(Status::WrongRole, &["snapshot_at", "input"], |call| call.get(at).out = true);
    f.refuse(Status::WrongRole, &["state_snapshots", "output"], |call| call.get(state).out = false);
    f.refuse(Status::WrongRole, &["count_snapshots", "no such part"], |call| {
        call.get(z).role = Role::COUNT_OUT.snapshots();
    });
    f.refuse(Status::WrongRole, &["shift_snapshots", "no such part"], |call| {
        call.get(z).role = Role::SHIFT_OUT.snapshots();
    });
    f.refuse(Status::WrongRole, &["q_snapshots", "no such part"], |call| {
        call.get(z).role = Role::Q.snapshots();
    });
    f.refuse(Status::WrongDType, &["snapshot_at", "f32", "i32"], |call| {
        call.get(at).dtype = subquad::DType::F32;
    });
    f.refuse(Status::WrongDType, &["state_snapshots", "bf16", "f32"], |call| {
        call.get(state).dtype = subquad::DType::Bf16;
    });
    f.refuse(Status::Overlap, &["state_snapshots"], |call| {
        call.get(state).data = call.get(Role::STATE_IN).data;
    });
    f.refuse(Status::WrongStride, &["z_snapshots.stride[1]"], |call| call.get(z).layout.stride[1] = 0);
    for (role, axis, given, expected) in [
        (at, 0, 3, "the number of sequences is 2"),
        (state, 0, 3, "the number of sequences is 2"),
        (state, 1, 1, "snapshot_at.shape[1] is 2"),
        (state, 2, 1, "is 2"),
        (state, 4, 5, "is 6"),
        (z, 3, 7, "is 8"),
    ] {
        let words = [&format!("{role}.shape[{axis}] is {given}"), expected];
        f.refuse(Status::WrongShape, &words, |call| call.get(role).layout.shape[axis] = given);
    }
    f.refuse(Status::WrongShape, &["snapshot_at", "1", "2"], |call| call.get(at).layout.rank = 1);
    f.refuse(Status::WrongShape, &["state_snapshots", "4", "5"], |call| call.get(state).layout.rank = 4);
    for (times, words) in [
        ([1, 2, 2, 6], ["snapshot_at[3] is 6", "fewer tokens"]),
        ([-2, 2, 2, 5], ["snapshot_at[0] is -2", "neither"]),
        ([4, 3, 2, 5], ["snapshot_at[1] is 3", "never fall"]),
    ] {
        f.refuse_at(&times, &[2, 2], Status::InvalidArgument, &words, |_| {});
    }
}

/// Calls that have no state in between.
#[test]
fn refused_elsewhere() {
    let mut p = Problem::named("gla").sized([2, 2, 2], (8, 6), 2, 1);
    p.mode = Mode::Step;
    let (at, words) = ([0, 1, 1, 1], ["snapshot_at", "mode causal"]);
    let refuse = |p: &Problem, words: [&str; 2]| {
        let f = Fixture { plan: p.plan(&context()), problem: p.clone() };
        let mut call = f.call(&at, &[2, 2]);
        let error = call.run(|mode, args, workspace| f.plan.execute(mode, args, workspace));
        expect(&error.expect_err("the call is refused"), Status::WrongRole, &words);
    };
    refuse(&p.fill(&mut Rng::new(1), true), words);
    let mut p = Problem::named("linear").sized([2, 2, 2], (8, 6), 2, 4);
    p.mode = Mode::Bidirectional;
    refuse(&p.fill(&mut Rng::new(1), true), words);
    let p = Problem::named("gate").sized([2, 2, 2], (8, 6), 2, 4).fill(&mut Rng::new(1), false);
    refuse(&p, ["snapshot_at", "no such part of a state"]);

    let p = Problem::named("gla").sized([2, 2, 2], (8, 6), 2, 4).fill(&mut Rng::new(1), true);
    let plan = p.plan(&context());
    let bound = View::new(&at, &[2, 2]).unwrap();
    let args = Args::new().input(Role::SNAPSHOT_AT, bound);
    let mut workspace = vec![0; plan.segment_workspace_size().unwrap()];
    let mut memory = vec![0; plan.backward_workspace_size(2, 4, 4).unwrap()];
    for result in [plan.summarise(&args, &mut workspace), plan.backward(Mode::Causal, &args, &mut memory)] {
        let words = ["snapshot_at", "forward pass"];
        expect(&result.expect_err("the call is refused"), Status::WrongRole, &words);
    }
    let lasp = subquad::Desc::new("lasp").heads(2, 2, 2).dims(8, 8).param("ranks", 2i64);
    let args = Args::new().input(Role::SNAPSHOT_AT, bound);
    let error = Plan::new(&context(), &lasp).unwrap().execute(Mode::Causal, &args, &mut []);
    expect(&error.expect_err("the call is refused"), Status::WrongRole, &["snapshot_at", "same time"]);
}
