//! Gated units and attention inside blocks (`docs/spec/linear.md` 9, 11), pair by pair in `f64`.
//!
//! Nothing of the library is used here: no tiles, no folded maps, no running state.

use super::golden::Array;
use super::problem::Tensors;
use super::support::Rng;
use std::collections::BTreeMap;
use std::ops::Range;
use subquad::{Desc, Mode, Plan, Role};

/// Values by role.
pub type Reals = BTreeMap<Role, Vec<f64>>;

/// A call of `gau`, `flash` or `diag`.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: &'static str,
    pub mode: Mode,
    pub activation: &'static str,
    pub block: usize,
    /// Of queries and of keys; gated units have one.
    pub heads: (usize, usize),
    pub d: usize,
    pub e: usize,
    pub b: usize,
    /// Queries and keys of a sequence, or of all where there are offsets.
    pub t: usize,
    pub s: usize,
    pub offsets: Option<Vec<i32>>,
    /// 0: none, 1: a matrix, 2: diagonals.
    pub bias: usize,
    pub state: bool,
    /// Factor of the linear part, where it is not the default.
    pub lin_scale: Option<f64>,
}

const SCALE: f64 = 0.3;

impl Case {
    /// A causal call of one sequence.
    pub fn new(name: &'static str, t: usize) -> Case {
        let activation = if name == "diag" { "relu" } else { "relu2" };
        let (heads, d, e) = ((1, 1), 20, 24);
        let (mode, offsets, lin_scale) = (Mode::Causal, None, None);
        let (block, b, bias, state) = (16, 1, 1, false);
        Case { name, mode, activation, block, heads, d, e, b, t, s: t, offsets, bias, state, lin_scale }
    }

    /// Any call.
    pub fn random(rng: &mut Rng, name: &'static str) -> Case {
        let diag = name == "diag";
        let size = |rng: &mut Rng, most: usize| if rng.one_in(5) { 1 } else { 1 + rng.below(most) };
        let mode = rng.pick(&[Mode::Causal, Mode::Bidirectional, Mode::Step]);
        let activation = match diag {
            true => rng.pick(&["softmax", "relu"]),
            false => rng.pick(&["relu2", "laplace"]),
        };
        let heads = if diag { rng.pick(&[(1, 1), (2, 2), (4, 2), (3, 1)]) } else { (1, 1) };
        let mut case = Case::new(name, size(rng, 150));
        (case.mode, case.activation, case.heads) = (mode, activation, heads);
        (case.d, case.e, case.b) = (size(rng, 40), size(rng, 70), 1 + rng.below(2));
        case.block = rng.pick(&[1, 7, 16, 33, 64, 100, 300]);
        case.bias = if diag { 0 } else { rng.below(3) };
        case.state = name == "flash" && rng.one_in(2);
        case.lin_scale = (name == "flash" && rng.one_in(2)).then_some(0.11);
        match mode {
            Mode::Step => case.t = 1,
            Mode::Causal if rng.one_in(3) => case.t = 1 + rng.below(case.s),
            _ if rng.one_in(3) => {
                let mut offsets: Vec<i32> = (0..3).map(|_| rng.below(case.t + 1) as i32).collect();
                offsets.extend([0, case.t as i32]);
                offsets.sort_unstable();
                (case.b, case.offsets) = (1, Some(offsets));
            }
            _ => {}
        }
        case
    }

    pub fn desc(&self) -> Desc {
        let (h, k) = self.heads;
        let desc = Desc::new(self.name).modes(self.mode).heads(h as i64, k as i64, k as i64);
        let desc = desc.dims(self.d as i64, self.e as i64).param("activation", self.activation);
        let desc = desc.param("scale", SCALE);
        let desc = if self.name == "gau" { desc } else { desc.param("block", self.block as i64) };
        self.lin_scale.map_or(desc.clone(), |scale| desc.param("lin_scale", scale))
    }

    fn sequences(&self) -> usize {
        self.offsets.as_ref().map_or(self.b, |offsets| offsets.len() - 1)
    }

    /// Batch entry, queries and keys of a sequence.
    fn sequence(&self, i: usize) -> (usize, Range<usize>, Range<usize>) {
        match &self.offsets {
            Some(offsets) => {
                let tokens = offsets[i] as usize..offsets[i + 1] as usize;
                (0, tokens.clone(), tokens)
            }
            None => (i, 0..self.t, 0..self.s),
        }
    }

    /// Shapes of the inputs.
    pub fn shapes(&self) -> Vec<(Role, Vec<i64>)> {
        let [b, t, s, d, e] = [self.b, self.t, self.s, self.d, self.e].map(|n| n as i64);
        let (h, k) = (self.heads.0 as i64, self.heads.1 as i64);
        if self.name == "diag" {
            return vec![
                (Role::Q, vec![b, h, t, d]),
                (Role::K, vec![b, k, s, d]),
                (Role::V, vec![b, k, s, e]),
            ];
        }
        let (n, side) = if self.name == "gau" { (2, s) } else { (4, self.block as i64) };
        let mut shapes = vec![
            (Role::QK, vec![b, s, d]),
            (Role::GATE, vec![b, t, e]),
            (Role::V, vec![b, s, e]),
            (Role::AFFINE_WEIGHT, vec![n, d]),
            (Role::AFFINE_BIAS, vec![n, d]),
        ];
        match self.bias {
            0 => {}
            1 => shapes.push((Role::BIAS, vec![side, side])),
            _ => shapes.push((Role::BIAS, vec![2 * side - 1])),
        }
        if self.state {
            shapes.push((Role::STATE_IN, vec![self.sequences() as i64, d, e]));
        }
        shapes
    }

    pub fn inputs(&self, rng: &mut Rng) -> Tensors {
        let value = |rng: &mut Rng, role| match role {
            Role::AFFINE_WEIGHT => 1.0 + 0.5 * rng.signed(),
            _ => rng.signed(),
        };
        let array = |(role, shape): (Role, Vec<i64>)| {
            let n = shape.iter().product::<i64>();
            (role, Array { data: (0..n).map(|_| value(rng, role)).collect(), shape })
        };
        self.shapes().into_iter().map(array).collect()
    }

    /// Outputs to write, not numbers yet.
    pub fn outputs(&self) -> Tensors {
        let [b, t, d, e] = [self.b, self.t, self.d, self.e].map(|n| n as i64);
        let (h, sequences) = (self.heads.0 as i64, self.sequences() as i64);
        let out = if self.name == "diag" { vec![b, h, t, e] } else { vec![b, t, e] };
        let mut outputs = Tensors::from([(Role::OUT, Array::filled(&out, f32::NAN))]);
        if self.name == "flash" {
            outputs.insert(Role::STATE_OUT, Array::filled(&[sequences, d, e], f32::NAN));
        }
        outputs
    }

    pub fn indices(&self) -> Vec<(Role, Vec<i32>)> {
        self.offsets.iter().map(|offsets| (Role::CU_SEQLENS, offsets.clone())).collect()
    }

    pub fn run(&self, plan: &Plan, inputs: &Tensors) -> Tensors {
        let mut outputs = self.outputs();
        super::problem::execute(plan, self.mode, inputs, &self.indices(), &mut outputs)
            .unwrap_or_else(|error| panic!("{self:?}: {error}"));
        outputs
    }

    /// Keys that a position sees.
    fn seen(&self, p: usize, n: usize) -> Range<usize> {
        let (first, end) = match self.name {
            "gau" => (0, n),
            _ => (p / self.block * self.block, (p / self.block + 1) * self.block),
        };
        first..if self.mode == Mode::Bidirectional { end.min(n) } else { p + 1 }
    }

    fn weight(&self, x: f64) -> f64 {
        match self.activation {
            "relu" => x.max(0.0),
            "relu2" => x.max(0.0).powi(2),
            _ => 0.5 + 0.5 * erf((x - 0.5f64.sqrt()) / ((0.25 / std::f64::consts::PI).sqrt() * 2f64.sqrt())),
        }
    }

    /// What the call must give.
    pub fn expect(&self, x: &Reals) -> Reals {
        let mut out = vec![0.0; self.outputs()[&Role::OUT].data.len()];
        let mut state_out = Vec::new();
        for i in 0..self.sequences() {
            if self.name == "diag" {
                self.attend(x, i, &mut out);
            } else {
                state_out.extend(self.gated(x, i, &mut out));
            }
        }
        Reals::from([(Role::OUT, out), (Role::STATE_OUT, state_out)])
    }

    fn attend(&self, x: &Reals, index: usize, out: &mut [f64]) {
        let (batch, queries, keys) = self.sequence(index);
        let ((h, n_k), d, e) = (self.heads, self.d, self.e);
        for head in 0..h {
            let own = batch * n_k + head / (h / n_k);
            for (i, t) in queries.clone().enumerate() {
                let q = &x[&Role::Q][((batch * h + head) * self.t + t) * d..][..d];
                let seen = self.seen(keys.len() - queries.len() + i, keys.len());
                let key = |j: usize| (own * self.s + keys.start + j) * d;
                let score = |j| SCALE * dot(q, &x[&Role::K][key(j)..][..d]);
                let softmax = self.activation == "softmax";
                let weights: Vec<f64> = seen
                    .clone()
                    .map(|j| if softmax { f64::exp(score(j)) } else { self.weight(score(j)) })
                    .collect();
                let total = if softmax { weights.iter().sum() } else { 1.0 };
                let to = &mut out[((batch * h + head) * self.t + t) * e..][..e];
                for (j, weight) in seen.zip(weights) {
                    let v = &x[&Role::V][(own * self.s + keys.start + j) * e..][..e];
                    to.iter_mut().zip(v).for_each(|(to, v)| *to += weight / total * v);
                }
            }
        }
    }

    /// Outputs of a sequence; its state.
    fn gated(&self, x: &Reals, index: usize, out: &mut [f64]) -> Vec<f64> {
        let (batch, queries, keys) = self.sequence(index);
        let (d, e, n) = (self.d, self.e, keys.len());
        let flash = self.name == "flash";
        let row = |role, tokens: usize, width: usize, token: usize| {
            &x[&role][(batch * tokens + token) * width..][..width]
        };
        let head = |nth: usize, token: usize| -> Vec<f64> {
            let z = row(Role::QK, self.s, d, keys.start + token);
            let map = |role: Role| &x[&role][nth * d..][..d];
            let maps = map(Role::AFFINE_WEIGHT).iter().zip(map(Role::AFFINE_BIAS));
            z.iter().zip(maps).map(|(z, (w, b))| z * w + b).collect()
        };
        // State after each number of tokens that some block ends with.
        let mut state = match self.state {
            true => x[&Role::STATE_IN][index * d * e..][..d * e].to_vec(),
            false => vec![0.0; d * e],
        };
        let write = |state: &mut [f64], tokens: Range<usize>| {
            for j in tokens {
                let (k, v) = (head(3, j), row(Role::V, self.s, e, keys.start + j));
                for (c, k) in k.iter().enumerate() {
                    state[c * e..][..e].iter_mut().zip(v).for_each(|(s, v)| *s += k * v);
                }
            }
        };
        if flash && self.mode == Mode::Bidirectional {
            write(&mut state, 0..n);
        }
        let length = if self.mode == Mode::Bidirectional { n } else { self.block };
        let lin_scale = self.lin_scale.unwrap_or(1.0 / length as f64);
        for p in 0..n {
            let seen = self.seen(p, n);
            if let Some(t) = (p + queries.len()).checked_sub(n) {
                let (q, mut o) = (head(0, p), vec![0.0; e]);
                for j in seen.clone() {
                    let score = SCALE * dot(&q, &head(if flash { 2 } else { 1 }, j));
                    let weight = self.weight(score + self.bias_of(x, keys.start, p, j));
                    let v = row(Role::V, self.s, e, keys.start + j);
                    o.iter_mut().zip(v).for_each(|(o, v)| *o += weight * v);
                }
                if flash {
                    for (c, q) in head(1, p).iter().enumerate() {
                        o.iter_mut().zip(&state[c * e..]).for_each(|(o, s)| *o += lin_scale * q * s);
                    }
                }
                let gate = row(Role::GATE, self.t, e, queries.start + t);
                let to = &mut out[(batch * self.t + queries.start + t) * e..][..e];
                to.iter_mut().zip(o).zip(gate).for_each(|((to, o), gate)| *to = o * gate);
            }
            if flash && self.mode != Mode::Bidirectional && (p + 1) % self.block == 0 {
                write(&mut state, p + 1 - self.block..p + 1);
            }
        }
        if flash { state } else { Vec::new() }
    }

    fn bias_of(&self, x: &Reals, k0: usize, p: usize, j: usize) -> f64 {
        let (side, i, j) = match self.name {
            "gau" => (self.s, k0 + p, k0 + j),
            _ => (self.block, p % self.block, j % self.block),
        };
        match self.bias {
            0 => 0.0,
            1 => x[&Role::BIAS][i * side + j],
            _ => x[&Role::BIAS][j + side - 1 - i],
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// By its series where that does not cancel, else by Laplace's continued fraction.
fn erf(x: f64) -> f64 {
    if x.abs() > 2.0 {
        let fraction = (1..200).rev().fold(0.0, |f, k| f64::from(k) / 2.0 / (x.abs() + f));
        let tail = (-x * x).exp() / (std::f64::consts::PI.sqrt() * (x.abs() + fraction));
        return x.signum() * (1.0 - tail);
    }
    let (mut term, mut sum) = (x, 0.0);
    for k in 0..150 {
        sum += term / f64::from(2 * k + 1);
        term *= -x * x / f64::from(k + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

/// The same values.
pub fn reals(tensors: &Tensors) -> Reals {
    tensors.iter().map(|(&role, array)| (role, array.data.iter().map(|&x| x.into()).collect())).collect()
}
