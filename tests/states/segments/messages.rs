//! `lasp` against its inner mechanism, whatever messages are asked for.

use super::*;

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

/// Other types give what `f32` gives on the same values, rounded once; messages stay `f32`.
#[test]
fn other_types() {
    for case in cases() {
        for (types, messages) in TYPES.into_iter().zip(subsets().into_iter().rev()) {
            let case = Case { inner: types.round(&case.inner), ..case.clone() };
            let plan = Plan::new(&context(), &types.desc(case.desc())).unwrap();
            let want = case.run(&context(), &messages);
            let stored = |(&role, array): (&Role, &Array)| {
                let message = MESSAGES.contains(&role);
                (role, Stored::new(contiguous(array), if message { DType::F32 } else { types.of(role) }))
            };
            let inputs: Vec<_> = case.inner.inputs.iter().map(stored).collect();
            let unwritten = |(&role, array): (&Role, &Array)| (role, Array::filled(&array.shape, f32::NAN));
            let unwritten: Tensors = want.iter().map(unwritten).collect();
            let mut outputs: Vec<_> = unwritten.iter().map(stored).collect();
            let mut args = Args::new();
            for (role, tensor) in &inputs {
                args = args.input(*role, tensor.view());
            }
            for (role, tensor) in &mut outputs {
                args = args.output(*role, tensor.view_mut());
            }
            plan.execute(Mode::Causal, &args, &mut problem::workspace(&plan)).unwrap();
            for (role, tensor) in &mut outputs {
                let message = MESSAGES.contains(role);
                let near = if message { want[role].clone() } else { rounded(&want[role], types.of(*role)) };
                assert_eq!(tensor.read(), near, "{role} of {} as {types:?}", case.inner);
            }
        }
    }
}

/// Gradients are those of the inner mechanism; messages are what it gives the state before the tokens behind them.
#[test]
fn gradients() {
    for mut case in cases() {
        // So little decay that much of a segment's state comes through it.
        case.inner.inputs.get_mut(&Role::G).unwrap().data.iter_mut().for_each(|g| *g *= 0.02);
        let b = Backward::new(&mut Rng::new(43), case.inner.clone());
        let mut got = backward(&case, &b, &context(), true);
        let messages = got.remove(&Role::MSG_GRAD).unwrap();
        let plan = case.inner.plan(&context());
        let close = |got: &Array, want: &Array, what: &str| {
            let largest = want.data.iter().fold(1.0f32, |m, x| m.max(x.abs()));
            assert_eq!(got.shape, want.shape, "{what}");
            for (i, (g, w)) in got.data.iter().zip(&want.data).enumerate() {
                assert!((g - w).abs() <= 2e-5 * largest, "{what} [{i}] is {g} for {w}");
            }
        };
        for (role, want) in &b.run_plan(&plan) {
            close(&got[role], want, &format!("{role} of {} in {}", case.inner, case.ranks));
        }
        let n = case.inner.t / case.ranks;
        for rank in 1..case.ranks {
            let tokens = rank * n..case.inner.t;
            let rest = b.tokens(tokens.clone(), tokens).run_plan(&plan);
            let mut message = messages.pick(0, [rank as usize - 1]);
            message.shape.remove(0);
            let what = format!("message {rank} of {} in {}", case.inner, case.ranks);
            close(&message, &rest[&Role::STATE_IN.grad()], &what);
        }
    }
}

/// Other types give the gradients of `f32` on the same values, rounded once; messages stay `f32`.
#[test]
fn gradients_of_other_types() {
    for case in cases() {
        for types in TYPES {
            let b = types.round_backward(&Backward::new(&mut Rng::new(43), case.inner.clone()));
            let case = Case { inner: b.p.clone(), ..case.clone() };
            let want = backward(&case, &b, &context(), true);
            let plan = Plan::new(&context(), &types.desc(case.desc())).unwrap();
            let empty = want.iter().map(|(&role, array)| (role, Array::filled(&array.shape, f32::NAN)));
            let got = types.backward_to(&types, &plan, &b, &empty.collect(), |_, array| contiguous(array));
            for (&role, want) in &want {
                assert_eq!(
                    got[&role],
                    rounded(want, types.of(role)),
                    "{role} of {} as {types:?}",
                    case.inner
                );
            }
        }
    }
}

/// The same bits on any threads, whatever is wanted.
#[test]
fn gradients_on_any_runner() {
    let pool = |n| ContextOptions::new().runner(Arc::new(ThreadPool::new(n).unwrap()));
    let contexts = [2, 3, 8].map(|n| Context::new(pool(n)).unwrap());
    let serial = Context::new(ContextOptions::new().runner(Arc::new(Serial))).unwrap();
    for case in cases() {
        let b = Backward::new(&mut Rng::new(43), case.inner.clone());
        let want = backward(&case, &b, &serial, true);
        for context in &contexts {
            assert_same_bits(&backward(&case, &b, context, true), &want, || case.inner.to_string());
        }
        let mut own = want.clone();
        own.remove(&Role::MSG_GRAD);
        assert_same_bits(&backward(&case, &b, &serial, false), &own, || case.inner.to_string());
        for role in b.wanted() {
            let mut one = b.outputs();
            one.retain(|own, _| *own == role);
            b.call(&case.plan(&contexts[0]), &mut one).unwrap();
            assert_eq!(one[&role], want[&role], "{role} alone of {}", case.inner);
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
