//! What backward refuses: the message names the argument, what was given and what is expected; nothing is written; the
//! plan still works afterwards.

use crate::common::backward::{Backward, mechanisms};
use crate::common::problem::{Problem, Tensors, assert_same_bits, context};
use crate::common::refusal::{CANARY, Call, expect};
use crate::common::support::Rng;
use subquad::catalog::{RoleKind, StepKind};
use subquad::{Args, DType, Desc, Error, MAX_TENSORS, Mode, Plan, Role, Status};

fn backward(call: &mut Call, plan: &Plan) -> Result<(), Error> {
    call.run(|mode, args, workspace| plan.backward(mode, args, workspace))
}

/// A plan, a call that it runs, and what that gives.
struct Fixture {
    backward: Backward,
    plan: Plan,
    inputs: Tensors,
    outputs: Tensors,
    want: Tensors,
}

impl Fixture {
    fn of(problem: Problem) -> Fixture {
        let mut rng = Rng::new(7);
        let problem = problem.fill(&mut rng, true);
        let backward = Backward::new(&mut rng, problem);
        Fixture::new(backward)
    }

    fn new(backward: Backward) -> Fixture {
        let plan = backward.p.plan(&context());
        let want = backward.run_plan(&plan);
        let mut outputs = backward.outputs();
        outputs.values_mut().for_each(|array| array.data.fill(CANARY));
        let inputs = backward.inputs().map(|(role, array)| (role, array.clone())).collect();
        Fixture { backward, plan, inputs, outputs, want }
    }

    /// Heads that are shared, dimensions that all differ.
    fn named(name: &str) -> Fixture {
        Fixture::of(Problem::named(name).sized([2, 2, 4], (8, 6), 3, 5))
    }

    fn call(&mut self) -> Call {
        let workspace = self.backward.workspace(&self.plan);
        Call::of(self.backward.p.mode, &mut self.inputs, &mut self.outputs, workspace)
    }

    /// A call with this change is refused, with this status and these words; see the top of this file.
    #[track_caller]
    fn refuse(&mut self, status: Status, words: &[&str], change: impl FnOnce(&mut Call)) {
        let mut call = self.call();
        change(&mut call);
        let error = backward(&mut call, &self.plan).expect_err("the call is refused");
        expect(&error, status, words);
        for (role, array) in self.backward.inputs() {
            assert_eq!(self.inputs[&role], *array, "{role} was written");
        }
        for (role, array) in &self.outputs {
            assert!(array.data.iter().all(|&x| x == CANARY), "{role} was written");
        }
        backward(&mut self.call(), &self.plan).expect("the plain call works");
        assert_same_bits(&self.outputs, &self.want, || "after a refused call".into());
        self.outputs.values_mut().for_each(|array| array.data.fill(CANARY));
    }

    /// Roles of gradients, of outputs and of inputs.
    fn gradients(&self) -> Vec<Role> {
        self.inputs.keys().chain(self.outputs.keys()).copied().filter(|role| role.is_grad()).collect()
    }
}

#[test]
fn modes_without() {
    let desc = Desc::new("gla").modes(Mode::Causal | Mode::Step).dims(8, 6);
    let plan = Plan::new(&context(), &desc).unwrap();
    assert!(plan.has_gradient(Mode::Causal) && !plan.has_gradient(Mode::Step));
    assert!(!plan.has_gradient(Mode::Cross) && plan.info().gradient_modes == Mode::Causal.into());
    let mut memory = vec![0; plan.backward_workspace_size(1, 1, 1).unwrap()];
    let error = plan.backward(Mode::Step, &Args::new(), &mut memory).unwrap_err();
    expect(&error, Status::Unsupported, &["backward of gla", "step"]);
    let steps = Plan::new(&context(), &desc.modes(Mode::Step)).unwrap();
    expect(
        &steps.backward_workspace_size(1, 1, 1).unwrap_err(),
        Status::Unsupported,
        &["backward of gla", "step"],
    );
    let mut fixture = Fixture::named("gated_delta_rule");
    for mode in [Mode::Step, Mode::Cross, Mode::Draw] {
        fixture.refuse(Status::Unsupported, &["mode", mode.name(), "desc.modes"], |call| call.mode = mode);
    }
}

#[test]
fn wrong_roles() {
    let mut fixture = Fixture::named("gated_delta_rule");
    let ones = [1f32; 2048];
    let out = fixture.backward.p.shape(Role::OUT);
    let state = fixture.backward.p.shape(Role::STATE_OUT);
    for side in [false, true] {
        fixture.refuse(Status::WrongRole, &["role out", "its gradient"], |call| {
            call.bind(Role::OUT, side, &ones[..360], &out);
        });
        fixture.refuse(Status::WrongRole, &["role state_out", "its gradient"], |call| {
            call.bind(Role::STATE_OUT, side, &ones[..576], &state);
        });
        fixture.refuse(Status::WrongRole, &["ddt", "no such role"], |call| {
            call.bind(Role::DT.grad(), side, &ones, &[2, 4, 5]);
        });
        fixture.refuse(Status::WrongRole, &["dcu_seqlens", "no such role"], |call| {
            call.bind(Role::CU_SEQLENS.grad(), side, &ones, &[2]);
        });
    }
    for role in fixture.gradients() {
        let out = fixture.outputs.contains_key(&role);
        let word = role.to_string();
        let side = if out { "it is an output" } else { "it is an input" };
        fixture.refuse(Status::WrongRole, &[&word, side], |call| call.get(role).out = !out);
        fixture.refuse(Status::WrongRole, &[&word, "bound twice"], |call| {
            let again = *call.get(role);
            call.bound.push(again);
        });
    }
    fixture.refuse(Status::WrongRole, &["role q", "it is an input"], |call| call.get(Role::Q).out = true);
    // Ruled out by parameters, or without a gradient.
    let p = Problem::named("linear").param("normalize", "none").sized([2, 2, 2], (8, 6), 3, 5);
    let mut plain = Fixture::of(p);
    for role in [Role::Z_IN, Role::Z_OUT] {
        let word = role.grad().to_string();
        plain.refuse(Status::WrongRole, &[&word, "denominator"], |call| {
            call.bind(role.grad(), role == Role::Z_IN, &ones, &[3, 2, 8]);
        });
    }
    let role = Role::W_DIAG;
    let p = Problem::named("dijiang").sized([2, 2, 2], (8, 6), 3, 5);
    assert!(p.mechanism.role(role).is_some_and(|spec| !spec.differentiable));
    Fixture::of(p).refuse(Status::WrongRole, &["dw_diag", "no gradient"], |call| {
        call.bind(role.grad(), true, &ones, &[8]);
    });
    // Read only by parameters, and so are their gradients.
    let p = Problem::named("gla").param("normalize", "rms_head").sized([2, 2, 2], (8, 6), 3, 5);
    Fixture::of(p).refuse(Status::WrongRole, &["dgate", "rms_gate"], |call| {
        call.bind(Role::GATE.grad(), true, &ones, &[3, 2, 5, 6]);
    });
}

#[test]
fn missing_roles() {
    for mechanism in mechanisms() {
        let mut fixture = Fixture::of(Problem::new(mechanism, vec![]).sized([2, 2, 2], (8, 6), 3, 5));
        let dout = Role::OUT.grad();
        fixture.refuse(Status::MissingRole, &["role dout is missing"], |call| call.remove(dout));
        for spec in mechanism.roles.iter().filter(|spec| spec.required && spec.kind == RoleKind::Input) {
            let word = format!("role {} is missing", spec.role);
            fixture.refuse(Status::MissingRole, &[&word], |call| call.remove(spec.role));
        }
    }
    // The gradient of what is not there.
    let p = Problem::named("gla").sized([2, 2, 2], (8, 6), 3, 5).fill(&mut Rng::new(1), true);
    let mut backward = Backward::new(&mut Rng::new(1), p);
    backward.p.inputs.remove(&Role::GV);
    Fixture::new(backward).refuse(
        Status::MissingRole,
        &["role gv is missing", "gradient is wanted"],
        |call| {
            call.bind(Role::GV.grad(), true, &[CANARY; 180], &[3, 2, 5, 6]);
        },
    );
    let mut linear = Fixture::of(Problem::named("linear").sized([4, 2, 2], (8, 6), 3, 5));
    linear.refuse(Status::MissingRole, &["role z_in is missing", "whole"], |call| call.remove(Role::Z_IN));
}

#[test]
fn wrong_types_and_shapes() {
    for mechanism in mechanisms() {
        let mut fixture = Fixture::of(Problem::new(mechanism, vec![]).sized([2, 2, 2], (8, 6), 3, 5));
        for role in fixture.gradients() {
            let name = role.to_string();
            fixture
                .refuse(Status::WrongDType, &[&name, "i32", "f32"], |call| call.get(role).dtype = DType::I32);
            let shape = fixture.backward.p.shape(role.base());
            let rank = shape.len();
            // Of a role with several shapes another rank is another shape.
            let one = mechanism.role(role.base()).is_some_and(|spec| spec.shapes.len() == 1);
            for wrong in if one { vec![rank + 1, rank - 1] } else { vec![] } {
                let words = [&name, &*format!("rank {wrong}"), &*format!("expected {rank}")];
                fixture.refuse(Status::WrongShape, &words, |call| {
                    let layout = &mut call.get(role).layout;
                    layout.rank = wrong;
                    layout.shape[wrong.min(rank)] = 1;
                });
            }
            for (axis, &extent) in shape.iter().enumerate() {
                for wrong in [extent - 1, extent + 1, 0, -1] {
                    let named = format!("{name}.shape[{axis}] is {wrong}");
                    let expected = extent.to_string();
                    let words = [&*named, &*expected];
                    let words = if wrong == -1 { &words[..1] } else { &words };
                    fixture.refuse(Status::WrongShape, words, |call| call.resize(role, axis, wrong));
                }
            }
        }
    }
}

/// Gradients are `f32`, or as what they are gradients of in this call.
#[test]
fn other_types() {
    use DType::{Bf16, F16, F32};
    for name in ["gated_delta_rule", "fox"] {
        let mut fixture = Fixture::of(Problem::named(name).sized([2, 2, 2], (8, 6), 3, 5));
        for role in fixture.gradients() {
            for given in [Bf16, F16] {
                let words = [&*role.to_string(), given.name(), "expected f32"];
                fixture.refuse(Status::WrongDType, &words, |call| call.get(role).dtype = given);
            }
        }
        let desc = fixture.backward.p.desc().types(Bf16, F16, F32);
        let wide = std::mem::replace(&mut fixture.plan, Plan::new(&context(), &desc).unwrap());
        for (role, given, expected) in [
            (Role::Q.grad(), F16, "expected f32 or bf16"),
            (Role::V.grad(), F16, "expected f32 or bf16"),
            (Role::OUT.grad(), Bf16, "expected f32 or f16"),
            (Role::G.grad(), F16, "expected f32 or bf16"),
            // The gate itself is f32 here.
            (Role::G.grad(), Bf16, "expected f32"),
        ] {
            let mut call = fixture.call();
            for own in [Role::Q, Role::K, Role::V] {
                // The same memory holds twice as many.
                call.get(own).dtype = Bf16;
            }
            call.get(role).dtype = given;
            let error = backward(&mut call, &fixture.plan).expect_err("the call is refused");
            expect(&error, Status::WrongDType, &[role.to_string().as_str(), given.name(), expected]);
            assert!(fixture.outputs.values().all(|array| array.data.iter().all(|&x| x == CANARY)));
        }
        fixture.plan = wide;
    }
    // What is added up where it lies.
    let p = Problem::named("softmax").sized([2, 2, 2], (8, 6), 1, 5).fill(&mut Rng::new(2), false);
    let mut b = Backward::new(&mut Rng::new(3), p);
    b.p.inputs.insert(Role::BIAS, b.p.values(&mut Rng::new(4), Role::BIAS));
    let desc = b.p.desc().types(Bf16, Bf16, F32);
    let mut fixture = Fixture::new(b);
    fixture.plan = Plan::new(&context(), &desc).unwrap();
    let mut call = fixture.call();
    for role in [Role::Q, Role::K, Role::V, Role::BIAS, Role::BIAS.grad()] {
        call.get(role).dtype = Bf16;
    }
    let error = backward(&mut call, &fixture.plan).expect_err("the call is refused");
    expect(&error, Status::WrongDType, &["dbias", "bf16", "expected f32"]);
}

#[test]
fn memory() {
    let mut fixture = Fixture::named("gated_delta_rule");
    for role in fixture.gradients() {
        let word = format!("{role}.data");
        fixture.refuse(Status::Misaligned, &[&word, "4 bytes"], |call| {
            let data = &mut call.get(role).data;
            *data = data.wrapping_add(2);
        });
        fixture
            .refuse(Status::NullPointer, &[&word, "null"], |call| call.get(role).data = std::ptr::null_mut());
        let word = format!("{role}.stride");
        fixture.refuse(Status::WrongStride, &[&word, "address space"], |call| {
            call.get(role).layout.stride[0] = i64::MAX;
        });
    }
    for role in fixture.outputs.keys().copied().collect::<Vec<_>>() {
        let word = format!("{role}.stride[1] is 0");
        fixture.refuse(Status::WrongStride, &[&word, "must not share memory"], |call| {
            call.get(role).layout.stride[1] = 0;
        });
    }
}

#[test]
fn overlaps() {
    let mut fixture = Fixture::named("gated_delta_rule");
    let pairs = [
        (Role::Q.grad(), Role::Q),
        (Role::K.grad(), Role::Q.grad()),
        (Role::V.grad(), Role::OUT.grad()),
        (Role::STATE_IN.grad(), Role::STATE_IN),
        (Role::STATE_IN.grad(), Role::STATE_OUT.grad()),
        (Role::BETA.grad(), Role::G.grad()),
    ];
    for (role, other) in pairs {
        if !fixture.inputs.contains_key(&other) && !fixture.outputs.contains_key(&other) {
            continue;
        }
        let words = ["output d", "overlaps"];
        fixture.refuse(Status::Overlap, &words, |call| call.get(role).data = call.get(other).data);
    }
}

#[test]
fn workspaces() {
    for mechanism in mechanisms().into_iter().filter(|mechanism| mechanism.role(Role::V).is_some()) {
        let p = Problem::new(mechanism, vec![]).sized([2, 2, 2], (8, 6), 3, 5);
        // Slots take up to eight rows of floats per token, in lines of 16.
        let slots = if p.has_slots() { p.slots() as usize } else { 0 };
        let rows = 10_000 * 8 * 4 * slots.next_multiple_of(16);
        // Where keys are cached, the gradients of keys and values, and a sum of gates.
        let rows = if mechanism.step == StepKind::Cache { 10_000 * 4 * (3 * 32 + 2) } else { rows };
        let mut fixture = Fixture::of(p);
        let needed = fixture.plan.backward_workspace_size(3, 5, 5).unwrap();
        for given in [0, needed / 2, needed - 1] {
            let words = [&*format!("{given} bytes"), &*format!("needs {needed}")];
            fixture.refuse(Status::Workspace, &words, |call| call.workspace.truncate(given));
        }
        // Longer sequences need more, by about a state for 256 tokens.
        let size = |t| fixture.plan.backward_workspace_size(3, t, t).unwrap();
        let state = fixture.plan.state_layout().size_bytes;
        assert!(size(10_000) > size(100), "{}", mechanism.name);
        assert!(size(10_000) - size(100) < 4 * 40 * 3 * state + rows, "{}", mechanism.name);
        for huge in [[usize::MAX, 1, 1], [1, usize::MAX, usize::MAX], [usize::MAX; 3]] {
            if let Err(error) = fixture.plan.backward_workspace_size(huge[0], huge[1], huge[2]) {
                expect(&error, Status::Unsupported, &["workspace"]);
            }
        }
        assert!(fixture.plan.backward_workspace_size(1 << 20, usize::MAX, usize::MAX).is_err());
    }
}

#[test]
fn pools_and_packed_sequences() {
    let mut fixture = Fixture::new({
        let p = Problem::named("gated_delta_rule").sized([2, 2, 4], (8, 6), 3, 5);
        let mut backward = Backward::new(&mut Rng::new(3), p.fill(&mut Rng::new(3), true));
        let given = backward.p.values(&mut Rng::new(4), Role::STATE_IN);
        backward.given.insert(Role::STATE_OUT.grad(), given);
        backward
    });
    // The smallest pool counts, whichever it is.
    for role in [Role::STATE_IN, Role::STATE_IN.grad(), Role::STATE_OUT.grad()] {
        fixture.refuse(Status::InvalidArgument, &["state_index[2] is 2", "no slot"], |call| {
            call.index(Role::STATE_INDEX, &[0, 1, 2]);
            call.get(role).layout.shape[0] = 2;
        });
    }
    fixture.refuse(Status::InvalidArgument, &["state_index[1] is 0", "earlier sequence"], |call| {
        call.index(Role::STATE_INDEX, &[0, 0, 1]);
    });
    let mut packed = Fixture::of(Problem::named("gated_delta_rule").sized([2, 2, 4], (8, 6), 1, 5));
    packed.refuse(Status::WrongShape, &["state_in.shape[0]", "is 1", "2"], |call| {
        call.index(Role::CU_SEQLENS, &[0, 3, 5]);
    });
    packed.refuse(Status::WrongShape, &["dstate_in.shape[0]", "is 1", "sequences", "2"], |call| {
        call.index(Role::CU_SEQLENS, &[0, 3, 5]);
        call.remove(Role::STATE_IN);
        call.remove(Role::STATE_OUT.grad());
    });
    packed.refuse(Status::InvalidArgument, &["cu_seqlens[1] is 4"], |call| {
        call.index(Role::CU_SEQLENS, &[0, 4]);
    });
}

#[test]
fn too_many_tensors() {
    let mut fixture = Fixture::named("gated_delta_rule");
    let words = [&*(MAX_TENSORS + 1).to_string(), &*format!("at most {MAX_TENSORS}")];
    fixture.refuse(Status::InvalidArgument, &words, |call| {
        let again = *call.get(Role::Q);
        call.bound.resize(MAX_TENSORS + 1, again);
    });
}
