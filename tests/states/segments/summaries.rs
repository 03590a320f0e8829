//! Summaries of segments, their combination, and corrections by a state.

use super::*;

/// Mechanisms with summaries, each with parameters.
fn summarised() -> Vec<Problem> {
    let mut all: Vec<Problem> = Vec::new();
    for mechanism in problem::mechanisms().into_iter().filter(|m| m.modes.contains(&Mode::Causal)) {
        let p = Problem::new(mechanism, vec![]).sized([2, 2, 2], (20, 20), 2, 70);
        // Each call has its own position or length in these; they are tested where calls are split.
        let alike = p.splits() && mechanism.param("position0").is_none();
        if alike && p.plan(&context()).segment_workspace_size().is_ok() {
            all.push(p);
        }
    }
    assert!(all.len() >= 14, "summaries are missing");
    all.push(Problem::named("linear").param("normalize", "none"));
    all
}

/// What a summary may bind of these inputs, and its outputs.
fn summarise(plan: &Plan, p: &Problem, transition: Option<&[i64]>) -> Tensors {
    let not_read = [Role::Q, Role::STATE_IN, Role::Z_IN, Role::SHIFT_IN, Role::GV];
    let mut outputs = p.outputs();
    outputs.remove(&Role::OUT);
    if let Some(shape) = transition {
        outputs.insert(Role::MSG_TRANSITION, Array::filled(shape, f32::NAN));
    }
    let mut args = Args::new();
    for (&role, array) in p.inputs.iter().filter(|(role, _)| !not_read.contains(role)) {
        args = args.input(role, View::new(&array.data, &array.shape).unwrap());
    }
    for (&role, array) in &mut outputs {
        args = args.output(role, ViewMut::new(&mut array.data, &array.shape).unwrap());
    }
    let mut workspace = vec![0xff; plan.segment_workspace_size().unwrap()];
    plan.summarise(&args, &mut workspace).unwrap_or_else(|error| panic!("{p}: {error}"));
    outputs
}

/// `S_out = M S_in + S⁰`, in place of `state`.
fn combine(plan: &Plan, state: &mut Tensors, summary: &Tensors) {
    let mut args = Args::new();
    for (&role, array) in summary {
        let role = match role {
            Role::STATE_OUT => Role::MSG_LOCAL,
            Role::Z_OUT => Role::MSG_LOCAL_Z,
            other => other,
        };
        args = args.input(role, View::new(&array.data, &array.shape).unwrap());
    }
    for (&role, array) in state {
        let view = ViewMut::new(&mut array.data, &array.shape).unwrap();
        args = args.in_place(role, problem::out_of(role), view);
    }
    let mut workspace = vec![0xff; plan.segment_workspace_size().unwrap()];
    plan.combine(&args, &mut workspace).unwrap();
}

fn transition_shape(p: &Problem) -> Option<Vec<i64>> {
    let Problem { b, heads: [_, k, v], d, .. } = *p;
    let heads = k.max(v);
    match p.mechanism.name {
        "linear" | "dpfp" | "hedgehog" => None,
        "retention" | "lightning" | "simple_gla" | "mamba2" | "rfa_gate" | "dijiang" => Some(vec![b, heads]),
        "gla" | "rwkv6" => Some(vec![b, heads, d]),
        _ => Some(vec![b, heads, d, d]),
    }
}

/// Summaries of three segments, combined, are the state; and the last segment run from it gives the outputs.
#[test]
fn summaries_combine_to_the_state() {
    for p in summarised() {
        let mut p =
            if p.mechanism.role(Role::W_DIAG).is_some() { p } else { p.sized([2, 2, 2], (12, 20), 2, 70) };
        p.inputs.clear();
        let mut p = p.fill(&mut Rng::new(5), true);
        p.inputs.remove(&Role::GV);
        let plan = p.plan(&context());
        let want = p.run_plan(&plan);
        let is_state = |role: &Role| [Role::STATE_IN, Role::Z_IN].contains(role);
        let mut state: Tensors = p.inputs.clone().into_iter().filter(|(role, _)| is_state(role)).collect();
        let shape = transition_shape(&p);
        for (start, end) in [(0, 17), (17, 49)] {
            combine(
                &plan,
                &mut state,
                &summarise(&plan, &p.tokens(start..end, start..end), shape.as_deref()),
            );
        }
        let mut last = p.tokens(49..70, 49..70);
        last.inputs.extend(state.clone());
        let got = last.run_plan(&plan);
        let tail = want[&Role::OUT].pick(2, 49..70);
        assert_close(&got[&Role::OUT], &tail, &format!("out of {p}"));
        combine(&plan, &mut state, &summarise(&plan, &p.tokens(49..70, 49..70), shape.as_deref()));
        for (&role, got) in &state {
            assert_close(got, &want[&problem::out_of(role)], &format!("{role} of {p}"));
        }
    }
}

/// Binds what a correction reads of these inputs, and the outputs of the segment run from nothing.
fn correct(plan: &Plan, p: &Problem, out: &mut Array) {
    let mut args = Args::new();
    for (&role, array) in p.inputs.iter().filter(|(role, _)| ![Role::V, Role::D_SKIP].contains(role)) {
        args = args.input(role, View::new(&array.data, &array.shape).unwrap());
    }
    for (role, values) in &p.indices {
        args = args.input(*role, View::new(values, &[values.len() as i64]).unwrap());
    }
    args = args.output(Role::OUT, ViewMut::new(&mut out.data, &out.shape).unwrap());
    let mut workspace = vec![0xff; plan.segment_workspace_size().unwrap()];
    plan.correct(&args, &mut workspace).unwrap_or_else(|error| panic!("{p}: {error}"));
}

/// Mechanisms whose outputs can be corrected, with the parameters that leave out a normaliser.
fn corrected() -> Vec<Problem> {
    let mut all = Vec::new();
    for p in summarised() {
        let has = p.mechanism.param("normalize").is_some();
        let p = if has { p.param("normalize", "none") } else { p };
        if !p.has_denominator() && p.word("normalize") != "rms_head" {
            all.push(p);
        }
    }
    let names: Vec<_> = all.iter().map(|p| p.mechanism.name).collect();
    for name in ["linear", "simple_gla", "mamba2", "gla", "rwkv6", "gated_delta_rule", "kda", "gdn2", "rwkv7"]
    {
        assert!(names.contains(&name), "{name} is missing: {names:?}");
    }
    all
}

/// A segment run from nothing and corrected is the segment run from its state, whatever the transition.
#[test]
fn corrections_make_up_for_the_state() {
    let mut kinds = std::collections::BTreeSet::new();
    for p in corrected() {
        let heads = problem::heads(p.mechanism);
        for (i, (dims, t)) in
            [((12, 20), 37), ((20, 7), 1), ((100, 150), 70), ((16, 32), 0)].into_iter().enumerate()
        {
            let square = p.mechanism.role(Role::W_DIAG).is_some();
            let dims = if square { (dims.0, dims.0) } else { dims };
            let p = p.clone().sized(heads[i % heads.len()], dims, 2, t);
            let mut p = Problem { inputs: Tensors::new(), ..p }.fill(&mut Rng::new(5 + i as u64), true);
            p.inputs.remove(&Role::GV);
            kinds.insert(transition_shape(&p).map_or(0, |shape| shape.len()));
            let plan = p.plan(&context());
            let want = oracle::expect(&p);
            let mut empty = p.clone();
            empty.inputs.remove(&Role::STATE_IN);
            let mut outputs = empty.run_plan(&plan);
            let local = outputs[&Role::OUT].clone();
            correct(&plan, &p, outputs.get_mut(&Role::OUT).unwrap());
            assert!(t == 0 || outputs[&Role::OUT] != local, "a state without effect: {p}");
            let want = want.into_iter().filter(|(role, _)| *role == Role::OUT).collect();
            outputs.retain(|role, _| *role == Role::OUT);
            oracle::check(&outputs, &want, || format!("corrected {p}"));
        }
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), [0, 2, 3, 4], "kinds of transitions");
}

/// Corrections of packed sequences from pools, by any runner, in the bits of each alone.
#[test]
fn ragged_corrections() {
    let pool = |n| ContextOptions::new().runner(Arc::new(ThreadPool::new(n).unwrap()));
    for name in ["gla", "gated_delta_rule"] {
        let p = Problem::named(name).sized([2, 2, 2], (20, 150), 1, 60).fill(&mut Rng::new(8), false);
        let mut p = p;
        p.inputs.remove(&Role::GV);
        let (ends, slots) = ([0, 23, 24, 60], [2, -1, 0]);
        let states = Array { shape: vec![3, 2, 20, 150], data: Rng::new(9).values(18_000, 1.0) };
        p.inputs.insert(Role::STATE_IN, states.clone());
        let mut packed = p.clone();
        packed.indices.push((Role::CU_SEQLENS, ends.to_vec()));
        packed.indices.push((Role::STATE_INDEX, slots.to_vec()));
        let start = Array { shape: p.shape(Role::OUT), data: Rng::new(10).values(2 * 60 * 150, 1.0) };
        for workers in [1, 2, 3, 8] {
            let plan = p.plan(&Context::new(pool(workers)).unwrap());
            let mut got = start.clone();
            correct(&plan, &packed, &mut got);
            for (i, &slot) in slots.iter().enumerate() {
                let tokens = ends[i] as usize..ends[i + 1] as usize;
                let mut want = start.pick(2, tokens.clone());
                if slot >= 0 {
                    let mut part =
                        p.tokens(ends[i].into()..ends[i + 1].into(), ends[i].into()..ends[i + 1].into());
                    part.inputs.insert(Role::STATE_IN, states.pick(0, [slot as usize]));
                    correct(&p.plan(&context()), &part, &mut want);
                }
                assert_eq!(got.pick(2, tokens), want, "sequence {i} of {name}, {workers} workers");
            }
        }
    }
}

/// Outputs of any strides; nothing beside them is touched.
#[test]
fn strided_corrections() {
    for (i, p) in corrected().into_iter().enumerate() {
        let mut p = Problem { inputs: Tensors::new(), ..p }.fill(&mut Rng::new(12), true);
        p.inputs.remove(&Role::GV);
        let plan = p.plan(&context());
        let mut want = Array::filled(&p.shape(Role::OUT), 0.5);
        correct(&plan, &p, &mut want);
        let out = Array::filled(&p.shape(Role::OUT), 0.5);
        let mut out = Strided::random(&mut Rng::new(i as u64), &out);
        let mut args = Args::new();
        for (&role, array) in p.inputs.iter().filter(|(role, _)| ![Role::V, Role::D_SKIP].contains(role)) {
            args = args.input(role, View::new(&array.data, &array.shape).unwrap());
        }
        args = args.output(Role::OUT, out.view_mut());
        plan.correct(&args, &mut vec![0; plan.segment_workspace_size().unwrap()]).unwrap();
        assert_eq!(out.read(), want, "{p}");
    }
}

#[test]
fn refused_corrections() {
    let normalised = Problem::named("linear").plan(&context());
    let error = normalised.correct(&Args::new(), &mut []).expect_err("outputs are normalised");
    expect(&error, Status::Unsupported, &["correction of outputs of linear", "normalised"]);
    for (normalize, name) in [("rms_head", "gla"), ("srms_all", "gla")] {
        let plan = Problem::named(name).param("normalize", normalize).plan(&context());
        let error = plan.correct(&Args::new(), &mut []).expect_err("outputs are normalised");
        expect(&error, Status::Unsupported, &["correction of outputs of gla", "normalised"]);
    }
    let exp = Problem::named("linear").param("feature_map", "exp").plan(&context());
    let error = exp.correct(&Args::new(), &mut []).expect_err("no summaries");
    expect(&error, Status::Unsupported, &["linear"]);
    for name in ["gla", "mamba2"] {
        let p = Problem::named(name).fill(&mut Rng::new(7), true);
        let plan = p.plan(&context());
        let not_read = [Role::V, Role::GV, Role::D_SKIP];
        let call = || {
            let mut call = Call { mode: p.mode, bound: vec![], workspace: vec![] };
            call.workspace = vec![0; plan.segment_workspace_size().unwrap()];
            for (&role, array) in p.inputs.iter().filter(|(role, _)| !not_read.contains(role)) {
                call.input(role, &array.data, &array.shape);
            }
            let shape = p.shape(Role::OUT);
            call.bind(Role::OUT, true, &vec![CANARY; shape.iter().product::<i64>() as usize], &shape);
            call
        };
        let refuse = |status: Status, words: &[&str], change: &dyn Fn(&mut Call)| {
            let mut call = call();
            change(&mut call);
            let error = call.run(|_, args, workspace| plan.correct(args, workspace));
            expect(&error.expect_err("the correction is refused"), status, words);
            let out = call.bound.iter().find(|bound| bound.role == Role::OUT);
            // SAFETY: memory of the call, a float at least.
            out.into_iter().for_each(|out| assert_eq!(unsafe { *out.data.cast::<f32>() }, CANARY));
        };
        call().run(|_, args, workspace| plan.correct(args, workspace)).expect("the call works");
        let ones = vec![1f32; 4096];
        for role in not_read.into_iter().filter(|&role| p.mechanism.role(role).is_some()) {
            refuse(Status::WrongRole, &[&role.to_string()], &|call| call.input(role, &ones, &p.shape(role)));
        }
        refuse(Status::WrongRole, &["state_out", "combine"], &|call| {
            call.bind(Role::STATE_OUT, true, &ones, &p.shape(Role::STATE_OUT));
        });
        refuse(Status::WrongRole, &["dout", "backward"], &|call| {
            call.input(Role::OUT.grad(), &ones, &p.shape(Role::OUT));
        });
        refuse(Status::MissingRole, &["state_in", "what the outputs lack"], &|call| {
            call.remove(Role::STATE_IN)
        });
        refuse(Status::MissingRole, &["q"], &|call| call.remove(Role::Q));
        refuse(Status::MissingRole, &["out"], &|call| call.remove(Role::OUT));
        refuse(Status::WrongRole, &["out", "output"], &|call| call.get(Role::OUT).out = false);
        refuse(Status::WrongShape, &["state_in.shape[3] is 21", "20"], &|call| {
            call.get(Role::STATE_IN).layout.shape[3] = 21;
        });
        refuse(Status::WrongShape, &["out.shape[2] is 36", "37"], &|call| {
            call.get(Role::OUT).layout.shape[2] = 36;
        });
        refuse(Status::Overlap, &["out", "q"], &|call| call.get(Role::Q).data = call.get(Role::OUT).data);
        refuse(Status::Workspace, &["workspace"], &|call| call.workspace.truncate(64));
    }
    let step = Problem { mode: Mode::Step, t: 1, s: 1, ..Problem::named("gla") };
    let error = step.plan(&context()).correct(&Args::new(), &mut []).expect_err("not planned");
    expect(&error, Status::Unsupported, &["mode causal"]);
}

/// Ragged batches and pooled states are summarised where they lie.
#[test]
fn ragged_summaries() {
    let p = Problem::named("kda").sized([2, 2, 2], (8, 10), 1, 40).fill(&mut Rng::new(6), false);
    let plan = p.plan(&context());
    let offsets = [0, 7, 7, 40];
    let slots = [2, 0, 3];
    let mut state = Array::filled(&[4, 2, 8, 10], -1.0);
    let mut transition = Array::filled(&[4, 2, 8, 8], -1.0);
    let mut args = Args::new();
    for (&role, array) in p.inputs.iter().filter(|(role, _)| **role != Role::Q) {
        args = args.input(role, View::new(&array.data, &array.shape).unwrap());
    }
    args = args.input(Role::CU_SEQLENS, View::new(&offsets, &[4]).unwrap());
    args = args.input(Role::STATE_INDEX, View::new(&slots, &[3]).unwrap());
    let (shape, square) = (state.shape.clone(), transition.shape.clone());
    args = args.output(Role::STATE_OUT, ViewMut::new(&mut state.data, &shape).unwrap());
    args = args.output(Role::MSG_TRANSITION, ViewMut::new(&mut transition.data, &square).unwrap());
    plan.summarise(&args, &mut vec![0; plan.segment_workspace_size().unwrap()]).unwrap();
    for (i, &slot) in slots.iter().enumerate() {
        let tokens = offsets[i].into()..offsets[i + 1].into();
        let alone = summarise(&plan, &p.tokens(tokens.clone(), tokens), Some(&[1, 2, 8, 8]));
        let what = format!("sequence {i}");
        assert_eq!(state.pick(0, [slot as usize]), alone[&Role::STATE_OUT], "{what}");
        assert_eq!(transition.pick(0, [slot as usize]), alone[&Role::MSG_TRANSITION], "{what}");
    }
    assert!(state.pick(0, [1]).data.iter().all(|&x| x == -1.0), "the slot of nobody was written");
}

#[test]
fn refused_summaries() {
    let exp = Problem::named("linear").param("feature_map", "exp").plan(&context());
    let error = exp.segment_workspace_size().expect_err("no summaries");
    assert_eq!(error.status(), Status::Unsupported, "{error}");
    assert!(error.to_string().contains("summaries of linear"), "{error}");
    let p = Problem::named("gla").fill(&mut Rng::new(7), true);
    let plan = p.plan(&context());
    let mut workspace = vec![0; plan.segment_workspace_size().unwrap()];
    let mut refuse = |args: &Args, status: Status, word: &str| {
        let error = plan.summarise(args, &mut workspace).expect_err("the summary is refused");
        assert_eq!(error.status(), status, "{error}");
        assert!(error.to_string().contains(word), "`{word}` in `{error}`");
    };
    let view = |role: Role| View::new(&p.inputs[&role].data, &p.inputs[&role].shape).unwrap();
    let mut state = Array::filled(&p.shape(Role::STATE_OUT), 0.0);
    let shape = state.shape.clone();
    let inputs = || Args::new().input(Role::K, view(Role::K)).input(Role::V, view(Role::V));
    refuse(&inputs(), Status::MissingRole, "g");
    refuse(&inputs().input(Role::G, view(Role::G)), Status::MissingRole, "state_out");
    let whole = || inputs().input(Role::G, view(Role::G));
    refuse(&whole().input(Role::Q, view(Role::Q)), Status::WrongRole, "q");
    refuse(&whole().input(Role::STATE_IN, view(Role::STATE_IN)), Status::WrongRole, "state_in");
    let mut matrix = Array::filled(&[2, 2, 24, 24], 0.0);
    let square = matrix.shape.clone();
    let args = whole().output(Role::STATE_OUT, ViewMut::new(&mut state.data, &shape).unwrap());
    let args = args.output(Role::MSG_TRANSITION, ViewMut::new(&mut matrix.data, &square).unwrap());
    refuse(&args, Status::WrongShape, "msg_transition has rank 4, expected 3");
    let error = plan.combine(&Args::new(), &mut workspace).expect_err("nothing to combine");
    assert_eq!(error.status(), Status::MissingRole, "{error}");
}
