//! Gradients of softmax attention where sequences, heads and rows differ in what they see: shared biases, outputs that
//! a call hands over, packed sequences, lengths, gates, and numbers that are none.

use crate::common::golden::Array;
use crate::common::refusal::expect;
use crate::common::support::Rng;
use crate::common::types::{Stored, contiguous, rounded};
use std::collections::BTreeMap;
use std::sync::Arc;
use subquad::{
    Args, Context, ContextOptions, DType, Desc, Error, Mode, Plan, Role, Status, ThreadPool, View, ViewMut,
};

type Tensors = BTreeMap<Role, Array>;

/// A mechanism with its inputs; `lam`, `probe`, `g` and `scale_bh` where it has them.
#[derive(Clone)]
struct Problem {
    desc: Desc,
    mode: Mode,
    /// Query and key heads; queries and keys.
    heads: [i64; 2],
    lengths: [i64; 2],
    inputs: Tensors,
    indices: Vec<(Role, Vec<i32>)>,
    dout: Array,
}

const MECHANISMS: [&str; 7] = ["softmax", "focal", "fox", "bswa", "diff", "integral", "parallax"];

fn noise(rng: &mut Rng, shape: &[i64]) -> Array {
    let data = rng.values(shape.iter().product::<i64>() as usize, 1.0);
    Array { shape: shape.to_vec(), data }
}

fn context() -> Context {
    Context::new(ContextOptions::new()).unwrap()
}

impl Problem {
    fn new(name: &str, mode: Mode, b: i64, heads: [i64; 2], dims: [i64; 2], lengths: [i64; 2]) -> Problem {
        let ([h, hk], [d, e], [t, s]) = (heads, dims, lengths);
        let mut rng = Rng::new(7);
        let mut desc = Desc::new(name).modes(mode).heads(h, hk, hk).dims(d, e);
        let maps = if name == "diff" { 2 } else { 1 };
        let mut inputs = Tensors::from([
            (Role::Q, noise(&mut rng, &[b, maps * h, t, d])),
            (Role::K, noise(&mut rng, &[b, maps * hk, s, d])),
            (Role::V, noise(&mut rng, &[b, hk, s, e])),
        ]);
        match name {
            "focal" => {
                let mut scale = noise(&mut rng, &[b, h]);
                scale.data.iter_mut().for_each(|x| *x = 0.3 + 0.2 * *x);
                inputs.insert(Role::SCALE_BH, scale);
            }
            "fox" => {
                let mut g = noise(&mut rng, &[b, h, s]);
                g.data.iter_mut().for_each(|x| *x = -0.1 * x.abs());
                inputs.insert(Role::G, g);
            }
            "bswa" => desc = desc.param("block", 16).param("mem_blocks", 2),
            "integral" => desc = desc.param("signals", 1).param("scale", 0.3),
            "diff" => drop(inputs.insert(Role::LAM, noise(&mut rng, &[h]))),
            "parallax" => {
                let mut probe = noise(&mut rng, &[b, h, t, d]);
                probe.data.iter_mut().for_each(|x| *x *= 0.2);
                inputs.insert(Role::PROBE, probe);
            }
            _ => {}
        }
        let dout = noise(&mut rng, &[b, h, t, e]);
        Problem { desc, mode, heads, lengths, inputs, indices: vec![], dout }
    }

    fn maps(&self) -> i64 {
        self.inputs[&Role::Q].shape[1] / self.heads[0]
    }

    fn with(mut self, role: Role, shape: &[i64]) -> Problem {
        let mut rng = Rng::new(11 + self.inputs.len() as u64);
        self.inputs.insert(role, noise(&mut rng, shape));
        self
    }

    /// Slopes and sinks.
    fn with_heads(self) -> Problem {
        let h = self.maps() * self.heads[0];
        self.with(Role::ALIBI_SLOPES, &[h]).with(Role::SINK, &[h])
    }

    fn args<'a>(&'a self, plan: &Plan, outputs: &'a mut Tensors) -> Result<(), Error> {
        let mut args = Args::new().input(Role::OUT.grad(), View::new(&self.dout.data, &self.dout.shape)?);
        for (&role, array) in &self.inputs {
            args = args.input(role, View::new(&array.data, &array.shape)?);
        }
        for (role, values) in &self.indices {
            args = args.input(*role, View::new(values, &[values.len() as i64])?);
        }
        for (&role, array) in outputs {
            args = args.output(role, ViewMut::new(&mut array.data, &array.shape)?);
        }
        let packed = self.indices.iter().find(|(role, _)| *role == Role::CU_SEQLENS);
        let n = packed.map_or(self.dout.shape[0] as usize, |(_, offsets)| offsets.len() - 1);
        let [t, s] = self.lengths.map(|n| n as usize);
        plan.backward(self.mode, &args, &mut vec![0xff; plan.backward_workspace_size(n, t, s)?])
    }

    fn try_run(&self, context: &Context) -> Result<Tensors, Error> {
        let given = [Role::OUT, Role::LSE];
        let wanted = self.inputs.iter().filter(|(role, _)| !given.contains(role));
        let mut outputs =
            wanted.map(|(role, array)| (role.grad(), Array::filled(&array.shape, f32::NAN))).collect();
        self.args(&Plan::new(context, &self.desc)?, &mut outputs)?;
        Ok(outputs)
    }

    fn run(&self) -> Tensors {
        self.try_run(&context()).unwrap_or_else(|error| panic!("{:?}: {error}", self.desc))
    }

    /// `out`, and `lse` where there is one.
    fn forward(&self) -> Tensors {
        let plan = Plan::new(&context(), &self.desc).unwrap();
        let shape = &self.dout.shape;
        let mut outputs = Tensors::from([(Role::OUT, Array::filled(shape, f32::NAN))]);
        if self.maps() == 1 {
            outputs.insert(Role::LSE, Array::filled(&shape[..3], f32::NAN));
        }
        let mut args = Args::new();
        for (&role, array) in &self.inputs {
            args = args.input(role, View::new(&array.data, &array.shape).unwrap());
        }
        for (role, values) in &self.indices {
            args = args.input(*role, View::new(values, &[values.len() as i64]).unwrap());
        }
        for (&role, array) in &mut outputs {
            args = args.output(role, ViewMut::new(&mut array.data, &array.shape).unwrap());
        }
        plan.execute(self.mode, &args, &mut vec![0; plan.workspace_size()]).unwrap();
        outputs
    }

    fn get(&mut self, role: Role) -> &mut Array {
        self.inputs.get_mut(&role).unwrap()
    }
}

#[track_caller]
fn assert_close(got: &Array, want: &Array, bound: f32, what: &str) {
    assert_eq!(got.shape, want.shape, "{what}");
    let largest = want.data.iter().fold(0.1f32, |m, x| m.max(x.abs()));
    for (i, (g, w)) in got.data.iter().zip(&want.data).enumerate() {
        assert!((g - w).abs() <= bound * largest, "{what} at {i}: {g:e} for {w:e}, largest {largest:e}");
    }
}

#[track_caller]
fn all_close(got: &Tensors, want: &Tensors, bound: f32, what: &str) {
    assert!(got.keys().eq(want.keys()), "{what}");
    for (role, want) in want {
        assert_close(&got[role], want, bound, &format!("{role} of {what}"));
    }
}

#[track_caller]
fn same_bits(got: &[f32], want: &[f32], what: &str) {
    let same = got.iter().zip(want).all(|(g, w)| g.to_bits() == w.to_bits() || (g.is_nan() && w.is_nan()));
    assert!(got.len() == want.len() && same, "{what}");
}

/// Sums over an axis, kept with one element.
fn sum(array: &Array, axis: usize) -> Array {
    let parts = (0..array.shape[axis] as usize).map(|i| array.pick(axis, [i]));
    parts
        .reduce(|mut sum, part| {
            sum.data.iter_mut().zip(&part.data).for_each(|(sum, x)| *sum += x);
            sum
        })
        .unwrap()
}

/// The gradient of a bias that batch entries or heads share is the sum of those of biases of their own.
#[test]
fn shared_bias() {
    let three = Context::new(ContextOptions::new().runner(Arc::new(ThreadPool::new(3).unwrap()))).unwrap();
    for name in MECHANISMS {
        let p = Problem::new(name, Mode::Causal, 3, [4, 2], [12, 20], [41, 70]).with_heads();
        let (h, [t, s]) = (p.maps() * 4, p.lengths);
        for shape in [[1, h], [3, 1], [1, 1]] {
            let shared = p.clone().with(Role::BIAS, &[shape[0], shape[1], t, s]);
            let mut own = shared.clone();
            for (axis, n) in [(0, 3), (1, h)] {
                let bias = own.get(Role::BIAS);
                if bias.shape[axis] < n {
                    *bias = Array::join(axis, &vec![bias.clone(); n as usize]);
                }
            }
            let (got, mut want) = (shared.run(), own.run());
            let bias = want.get_mut(&Role::BIAS.grad()).unwrap();
            for axis in (0..2).filter(|&axis| shape[axis] == 1) {
                *bias = sum(bias, axis);
            }
            all_close(&got, &want, 1e-5, name);
            let threads = shared.try_run(&three).unwrap();
            for (role, want) in &got {
                same_bits(&threads[role].data, &want.data, &format!("{role} of {name}"));
            }
        }
    }
}

/// What forward computed spares backward the same work, and is no other.
#[test]
fn given_outputs() {
    for name in MECHANISMS {
        let p = Problem::new(name, Mode::Causal, 2, [4, 2], [12, 20], [41, 70]).with_heads();
        let mut given = p.clone();
        given.inputs.extend(p.forward());
        if ["diff", "parallax"].contains(&name) {
            let error = given.try_run(&context()).expect_err("it takes no outputs");
            expect(&error, Status::WrongRole, &["its gradient"]);
            continue;
        }
        all_close(&given.run(), &p.run(), 1e-4, name);
        // They are read: others give other gradients.
        given.get(Role::LSE).data.iter_mut().for_each(|x| *x += 1.0);
        let [got, want] = [&given, &p].map(|p| p.run()[&Role::V.grad()].data[0]);
        assert!((got - want / std::f32::consts::E).abs() < 1e-4 * want.abs(), "{got:e} for {want:e} / e");
        for (one, other) in [(Role::OUT, "role lse"), (Role::LSE, "role out")] {
            let mut half = p.clone();
            half.inputs.insert(one, given.inputs[&one].clone());
            let error = half.try_run(&context()).expect_err("both or none");
            expect(&error, Status::MissingRole, &[other, "together"]);
        }
    }
}

/// In 16 bits too, `out` rounded as forward rounds it: the gradients of `f32` on the same values, rounded once.
#[test]
fn given_outputs_in_sixteen_bits() {
    for (name, dtype) in
        [("softmax", DType::Bf16), ("focal", DType::F16), ("fox", DType::F16), ("bswa", DType::Bf16)]
    {
        let mut p = Problem::new(name, Mode::Causal, 2, [4, 2], [12, 20], [41, 70]).with_heads();
        p.inputs.extend(p.forward());
        let of = |role: Role| match role.base() {
            Role::Q | Role::K | Role::V | Role::OUT => dtype,
            _ => DType::F32,
        };
        p.inputs.iter_mut().for_each(|(&role, array)| *array = rounded(array, of(role)));
        p.dout = rounded(&p.dout, dtype);
        let want = p.run();
        let stored = |(&role, array): (&Role, &Array)| (role, Stored::new(contiguous(array), of(role)));
        let dout = (Role::OUT.grad(), p.dout.clone());
        let inputs: Vec<_> = p.inputs.iter().chain([(&dout.0, &dout.1)]).map(stored).collect();
        let unwritten = |(&role, array): (&Role, &Array)| (role, Array::filled(&array.shape, f32::NAN));
        let unwritten: Tensors = want.iter().map(unwritten).collect();
        let mut grads: Vec<_> = unwritten.iter().map(stored).collect();
        let mut args = Args::new();
        for (role, tensor) in &inputs {
            args = args.input(*role, tensor.view());
        }
        for (role, tensor) in &mut grads {
            args = args.output(*role, tensor.view_mut());
        }
        let plan = Plan::new(&context(), &p.desc.clone().types(dtype, dtype, DType::F32)).unwrap();
        let mut memory = vec![0xff; plan.backward_workspace_size(2, 41, 70).unwrap()];
        plan.backward(p.mode, &args, &mut memory).unwrap();
        for (role, tensor) in &mut grads {
            assert_eq!(tensor.read(), rounded(&want[role], of(*role)), "{role} of {name}, {dtype}");
        }
    }
}

/// Packed sequences are calls of their own, and what they share is summed.
#[test]
fn packed() {
    for name in MECHANISMS {
        let offsets = [0, 5, 5, 40, 110];
        let n = offsets.len() as i64 - 1;
        let mut p = Problem::new(name, Mode::Causal, 1, [4, 2], [12, 20], [110, 110]).with_heads();
        if name == "focal" {
            p = p.with(Role::SCALE_BH, &[n, 4]);
        }
        p = p.with(Role::BIAS, &[1, 1, 110, 110]);
        p.indices = vec![(Role::CU_SEQLENS, offsets.map(|x| x as i32).to_vec())];
        let whole = p.run();
        let mut sums = Tensors::new();
        for (i, range) in offsets.windows(2).enumerate() {
            let range = range[0]..range[1];
            let len = range.len() as i64;
            let mut one = Problem { lengths: [len, len], indices: vec![], ..p.clone() };
            for (role, array) in one.inputs.iter_mut() {
                for axis in if *role == Role::BIAS { 2..4 } else { 2..3 } {
                    if axis < array.shape.len() {
                        *array = array.pick(axis, range.clone());
                    }
                }
                if *role == Role::SCALE_BH {
                    *array = array.pick(0, [i]);
                }
            }
            one.dout = one.dout.pick(2, range.clone());
            for (role, got) in one.run() {
                let own = &whole[&role];
                let what = format!("{role} of {name}, sequence {i}");
                match role.base() {
                    Role::SCALE_BH => assert_close(&own.pick(0, [i]), &got, 1e-6, &what),
                    Role::BIAS => {
                        let block = own.pick(2, range.clone()).pick(3, range.clone());
                        same_bits(&block.data, &got.data, &what);
                        let beside = own.pick(2, range.clone()).pick(3, 0..range.start);
                        assert!(beside.data.iter().all(|&x| x == 0.0), "{what}");
                    }
                    _ if own.shape.len() < 3 => {
                        let sum = sums.entry(role).or_insert_with(|| Array::filled(&own.shape, 0.0));
                        sum.data.iter_mut().zip(&got.data).for_each(|(sum, x)| *sum += x);
                    }
                    _ => same_bits(&own.pick(2, range.clone()).data, &got.data, &what),
                }
            }
        }
        for (role, want) in &sums {
            assert_close(&whole[role], want, 1e-5, &format!("{role} of {name}"));
        }
    }
}

/// Keys past a length are no keys: not read, without a gradient, and rows that see none have none.
#[test]
fn lengths() {
    for name in ["softmax", "focal", "integral", "diff", "parallax"] {
        let lengths = [0usize, 37, 64, 90];
        let mut p = Problem::new(name, Mode::Cross, 4, [4, 2], [12, 20], [19, 90]).with_heads();
        p.indices = vec![(Role::KEY_LEN, lengths.map(|n| n as i32).to_vec())];
        for role in [Role::K, Role::V] {
            let array = p.get(role);
            let (heads, rows, inner) = (array.shape[1], 90, array.shape[3] as usize);
            for (i, row) in array.data.chunks_exact_mut(inner).enumerate() {
                if i % rows >= lengths[i / rows / heads as usize] {
                    row.fill(f32::NAN);
                }
            }
        }
        let whole = p.run();
        for (role, array) in &whole {
            assert!(array.data.iter().all(|x| x.is_finite()), "{role} of {name}");
            let per_sequence = array.shape.len() == 4;
            let none = if per_sequence { &array.pick(0, [0]).data[..] } else { &[] };
            assert!(none.iter().all(|&x| x == 0.0), "{role} of {name}: {none:?}");
        }
        for (i, &n) in lengths.iter().enumerate() {
            let mut one = Problem { lengths: [19, n as i64], indices: vec![], ..p.clone() };
            for (role, array) in one.inputs.iter_mut().filter(|(_, array)| array.shape.len() == 4) {
                *array = array.pick(0, [i]);
                if [Role::K, Role::V].contains(role) {
                    *array = array.pick(2, 0..n);
                }
            }
            if let Some(scale) = one.inputs.get_mut(&Role::SCALE_BH) {
                *scale = scale.pick(0, [i]);
            }
            one.dout = one.dout.pick(0, [i]);
            // Without the other keys distances are others.
            one.inputs.remove(&Role::ALIBI_SLOPES);
            let mut same = p.clone();
            same.inputs.remove(&Role::ALIBI_SLOPES);
            let (got, want) = (same.run(), one.run());
            for role in [Role::Q, Role::K, Role::V].map(Role::grad) {
                let own = got[&role].pick(0, [i]);
                let seen = if role == Role::Q.grad() { own.clone() } else { own.pick(2, 0..n) };
                same_bits(&seen.data, &want[&role].data, &format!("{role} of {name}, length {n}"));
                let rest = if role == Role::Q.grad() { vec![] } else { own.pick(2, n..90).data };
                assert!(rest.iter().all(|&x| x == 0.0), "{role} of {name}");
            }
        }
    }
}

/// A number that is none reaches what is made of it and nothing else.
#[test]
fn poison() {
    let (t, s, at) = (50usize, 90usize, 60usize);
    for name in MECHANISMS {
        let p = Problem::new(name, Mode::Causal, 1, [2, 1], [12, 20], [t as i64, s as i64]);
        let p =
            if name == "bswa" { p } else { Problem { desc: p.desc.clone().param("window_left", 20), ..p } };
        let plain = p.run();
        let sees = |row: usize, key: usize| {
            let position = s - t + row;
            let first = if name == "bswa" { (position / 16 - 2) * 16 } else { position - 20 };
            (first..=position).contains(&key)
        };
        let rows_of_key: Vec<usize> = (0..t).filter(|&row| sees(row, at)).collect();
        let row = at - (s - t);
        for (role, value) in [
            (Role::K, f32::NAN),
            (Role::V, f32::INFINITY),
            (Role::Q, f32::NAN),
            (Role::OUT.grad(), f32::NEG_INFINITY),
        ] {
            let mut hurt = p.clone();
            let (place, by_key) = (role, [Role::K, Role::V].contains(&role));
            let array = if by_key || role == Role::Q { hurt.get(role) } else { &mut hurt.dout };
            let inner = array.shape[3] as usize;
            array.data[if by_key { at } else { row } * inner + 3] = value;
            let got = hurt.run();
            // Rows that see it, and the keys that these see.
            let rows: Vec<usize> = if by_key { rows_of_key.clone() } else { vec![row] };
            let spread = |role: Role, i: usize| match role.base() {
                Role::Q | Role::PROBE => rows.contains(&i),
                _ => rows.iter().any(|&row| sees(row, i)),
            };
            for role in [Role::Q, Role::K, Role::V, Role::PROBE].map(Role::grad) {
                let (Some(got), Some(want)) = (got.get(&role), plain.get(&role)) else { continue };
                let n = got.shape[2] as usize;
                let inner = got.shape[3] as usize;
                for (i, (got, want)) in
                    got.data.chunks_exact(inner).zip(want.data.chunks_exact(inner)).enumerate()
                {
                    if !spread(role, i % n) {
                        let what = format!("{role} of {name}, row {i} with {value} in {place}");
                        for (g, w) in got.iter().zip(want) {
                            assert!((g - w).abs() <= 1e-5 * w.abs() + 1e-5, "{what}: {g} for {w}");
                        }
                    }
                }
            }
            // It does arrive.
            let dq = &got[&Role::Q.grad()].data[row * 12..(row + 1) * 12];
            assert!(dq.iter().all(|x| !x.is_finite()), "dq of {name}, {value} in {role}: {dq:?}");
        }
    }
}

/// A bias of `-inf` is a mask, and a row of nothing else sees nothing.
#[test]
fn bias_that_masks() {
    for name in MECHANISMS {
        let (t, s) = (35usize, 70usize);
        let p = Problem::new(name, Mode::Causal, 1, [2, 1], [12, 20], [t as i64, s as i64]);
        let h = p.maps() * 2;
        let mut p = p.with(Role::BIAS, &[1, h, t as i64, s as i64]);
        // Key 40 for all, every key for row 20.
        for (i, x) in p.get(Role::BIAS).data.iter_mut().enumerate() {
            if i % s == 40 || i / s % t == 20 {
                *x = f32::NEG_INFINITY;
            }
        }
        let plain = p.run();
        for role in [Role::K, Role::V] {
            let inner = p.inputs[&role].shape[3] as usize;
            let own = &plain[&role.grad()].data[40 * inner..41 * inner];
            assert!(own.iter().all(|&x| x == 0.0), "{role} of {name}: {own:?}");
        }
        p.get(Role::V).data[40 * 20..41 * 20].fill(f32::NAN);
        let dq = &plain[&Role::Q.grad()].data[20 * 12..21 * 12];
        assert!(dq.iter().all(|&x| x == 0.0), "dq of {name}: {dq:?}");
        let hurt = p.run();
        for (role, want) in &plain {
            assert!(want.data.iter().all(|x| x.is_finite()), "{role} of {name}");
            same_bits(&hurt[role].data, &want.data, &format!("{role} of {name}"));
        }
    }
}
