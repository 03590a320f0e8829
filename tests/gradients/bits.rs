//! What changes no bit: runners, strides, batches, what else is wanted.

use super::*;
use crate::common::runner::LastFirst;

/// What the first pass leaves in `dq` and `dv` on the way changes no bit of the others.
#[test]
fn long_sequences_without_places() {
    for mechanism in mechanisms() {
        let mut rng = Rng::new(seed());
        let p = Problem::new(mechanism, vec![]).sized([2, 2, 2], (4, 3), 1, 300).fill(&mut rng, true);
        let b = Backward::new(&mut rng, p);
        let plan = b.p.plan(&context());
        let mut want = b.run_plan(&plan);
        let places = [Role::Q.grad(), Role::V.grad()];
        want.retain(|role, _| !places.contains(role));
        let mut got = b.outputs();
        got.retain(|role, _| !places.contains(role));
        b.call(&plan, &mut got).unwrap_or_else(|error| panic!("{}: {error}", text(&b)));
        assert_same_bits(&got, &want, || text(&b));
    }
}

fn runners() -> Vec<(String, Context)> {
    let of = |runner: Arc<dyn Runner>| Context::new(ContextOptions::new().runner(runner)).unwrap();
    let pools = [2, 3, 8].map(|n| (format!("{n} workers"), of(Arc::new(ThreadPool::new(n).unwrap()))));
    let mut all = Vec::from(pools);
    all.push(("last first".into(), of(Arc::new(LastFirst))));
    all
}

#[test]
fn any_runner() {
    let runners = runners();
    each(middling, |_, b| {
        let serial = b.run(&context());
        for (name, context) in &runners {
            assert_same_bits(&b.run(context), &serial, || format!("{name}: {}", text(&b)));
        }
    });
}

/// Few heads, a wide state and more tokens than one kept state covers.
#[test]
fn any_runner_one_head() {
    let runners = runners();
    for mechanism in mechanisms() {
        let mut rng = Rng::new(seed());
        let p = Problem::new(mechanism, vec![]).sized([1, 1, 1], (100, 333), 1, 300).fill(&mut rng, true);
        let b = Backward::new(&mut rng, p);
        let serial = b.run(&context());
        for (name, context) in &runners {
            assert_same_bits(&b.run(context), &serial, || format!("{name}: {}", text(&b)));
        }
    }
}

/// What else is wanted changes no bit.
#[test]
fn subsets() {
    each(middling, |rng, b| {
        let plan = b.p.plan(&context());
        let all = b.run_plan(&plan);
        let wanted = b.wanted();
        let subsets = wanted
            .iter()
            .map(|&role| vec![role])
            .chain([wanted.iter().copied().filter(|_| rng.one_in(2)).collect(), vec![]]);
        for subset in subsets.collect::<Vec<Vec<Role>>>() {
            let mut got = b.outputs();
            got.retain(|role, _| subset.contains(role));
            b.call(&plan, &mut got).unwrap_or_else(|error| panic!("{}: {error}", text(&b)));
            let want = all.iter().filter(|(role, _)| subset.contains(role));
            let want = want.map(|(&role, array)| (role, array.clone())).collect();
            assert_same_bits(&got, &want, || format!("{subset:?} of {}", text(&b)));
        }
    });
}

/// An absent gradient of what is carried out is one of zeros.
#[test]
fn absent_is_zero() {
    each(middling, |_, b| {
        let (mut absent, mut zero) = (b.clone(), b.clone());
        absent.given.retain(|&role, _| role == Role::OUT.grad());
        for (_, array) in zero.given.iter_mut().filter(|(role, _)| **role != Role::OUT.grad()) {
            array.data.fill(0.0);
        }
        let plan = b.p.plan(&context());
        let (got, want) = (absent.run_plan(&plan), zero.run_plan(&plan));
        for (role, want) in &want {
            // A zero may have either sign; without keys and without an epsilon there are no numbers.
            let same = |(g, w): (&f32, &f32)| g == w || (g.is_nan() && w.is_nan());
            assert!(got[role].data.iter().zip(&want.data).all(same), "{role} of {}", text(&b));
        }
    });
}

fn run_strided(plan: &Plan, b: &Backward, rng: &mut Rng) -> Tensors {
    let inputs: Vec<_> = b.inputs().map(|(role, array)| (role, Strided::random(rng, array))).collect();
    let mut outputs: Vec<_> =
        b.outputs().iter().map(|(&role, array)| (role, Strided::random(rng, array))).collect();
    let mut args = Args::new();
    for (role, strided) in &inputs {
        args = args.input(*role, strided.view());
    }
    for (role, strided) in &mut outputs {
        args = args.output(*role, strided.view_mut());
    }
    plan.backward(b.p.mode, &args, &mut b.workspace(plan))
        .unwrap_or_else(|error| panic!("{}: {error}", text(b)));
    outputs.iter().map(|(role, strided)| (*role, strided.read())).collect()
}

#[test]
fn any_strides() {
    each(middling, |rng, b| {
        let plan = b.p.plan(&context());
        let plain = b.run_plan(&plan);
        for _ in 0..2 {
            assert_same_bits(&run_strided(&plan, &b, rng), &plain, || text(&b));
        }
    });
}

/// The output's gradient broadcast, as that of a sum is.
#[test]
fn broadcast_gradient() {
    each(middling, |rng, b| {
        let mut b = b;
        let plan = b.p.plan(&context());
        let out = Role::OUT.grad();
        let one = noise(rng, &vec![1; b.given[&out].shape.len()]);
        let shape = b.given[&out].shape.clone();
        b.given.insert(out, Array::filled(&shape, one.data[0]));
        let want = b.run_plan(&plan);
        let rank = shape.len();
        let order: Vec<usize> = (0..rank).collect();
        let mut strided = Strided::new(&one, &order, &vec![0; rank], &vec![false; rank]);
        for (axis, &n) in shape.iter().enumerate() {
            strided = strided.broadcast(axis, n);
        }
        if shape.contains(&0) {
            return;
        }
        let mut got = b.outputs();
        let mut args = Args::new().input(out, strided.view());
        for (role, array) in b.inputs().filter(|(role, _)| *role != out) {
            args = args.input(role, subquad::View::new(&array.data, &array.shape).unwrap());
        }
        for (&role, array) in &mut got {
            args = args.output(role, subquad::ViewMut::new(&mut array.data, &array.shape).unwrap());
        }
        plan.backward(b.p.mode, &args, &mut b.workspace(&plan)).unwrap();
        assert_same_bits(&got, &want, || text(&b));
    });
}

#[test]
fn batch_order() {
    each(middling, |rng, b| {
        let plain = b.batch(&[0, 0, 0]);
        let mut three = plain.clone();
        for array in three.p.inputs.iter_mut().filter(|(role, _)| plain.p.axis(**role, "B").is_some()) {
            *array.1 = plain.p.values(rng, *array.0);
        }
        let plan = three.p.plan(&context());
        let whole = three.run_plan(&plan);
        let order = rng.pick(&[[2, 0, 1], [1, 2, 0], [0, 2, 1]]);
        let own = |tensors: &Tensors| -> Tensors {
            let own = tensors.iter().filter(|(role, _)| three.per_sequence(**role));
            own.map(|(&role, array)| (role, array.clone())).collect()
        };
        let pick = |entries: &[usize]| -> Tensors {
            let pick = |array: &Array| array.pick(0, entries.iter().copied());
            own(&whole).iter().map(|(&role, array)| (role, pick(array))).collect()
        };
        let permuted = three.batch(&order).run_plan(&plan);
        assert_same_bits(&own(&permuted), &pick(&order), || format!("{order:?} of {}", text(&three)));
        let alone = three.batch(&[1]).run_plan(&plan);
        assert_same_bits(&own(&alone), &pick(&[1]), || format!("one of {}", text(&three)));
    });
}

/// What is no number stays in its sequence.
#[test]
fn nan_stays() {
    each(middling, |rng, b| {
        if b.p.b < 2 || b.p.t == 0 {
            return;
        }
        let mut hurt = b.clone();
        let out = hurt.given.get_mut(&Role::OUT.grad()).unwrap();
        let len = out.data.len() / b.p.b as usize;
        out.data[rng.below(len)] = rng.pick(&[f32::NAN, f32::INFINITY]);
        let plan = b.p.plan(&context());
        let rest = |all: Tensors| -> Tensors {
            let own = all.into_iter().filter(|(role, _)| b.per_sequence(*role));
            own.map(|(role, array)| (role, array.pick(0, 1..b.p.b as usize))).collect()
        };
        assert_same_bits(&rest(hurt.run_plan(&plan)), &rest(b.run_plan(&plan)), || text(&b));
    });
}
