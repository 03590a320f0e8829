//! `gau`, `flash` and `diag`: random calls and their gradients against the definition, steps and pieces against prefill.

use crate::common::gated::{Case, reals};
use crate::common::golden::Array;
use crate::common::problem::{
    self, Strided, Tensors, assert_lively, assert_same_bits, context, context_of, percent,
};
use crate::common::support::{Rng, seed};
use crate::common::types::{Stored, contiguous, rounded};
use std::sync::Arc;
use subquad::{
    Args, Context, ContextOptions, DType, Error, Isa, Mode, Plan, Role, Runner, Serial, ThreadPool, View,
    ViewMut,
};

const NAMES: [&str; 3] = ["gau", "flash", "diag"];

/// Roundings of some hundred terms, of the largest value.
const TOLERANCE: f64 = 2e-5;

#[track_caller]
fn assert_near(got: &[f32], want: &[f64], tolerance: f64, what: impl Fn() -> String) {
    assert_eq!(got.len(), want.len(), "{}", what());
    let largest = want.iter().fold(1e-3, |most: f64, x| most.max(x.abs()));
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(error <= tolerance * largest, "element {i} is {got} for {want}: {}", what());
    }
}

fn with_workers(n: usize) -> Context {
    let runner: Arc<dyn Runner> =
        if n == 1 { Arc::new(Serial) } else { Arc::new(ThreadPool::new(n).unwrap()) };
    Context::new(ContextOptions::new().runner(runner)).unwrap()
}

#[test]
fn random_calls() {
    for name in NAMES {
        for n in 0..(150 * percent()).div_ceil(100) {
            let mut rng = Rng::new(seed() ^ (n as u64) << 8);
            let case = Case::random(&mut rng, name);
            let inputs = case.inputs(&mut rng);
            let want = case.expect(&reals(&inputs));
            for isa in problem::isas() {
                let plan = Plan::new(&context_of(isa), &case.desc()).unwrap();
                for (role, got) in case.run(&plan, &inputs) {
                    let what = || format!("{role} on {isa} of {case:?}");
                    assert_near(&got.data, &want[&role], TOLERANCE, what);
                }
            }
        }
    }
}

/// What a sequence of tokens gives in steps: with all keys so far, or those of the block so far.
#[test]
fn steps_are_a_prefill() {
    for (name, bias) in [("gau", 0), ("flash", 2), ("diag", 0)] {
        let case = Case { bias, b: 2, ..Case::new(name, 70) };
        let inputs = case.inputs(&mut Rng::new(1));
        let whole = case.run(&Plan::new(&context(), &case.desc()).unwrap(), &inputs);
        let mut step = Case { mode: Mode::Step, t: 1, ..case.clone() };
        let plan = Plan::new(&context(), &step.desc()).unwrap();
        let tokens = if name == "diag" { 2 } else { 1 };
        let (mut outs, mut state) = (Vec::new(), None);
        for t in 0..70 {
            let first = if name == "gau" { 0 } else { t / 16 * 16 };
            (step.s, step.state) = (t + 1 - first, state.is_some());
            let part = |(role, array): (&Role, &Array)| match *role {
                Role::QK | Role::K | Role::V => (*role, array.pick(tokens, first..t + 1)),
                Role::Q | Role::GATE => (*role, array.pick(tokens, [t])),
                _ => (*role, array.clone()),
            };
            let mut given: Tensors = inputs.iter().map(part).collect();
            given.extend(state.map(|state| (Role::STATE_IN, state)));
            let mut got = step.run(&plan, &given);
            state = got.remove(&Role::STATE_OUT);
            outs.push(got.remove(&Role::OUT).unwrap());
        }
        let out: Vec<f64> = whole[&Role::OUT].data.iter().map(|&x| x.into()).collect();
        assert_near(&Array::join(tokens, &outs).data, &out, 1e-5, || name.into());
    }
}

#[test]
fn pieces_of_whole_blocks_give_the_same_bits() {
    for (block, end) in [(16, 64), (48, 192), (64, 64), (128, 256)] {
        let case = Case { e: 70, block, lin_scale: Some(0.1), ..Case::new("flash", 290) };
        let inputs = case.inputs(&mut Rng::new(2));
        let plan = Plan::new(&context(), &case.desc()).unwrap();
        let whole = case.run(&plan, &inputs);
        let piece = |tokens: std::ops::Range<usize>, state: Option<Array>| {
            let n = tokens.len();
            let mut given = inputs.clone();
            for role in [Role::QK, Role::GATE, Role::V] {
                given.insert(role, inputs[&role].pick(1, tokens.clone()));
            }
            given.extend(state.map(|state| (Role::STATE_IN, state)));
            Case { t: n, s: n, ..case.clone() }.run(&plan, &given)
        };
        let first = piece(0..end, None);
        let mut last = piece(end..290, Some(first[&Role::STATE_OUT].clone()));
        let out = Array::join(1, &[first[&Role::OUT].clone(), last[&Role::OUT].clone()]);
        last.insert(Role::OUT, out);
        assert_same_bits(&last, &whole, || format!("block {block}, cut at {end}"));
        assert_lively(&whole, || "flash".into());
    }
}

#[test]
fn packed_sequences_give_the_bits_of_each_alone() {
    for name in NAMES {
        let offsets = vec![0, 40, 40, 131];
        let case = Case { bias: 0, offsets: Some(offsets.clone()), ..Case::new(name, 131) };
        let inputs = case.inputs(&mut Rng::new(3));
        let plan = Plan::new(&context(), &case.desc()).unwrap();
        let packed = case.run(&plan, &inputs);
        let axis = if name == "diag" { 2 } else { 1 };
        for pair in offsets.windows(2) {
            let tokens = pair[0] as usize..pair[1] as usize;
            let alone = Case { t: tokens.len(), s: tokens.len(), offsets: None, ..case.clone() };
            let part = |(role, array): (&Role, &Array)| {
                let cut = !matches!(*role, Role::AFFINE_WEIGHT | Role::AFFINE_BIAS);
                (*role, if cut { array.pick(axis, tokens.clone()) } else { array.clone() })
            };
            let mut got = alone.run(&plan, &inputs.iter().map(part).collect());
            got.remove(&Role::STATE_OUT);
            let want = Tensors::from([(Role::OUT, packed[&Role::OUT].pick(axis, tokens.clone()))]);
            assert_same_bits(&got, &want, || format!("{name}, tokens {tokens:?}"));
        }
    }
}

#[test]
fn any_strides_and_workers() {
    for name in NAMES {
        for n in 0..(20 * percent()).div_ceil(100) {
            let mut rng = Rng::new(seed() ^ (n as u64) << 16);
            let case = Case::random(&mut rng, name);
            let inputs = case.inputs(&mut rng);
            let want = case.run(&Plan::new(&with_workers(1), &case.desc()).unwrap(), &inputs);
            let plan = Plan::new(&with_workers(3), &case.desc()).unwrap();
            assert_same_bits(&case.run(&plan, &inputs), &want, || format!("3 workers: {case:?}"));
            let arrange = |(&role, array): (&Role, &Array)| (role, Strided::random(&mut rng, array));
            let arranged: Vec<_> = inputs.iter().map(arrange).collect();
            let arrange = |(&role, array): (&Role, &Array)| (role, Strided::random(&mut rng, array));
            let mut outputs: Vec<_> = case.outputs().iter().map(arrange).collect();
            let indices = case.indices();
            let mut args = Args::new();
            for (role, tensor) in &arranged {
                args = args.input(*role, tensor.view());
            }
            for (role, values) in &indices {
                args = args.input(*role, View::new(values, &[values.len() as i64]).unwrap());
            }
            for (role, tensor) in &mut outputs {
                args = args.output(*role, tensor.view_mut());
            }
            plan.execute(case.mode, &args, &mut problem::workspace(&plan)).unwrap();
            let got = outputs.iter().map(|(role, tensor)| (*role, tensor.read())).collect();
            assert_same_bits(&got, &want, || format!("strides: {case:?}"));
        }
    }
}

#[test]
fn nothing_leaks_to_rows_that_do_not_see_it() {
    for (name, role, bias) in [
        ("gau", Role::QK, 1),
        ("gau", Role::V, 0),
        ("flash", Role::QK, 1),
        ("flash", Role::V, 0),
        ("diag", Role::K, 0),
        ("diag", Role::V, 0),
    ] {
        let case = Case { bias, e: 33, ..Case::new(name, 75) };
        let clean = case.inputs(&mut Rng::new(4));
        let plan = Plan::new(&context(), &case.desc()).unwrap();
        let want = case.run(&plan, &clean);
        for token in [0, 15, 16, 40, 74] {
            let mut inputs = clean.clone();
            let width = *clean[&role].shape.last().unwrap() as usize;
            inputs.get_mut(&role).unwrap().data[token * width + 1] = f32::NAN;
            let got = case.run(&plan, &inputs);
            for (i, (got, want)) in got[&Role::OUT].data.iter().zip(&want[&Role::OUT].data).enumerate() {
                let row = i / 33;
                let sees = token <= row && (name != "diag" || token / 16 == row / 16);
                assert!(sees || got.to_bits() == want.to_bits(), "{name} {role}: {token} is seen by {row}");
                assert!(!(sees && row == token && i % 33 == 1) || got.is_nan(), "{name} {role}: {token}");
            }
        }
    }
}

/// Gradients of `Σ dout · out`.
fn backward(case: &Case, context: &Context, inputs: &Tensors, dout: &Array) -> Result<Tensors, Error> {
    let plan = Plan::new(context, &case.desc())?;
    let roles = case.shapes().into_iter().filter(|(role, _)| *role != Role::STATE_IN);
    let mut grads: Tensors =
        roles.map(|(role, shape)| (role.grad(), Array::filled(&shape, f32::NAN))).collect();
    let indices = case.indices();
    let mut args = Args::new().input(Role::OUT.grad(), View::new(&dout.data, &dout.shape)?);
    for (&role, array) in inputs {
        args = args.input(role, View::new(&array.data, &array.shape)?);
    }
    for (role, values) in &indices {
        args = args.input(*role, View::new(values, &[values.len() as i64])?);
    }
    for (&role, array) in &mut grads {
        args = args.output(role, ViewMut::new(&mut array.data, &array.shape)?);
    }
    let longest =
        |offsets: &Vec<i32>| offsets.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap() as usize;
    let sizes = case
        .offsets
        .as_ref()
        .map_or((case.b, case.t, case.s), |offsets| (offsets.len() - 1, longest(offsets), longest(offsets)));
    let mut workspace = vec![0xff; plan.backward_workspace_size(sizes.0, sizes.1, sizes.2)?];
    plan.backward(case.mode, &args, &mut workspace)?;
    Ok(grads)
}

#[test]
fn gradients_are_those_of_the_definition() {
    for name in NAMES {
        for n in 0..(40 * percent()).div_ceil(100) {
            let mut rng = Rng::new(seed() ^ (n as u64) << 24);
            let mut case = Case::random(&mut rng, name);
            case.s = case.s.min(90);
            case.t = case.t.min(case.s);
            if case.mode == Mode::Step {
                case.mode = Mode::Causal;
            }
            if let Some(offsets) = &mut case.offsets {
                offsets.iter_mut().for_each(|at| *at = (*at).min(case.s as i32));
            }
            let inputs = case.inputs(&mut rng);
            let out = &case.outputs()[&Role::OUT];
            let dout = Array { data: rng.values(out.data.len(), 1.0), shape: out.shape.clone() };
            let got = backward(&case, &context_of(rng.pick(&problem::isas())), &inputs, &dout).unwrap();
            let same = backward(&case, &with_workers(3), &inputs, &dout).unwrap();
            let alone = backward(&case, &with_workers(1), &inputs, &dout).unwrap();
            assert_same_bits(&same, &alone, || format!("3 workers: {case:?}"));
            let loss = |x: &crate::common::gated::Reals| -> f64 {
                let out = &case.expect(x)[&Role::OUT];
                out.iter().zip(&dout.data).map(|(o, &d)| o * f64::from(d)).sum()
            };
            for (role, grad) in &got {
                let largest = grad.data.iter().fold(1e-2f32, |most, x| most.max(x.abs()));
                for _ in 0..4 {
                    let (i, mut x) = (rng.below(grad.data.len()), reals(&inputs));
                    let step = 1e-5;
                    let mut at = |by: f64| {
                        x.get_mut(&role.base()).unwrap()[i] += by;
                        loss(&x)
                    };
                    let difference = (at(step) - at(-2.0 * step)) / (2.0 * step);
                    let error = (f64::from(grad.data[i]) - difference).abs();
                    let (given, what) = (grad.data[i], format!("{role}[{i}] of {case:?}"));
                    assert!(
                        error <= 1e-4 * f64::from(largest),
                        "{given} for {difference}, of {largest}: {what}"
                    );
                }
            }
        }
    }
}

/// The keys of one query are cut into runs, which are merged.
#[test]
fn long_caches() {
    for (name, activation) in [("gau", "laplace"), ("flash", "relu2"), ("diag", "softmax"), ("diag", "relu")]
    {
        let block = if name == "diag" { 100 } else { 3000 };
        let step = Case { mode: Mode::Step, activation, block, bias: 0, d: 9, e: 12, ..Case::new(name, 1) };
        let case = Case { s: 2990, ..step };
        let inputs = case.inputs(&mut Rng::new(6));
        let got = case.run(&Plan::new(&context(), &case.desc()).unwrap(), &inputs);
        let want = case.expect(&reals(&inputs));
        assert_near(&got[&Role::OUT].data, &want[&Role::OUT], TOLERANCE, || format!("{name} {activation}"));
    }
}

#[test]
fn empty_calls() {
    for name in NAMES {
        for (b, t) in [(0, 5), (2, 0)] {
            let case = Case { b, bias: 0, state: name == "flash", ..Case::new(name, t) };
            let inputs = case.inputs(&mut Rng::new(7));
            let mut got = case.run(&Plan::new(&context(), &case.desc()).unwrap(), &inputs);
            if let Some(state) = got.remove(&Role::STATE_OUT) {
                assert_eq!(state, inputs[&Role::STATE_IN], "the state passes through");
            }
            if name != "diag" {
                let grads = backward(&case, &context(), &inputs, &case.outputs()[&Role::OUT]).unwrap();
                let maps = &grads[&Role::AFFINE_WEIGHT.grad()].data;
                assert!(maps.iter().all(|&x| x == 0.0), "{name}: {maps:?}");
            }
        }
    }
}

#[test]
fn sixteen_bits() {
    for (name, dtype) in [("gau", DType::Bf16), ("gau", DType::F16), ("diag", DType::Bf16)] {
        let case = Case { bias: 0, ..Case::new(name, 70) };
        let mut inputs = case.inputs(&mut Rng::new(8));
        inputs.values_mut().for_each(|array| *array = rounded(array, dtype));
        let plan = Plan::new(&context(), &case.desc().types(dtype, dtype, DType::F32)).unwrap();
        let own = |role| [Role::AFFINE_WEIGHT, Role::AFFINE_BIAS].contains(&role);
        let stored = |(&role, array): (&Role, &Array)| {
            (role, Stored::new(contiguous(array), if own(role) { DType::F32 } else { dtype }))
        };
        let stored: Vec<_> = inputs.iter().map(stored).collect();
        let mut out = Stored::new(contiguous(&case.outputs()[&Role::OUT]), dtype);
        let mut args = Args::new();
        for (role, tensor) in &stored {
            args = args.input(*role, tensor.view());
        }
        args = args.output(Role::OUT, out.view_mut());
        plan.execute(case.mode, &args, &mut problem::workspace(&plan)).unwrap();
        let want = case.expect(&reals(&inputs));
        assert_near(&out.read().data, &want[&Role::OUT], 4e-3, || format!("{name} in {dtype}"));
    }
}

/// Gradients of 16-bit tensors are those of `f32` on the same values, rounded once; a bias's stay `f32`.
#[test]
fn gradients_in_sixteen_bits() {
    for (name, bias, dtype) in
        [("gau", 1, DType::Bf16), ("gau", 2, DType::F16), ("gau", 0, DType::Bf16), ("diag", 0, DType::F16)]
    {
        let case = Case { bias, ..Case::new(name, 70) };
        let mut inputs = case.inputs(&mut Rng::new(8));
        let out = &case.outputs()[&Role::OUT];
        let mut dout = Array { data: Rng::new(9).values(out.data.len(), 1.0), shape: out.shape.clone() };
        inputs.values_mut().chain([&mut dout]).for_each(|array| *array = rounded(array, dtype));
        let want = backward(&case, &context(), &inputs, &dout).unwrap();
        // Inputs and gradients in the type, then gradients in `f32`, then maps and gates in `f32`.
        let wide = |all: &[Role], role: Role| all.contains(&role.base());
        let maps = [Role::AFFINE_WEIGHT, Role::AFFINE_BIAS, Role::GATE];
        let every = [&maps[..], &[Role::Q, Role::K, Role::QK, Role::V, Role::BIAS]].concat();
        for (given, wanted) in [(&[][..], &[][..]), (&[][..], &every[..]), (&maps[..], &maps[..])] {
            let of = |role: Role| match role.is_grad() && role != Role::OUT.grad() {
                true if role.base() == Role::BIAS || wide(wanted, role) => DType::F32,
                false if wide(given, role) => DType::F32,
                _ => dtype,
            };
            let stored = |(&role, array): (&Role, &Array)| (role, Stored::new(contiguous(array), of(role)));
            let unwritten = |(&role, array): (&Role, &Array)| (role, Array::filled(&array.shape, f32::NAN));
            let unwritten: Tensors = want.iter().map(unwritten).collect();
            let mut grads: Vec<_> = unwritten.iter().map(stored).collect();
            let dout = (Role::OUT.grad(), dout.clone());
            let read: Vec<_> = inputs.iter().chain([(&dout.0, &dout.1)]).map(stored).collect();
            let mut args = Args::new();
            for (role, tensor) in &read {
                args = args.input(*role, tensor.view());
            }
            for (role, tensor) in &mut grads {
                args = args.output(*role, tensor.view_mut());
            }
            let plan = Plan::new(&context(), &case.desc().types(dtype, dtype, DType::F32)).unwrap();
            let mut memory = vec![0xff; plan.backward_workspace_size(case.b, case.t, case.s).unwrap()];
            plan.backward(case.mode, &args, &mut memory).unwrap();
            for (role, tensor) in &mut grads {
                assert_eq!(tensor.read(), rounded(&want[role], of(*role)), "{role} of {name}, {dtype}");
            }
        }
    }
}

#[test]
fn what_is_refused() {
    let plan = |case: &Case| Plan::new(&context_of(Isa::Scalar), &case.desc());
    for name in NAMES {
        let error = plan(&Case { mode: Mode::Cross, ..Case::new(name, 8) }).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        // More queries than keys.
        let case = Case { s: 7, bias: 0, ..Case::new(name, 8) };
        let mut outputs = case.outputs();
        let inputs = case.inputs(&mut Rng::new(5));
        let plan = plan(&case).unwrap();
        let error = problem::execute(&plan, case.mode, &inputs, &[], &mut outputs).unwrap_err();
        assert!(matches!(error, Error::WrongExtent { .. }), "{name}: {error}");
    }
    let bf16 = |name| Case::new(name, 8).desc().types(DType::Bf16, DType::Bf16, DType::F32);
    assert!(Plan::new(&context(), &bf16("gau")).is_ok());
    let error = Plan::new(&context(), &bf16("flash")).unwrap_err();
    assert!(error.to_string().contains("f32 only"), "{error}");
}
