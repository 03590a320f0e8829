//! The unified recurrence of `docs/spec/linear.md` 1.1, token by token in `f64`: what every call must give, and by
//! how much an `f32` evaluation may differ.
//!
//! Nothing of the library is used here, nor its algorithm: no chunks, no running maximum, no decay products.
//!
//! **Error model.** Beside each number goes its *magnitude*: the same formula with every term by its absolute value.
//! A sum of products evaluated in `f32`, in any order, differs from the true one by at most `c·2⁻²⁴` of that.
//! The correction of the delta rule is a contraction in the Euclidean norm of a state column, so magnitudes of
//! corrected states are kept as such norms: errors of earlier tokens are carried on, and do not grow. With a gate on what
//! is erased it nearly is one; that of two writes is none, and errors grow by at most the norm of its transition.
//! `c` counts roundings: the length of the dot products, the tokens a decay was multiplied over, and constants for the
//! features. It is a bound, some ten times what is seen.

use super::golden::Array;
#[allow(unused_imports, reason = "each test target uses a part")]
pub use super::outputs::check;
use super::problem::Problem;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use subquad::{Mode, Role};

/// What an output must be, element by element.
#[derive(Clone, Debug)]
pub struct Expected {
    pub value: Vec<f64>,
    pub tolerance: Vec<f64>,
}

/// Below this, numbers may be flushed to zero. Under the map `exp` that is where the scores, all below e^-88, are
/// nothing beside an epsilon of 1e-6.
const TINY: f64 = 1e-33;
/// One rounding.
pub const U: f64 = f32::EPSILON as f64 / 2.0;

/// A number and its magnitude.
#[derive(Clone, Copy, Debug, Default)]
pub struct Num {
    pub x: f64,
    pub m: f64,
}

pub fn num(x: f64) -> Num {
    Num { x, m: x.abs() }
}

/// Numbers with `c` roundings of their magnitudes.
pub fn expected(nums: Vec<Num>, c: f64) -> Expected {
    Expected {
        value: nums.iter().map(|n| n.x).collect(),
        tolerance: nums.iter().map(|n| c * U * n.m + TINY * c).collect(),
    }
}

pub(super) struct Oracle<'a> {
    pub p: &'a Problem,
    pub heads: [usize; 3],
    n_state: usize,
    pub n_out: usize,
    pub d: usize,
    pub e: usize,
    /// Rows of the state.
    pub m: usize,
    cyclic: bool,
    corrects: bool,
    scale: f64,
    /// What parameters say, looked up once.
    pub map: String,
    exponential: bool,
    pub denominator: Option<(String, f64)>,
    pub largest_exponent: f64,
    /// The orthonormal cosines, where a map transforms by them.
    pub cosines: OnceCell<Vec<f64>>,
    /// Roundings.
    pub c: f64,
    nudge: Option<Nudge>,
}

/// Element `at` of an input, changed by `by`, which an `f32` may be too coarse for.
#[derive(Clone, Copy, Debug)]
pub struct Nudge {
    pub role: Role,
    pub at: usize,
    pub by: f64,
}

/// Element of an input, if it is bound, nudged if it is the one.
pub fn element(p: &Problem, nudge: Option<Nudge>, role: Role, index: &[usize]) -> Option<f64> {
    let array = p.inputs.get(&role)?;
    assert_eq!(array.shape.len(), index.len(), "{role}");
    let flat = index.iter().zip(&array.shape).fold(0, |at, (&i, &n)| at * n as usize + i);
    let nudged = nudge.filter(|nudge| (nudge.role, nudge.at) == (role, flat));
    Some(f64::from(array.data[flat]) + nudged.map_or(0.0, |nudge| nudge.by))
}

/// The expected outputs of a problem without `indices`, but lengths.
pub fn expect(p: &Problem) -> BTreeMap<Role, Expected> {
    expect_nudged(p, None)
}

/// The same of the linear engine and of exact attention where so many more roundings of `f32` are allowed.
pub fn expect_rounded(p: &Problem, roundings: f64) -> BTreeMap<Role, Expected> {
    if let Some(outputs) = super::softmax::expect_rounded(p, None, roundings) {
        return outputs;
    }
    oracle(p, None, roundings).run()
}

/// The same with a slightly different input.
pub fn expect_nudged(p: &Problem, nudge: Option<Nudge>) -> BTreeMap<Role, Expected> {
    assert!(p.indices.iter().all(|(role, _)| *role == Role::KEY_LEN));
    if let Some(outputs) = super::softmax::expect(p, nudge) {
        return outputs;
    }
    if let Some(outputs) = super::companions::expect(p, nudge) {
        return outputs;
    }
    if p.has_slots() {
        return super::slots::expect(p, nudge);
    }
    oracle(p, nudge, 0.0).run()
}

fn oracle(p: &Problem, nudge: Option<Nudge>, roundings: f64) -> Oracle<'_> {
    let [q, k, v] = p.heads.map(|n| n as usize);
    let n_state = k.max(v);
    let corrects = [Role::BETA, Role::ERASE, Role::A].iter().any(|role| p.inputs.contains_key(role));
    let steepest = match (p.inputs.get(&Role::G), p.inputs.get(&Role::DECAY_RATE)) {
        // Formed in f32 from two factors, of which one may be a softplus.
        (None, Some(rate)) => 4.0 * rate.data.iter().fold(0.0, |m: f64, &x| m.max(f64::from(x).abs())),
        _ => 0.0,
    };
    let tokens = p.s as f64;
    let m = p.shape(Role::STATE_OUT)[2] as usize;
    let corrected = if corrects { 2.0 } else { 1.0 };
    Oracle {
        p,
        heads: [q, k, v],
        n_state,
        n_out: q.max(n_state),
        d: p.d as usize,
        e: p.e as usize,
        m,
        cyclic: p.word("head_map") == "cyclic",
        corrects,
        scale: if p.mechanism.param("scale").is_some() { p.real("scale") } else { 1.0 },
        map: p.word("feature_map"),
        exponential: p.is_exp(),
        denominator: p.has_denominator().then(|| (den_mode(p), p.real("den_eps"))),
        largest_exponent: largest_exponent(p),
        cosines: OnceCell::new(),
        nudge,
        c: (8.0 + m.max(p.d as usize) as f64 / 4.0 + tokens * (1.5 + steepest)) * corrected + roundings,
    }
}

fn den_mode(p: &Problem) -> String {
    if p.mechanism.param("den_mode").is_none() { "add".into() } else { p.word("den_mode") }
}

/// The largest that an exponent of the map `exp` can be.
fn largest_exponent(p: &Problem) -> f64 {
    let largest =
        |role| p.inputs.get(&role).map_or(0.0f32, |t| t.data.iter().fold(0.0, |m, x| x.abs().max(m)));
    let [q, k] = match p.mechanism.name {
        "lln" => ["x_scale_q", "x_scale_k"].map(|name| p.real(name)),
        // The rows of an orthonormal matrix, in absolute values, are at most √D.
        "dijiang" => [f64::from(largest(Role::W_DIAG)) * (p.d as f64).sqrt(); 2],
        _ => [1.0; 2],
    };
    q * f64::from(largest(Role::Q)) + k * f64::from(largest(Role::K)) + f64::from(largest(Role::SHIFT_IN))
}

/// The state of a head while tokens go by.
#[derive(Clone)]
pub(super) struct State {
    /// `[M, E]`; the magnitudes of corrected states are norms of columns, the same in each row.
    pub s: Vec<Num>,
    pub z: Vec<Num>,
    /// Running maximum of `k` (map `exp`).
    pub shift: Vec<f64>,
}

/// Gates of a token.
struct Gates {
    /// `α`, one of all channels or one of each.
    alpha: Vec<f64>,
    gain: f64,
}

impl Oracle<'_> {
    pub(super) fn tensor(&self, role: Role) -> Option<&Array> {
        self.p.inputs.get(&role)
    }

    /// Element of an input; missing trailing indices are 0.
    pub(super) fn at(&self, role: Role, index: &[usize]) -> Option<f64> {
        let array = self.tensor(role)?;
        assert_eq!(array.shape.len(), index.len(), "{role}");
        let flat = index.iter().zip(&array.shape).fold(0, |at, (&i, &n)| {
            assert!(i < n as usize);
            at * n as usize + i
        });
        let nudged = self.nudge.filter(|nudge| (nudge.role, nudge.at) == (role, flat));
        Some(f64::from(array.data[flat]) + nudged.map_or(0.0, |nudge| nudge.by))
    }

    /// The last axis of an input that is bound.
    pub(super) fn row(&self, role: Role, index: [usize; 3]) -> Vec<f64> {
        let array = &self.p.inputs[&role];
        let n = |axis: usize| array.shape[axis] as usize;
        assert!(array.shape.len() == 4 && (0..3).all(|axis| index[axis] < n(axis)), "{role}");
        let first = ((index[0] * n(1) + index[1]) * n(2) + index[2]) * n(3);
        let mut row: Vec<f64> = array.data[first..first + n(3)].iter().map(|&x| f64::from(x)).collect();
        if let Some(nudge) = self.nudge.filter(|nudge| nudge.role == role)
            && let Some(x) = nudge.at.checked_sub(first).and_then(|at| row.get_mut(at))
        {
            *x += nudge.by;
        }
        row
    }

    fn shared(&self, h: usize, of: usize, n: usize) -> usize {
        if self.cyclic { h % n } else { h / (of / n) }
    }

    fn run(&self) -> BTreeMap<Role, Expected> {
        let (b, t, s) = (self.p.b as usize, self.p.t as usize, self.p.s as usize);
        let mut y = vec![Num::default(); b * self.n_out * t * self.e];
        let mut states = Vec::new();
        for batch in 0..b {
            for head in 0..self.n_state {
                let mut state = self.load(batch, head);
                let causal = matches!(self.p.mode, Mode::Causal | Mode::Step);
                for key in 0..s {
                    let before = self.with_bonus(&state, batch, head, key);
                    self.write(&mut state, batch, head, key);
                    if causal && key + t >= s {
                        let state = before.as_ref().unwrap_or(&state);
                        self.read(state, &mut y, batch, head, key + t - s, key);
                    }
                }
                for query in 0..if causal { 0 } else { t } {
                    self.read(&state, &mut y, batch, head, query, 0);
                }
                states.push(state);
            }
        }
        self.normalise(&mut y);
        self.gather(y, states)
    }

    fn load(&self, batch: usize, head: usize) -> State {
        let initial = |role: Role, index: &[usize]| num(self.at(role, index).unwrap_or(0.0));
        let shift_in = |c: usize| self.at(Role::SHIFT_IN, &[batch, head, c]);
        // A state with a shift is S e^{−m}; here it is kept in plain scale.
        let plain = |c: usize| shift_in(c).map_or(1.0, f64::exp);
        let mut state = State {
            s: vec![Num::default(); self.m * self.e],
            z: vec![Num::default(); self.m],
            shift: vec![f64::NEG_INFINITY; self.m],
        };
        for c in 0..self.m {
            for e in 0..self.e {
                let s = initial(Role::STATE_IN, &[batch, head, c, e]);
                state.s[c * self.e + e] = num(s.x * plain(c));
            }
            state.z[c] = num(initial(Role::Z_IN, &[batch, head, c]).x * plain(c));
            state.shift[c] = match (shift_in(c), self.tensor(Role::STATE_IN)) {
                (Some(shift), _) => shift,
                (None, Some(_)) if state.z[c].x != 0.0 => 0.0,
                _ => f64::NEG_INFINITY,
            };
        }
        if self.corrects {
            self.spread(&mut state, |column, _| column);
        }
        state
    }

    /// Sets the magnitudes of each column to `f(norm of the column, magnitude so far)`.
    fn spread(&self, state: &mut State, f: impl Fn(f64, f64) -> f64) {
        for e in 0..self.e {
            let column = || (0..self.m).map(|c| c * self.e + e);
            let norm = column().map(|i| state.s[i].x.powi(2)).sum::<f64>().sqrt();
            column().for_each(|i| state.s[i].m = f(norm, state.s[i].m));
        }
    }

    /// A row of `q` or `k` as features.
    fn features(&self, role: Role, batch: usize, head: usize, token: usize) -> Vec<Num> {
        if let Some(features) = self.mapped(role, batch, head, token) {
            return features;
        }
        let mut row: Vec<Num> = self.row(role, [batch, head, token]).into_iter().map(num).collect();
        if self.p.flag("l2norm_qk") {
            let square: f64 = row.iter().map(|x| x.x * x.x).sum();
            let eps = self.p.real("l2norm_eps");
            let norm = match self.p.word("l2norm_mode").as_str() {
                "square_add" => (square + eps).sqrt(),
                "floor" => square.sqrt().max(eps),
                "add" => square.sqrt() + eps,
                other => panic!("l2norm_mode {other}"),
            };
            row.iter_mut().for_each(|x| *x = if square == 0.0 { num(0.0) } else { num(x.x / norm) });
        }
        self.map_row(&mut row);
        if self.p.mechanism.name == "linear1p" {
            let [a0, a1] = self.coef();
            row.iter_mut().for_each(|x| *x = num(a1.sqrt() * x.x));
            row.insert(0, num(a0.sqrt()));
        }
        row
    }

    /// `α`, one of all channels or one of each, and the gain of the value.
    fn gates(&self, batch: usize, head: usize, token: usize) -> Gates {
        let step = self.at(Role::DT, &[batch, head, token]).or_else(|| {
            let x = self.at(Role::DT_RAW, &[batch, head, token])?
                + self.at(Role::DT_BIAS, &[head]).unwrap_or(0.0);
            Some(x.max(0.0) + (-x.abs()).exp().ln_1p())
        });
        let g = match self.tensor(Role::G).map(|g| g.shape.len()) {
            Some(1) => vec![self.at(Role::G, &[head]).unwrap()],
            Some(3) => vec![self.at(Role::G, &[batch, head, token]).unwrap()],
            Some(4) => self.row(Role::G, [batch, head, token]),
            _ => vec![self.at(Role::DECAY_RATE, &[head]).map_or(0.0, |rate| rate * step.unwrap())],
        };
        // Factors themselves, in place of their logarithms.
        let g = match self.tensor(Role::DECAY).map(|decay| decay.shape.len()) {
            Some(1) => vec![self.at(Role::DECAY, &[head]).unwrap().ln()],
            Some(_) if self.tensor(Role::G).is_none() => {
                vec![self.at(Role::DECAY, &[batch, head, token]).unwrap().ln()]
            }
            _ => g,
        };
        let gain = self.at(Role::BETA, &[batch, head, token]).or(step).unwrap_or(1.0);
        Gates { alpha: g.into_iter().map(f64::exp).collect(), gain }
    }

    fn value(&self, batch: usize, head: usize, token: usize) -> Vec<f64> {
        self.row(Role::V, [batch, self.shared(head, self.n_state, self.heads[2]), token])
    }

    /// The value as it is written, before any correction.
    fn gained(&self, batch: usize, head: usize, token: usize, gain: f64) -> Vec<f64> {
        let mut value = self.value(batch, head, token);
        if self.tensor(Role::WRITE).is_some() {
            let write = self.row(Role::WRITE, [batch, head, token]);
            value.iter_mut().zip(write).for_each(|(v, write)| *v *= gain * write);
        } else {
            value.iter_mut().for_each(|v| *v *= gain);
        }
        value
    }

    fn key(&self, batch: usize, head: usize, token: usize) -> Vec<Num> {
        self.features(Role::K, batch, self.shared(head, self.n_state, self.heads[1]), token)
    }

    /// What queries read where there is a bonus: the state so far, and the token's key times it.
    fn with_bonus(&self, state: &State, batch: usize, head: usize, token: usize) -> Option<State> {
        self.tensor(Role::BONUS)?;
        let mut seen = state.clone();
        let gained = self.gained(batch, head, token, self.gates(batch, head, token).gain);
        for (c, k) in self.key(batch, head, token).iter().enumerate() {
            let u = self.at(Role::BONUS, &[head, c]).unwrap();
            for (s, gained) in seen.s[c * self.e..].iter_mut().zip(&gained) {
                let own = u * k.x * gained;
                *s = Num { x: s.x + own, m: s.m + own.abs() };
            }
        }
        Some(seen)
    }

    /// The vector that the correction reads the state with, after the decay.
    fn erase(&self, key: &[Num], gain: f64, batch: usize, head: usize, token: usize) -> Vec<f64> {
        match self.tensor(Role::ERASE) {
            Some(_) => {
                let gates = self.row(Role::ERASE, [batch, head, token]);
                key.iter().zip(gates).map(|(k, gate)| gate * k.x).collect()
            }
            None => key.iter().map(|k| gain * k.x).collect(),
        }
    }

    /// `b rᵀ` of two writes, with the norms of `a` and `b` multiplied: `r` is what `a` reads before the decay.
    fn second_write(
        &self,
        state: &State,
        batch: usize,
        head: usize,
        token: usize,
    ) -> Option<(Vec<f64>, f64)> {
        self.tensor(Role::A)?;
        let [a, b] = [Role::A, Role::B].map(|role| self.row(role, [batch, head, token]));
        let norm = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
        let mut r = vec![0.0; self.e];
        for (a, row) in a.iter().zip(state.s.chunks_exact(self.e)) {
            r.iter_mut().zip(row).for_each(|(r, s)| *r += a * s.x);
        }
        let write = b.iter().flat_map(|b| r.iter().map(move |r| b * r)).collect();
        Some((write, norm(&a) * norm(&b)))
    }

    fn write(&self, state: &mut State, batch: usize, head: usize, token: usize) {
        let mut key = self.key(batch, head, token);
        let Gates { alpha, gain } = self.gates(batch, head, token);
        let top: Vec<f64> = key.iter().map(|k| if self.exponential { k.x.ln() } else { 0.0 }).collect();
        if self.p.mechanism.name == "rfa_gate" {
            let rest = 1.0 - alpha[0];
            key.iter_mut().for_each(|k| *k = Num { x: k.x * rest, m: k.m * rest });
        }
        let key_norm = key.iter().map(|k| k.m * k.m).sum::<f64>().sqrt();
        let second = self.second_write(state, batch, head, token);
        let gamma: Vec<f64> = match self.tensor(Role::GV) {
            Some(_) => self.row(Role::GV, [batch, head, token]).into_iter().map(f64::exp).collect(),
            None => vec![1.0; self.e],
        };
        let mut steepest = 0.0f64;
        for (c, (k, row)) in key.iter().zip(state.s.chunks_exact_mut(self.e)).enumerate() {
            let alpha = alpha[c.min(alpha.len() - 1)];
            let of_magnitudes = if self.corrects { 1.0 } else { alpha };
            steepest = steepest.max(alpha);
            for (s, gamma) in row.iter_mut().zip(&gamma) {
                (s.x, s.m) = (s.x * alpha * gamma, s.m * gamma * of_magnitudes);
            }
            let z = &mut state.z[c];
            (z.x, z.m) = (z.x * alpha + k.x, z.m * alpha + k.m);
            if self.exponential {
                state.shift[c] = state.shift[c].max(top[c]);
            }
        }
        let mut x: Vec<Num> = self.gained(batch, head, token, gain).into_iter().map(num).collect();
        if self.corrects && second.is_none() {
            let erase = self.erase(&key, gain, batch, head, token);
            self.correct(state, &erase, &mut x);
        }
        let growth = steepest + second.as_ref().map_or(0.0, |(_, norm)| *norm);
        for (c, (k, row)) in key.iter().zip(state.s.chunks_exact_mut(self.e)).enumerate() {
            for (s, x) in row.iter_mut().zip(&x) {
                s.x += k.x * x.x;
                s.m = if self.corrects { s.m * growth + key_norm * x.m } else { s.m + k.m * x.m };
            }
            if let Some((write, _)) = &second {
                row.iter_mut().zip(&write[c * self.e..]).for_each(|(s, write)| s.x += write);
            }
        }
    }

    /// Takes what `erase` reads of the state from what is to be written.
    fn correct(&self, state: &State, erase: &[f64], x: &mut [Num]) {
        let erase_norm = erase.iter().map(|e| e * e).sum::<f64>().sqrt();
        let (mut squares, mut read) = (vec![0.0; self.e], vec![0.0; self.e]);
        for (erase, row) in erase.iter().zip(state.s.chunks_exact(self.e)) {
            for ((s, square), read) in row.iter().zip(&mut squares).zip(&mut read) {
                *square += s.x * s.x;
                *read += s.x * erase;
            }
        }
        for ((x, read), square) in x.iter_mut().zip(read).zip(squares) {
            *x = Num { x: x.x - read, m: x.m + erase_norm * square.sqrt() };
        }
    }

    /// Reads the state for every output head of a state head, at token `query` of `q` and `key` of `v`.
    fn read(&self, state: &State, y: &mut [Num], batch: usize, head: usize, query: usize, key: usize) {
        for out in (0..self.n_out).filter(|&h| self.shared(h, self.n_out, self.n_state) == head) {
            let q = self.features(Role::Q, batch, self.shared(out, self.n_out, self.heads[0]), query);
            let q: Vec<Num> = q.iter().map(|q| Num { x: q.x * self.scale, m: q.m * self.scale }).collect();
            let norm = q.iter().map(|q| q.m * q.m).sum::<f64>().sqrt();
            let den = self.denominator.as_ref().map(|(mode, eps)| self.denominator(&q, state, mode, *eps));
            let mut sums = vec![Num::default(); self.e];
            for (q, row) in q.iter().zip(state.s.chunks_exact(self.e)) {
                for (sum, s) in sums.iter_mut().zip(row) {
                    *sum = Num { x: sum.x + q.x * s.x, m: sum.m + q.m * s.m };
                }
            }
            let skip = self.at(Role::D_SKIP, &[head]).map(|skip| (skip, self.value(batch, head, key)));
            for (e, sum) in sums.iter_mut().enumerate() {
                if self.corrects {
                    sum.m = norm * state.s[e].m;
                }
                if let Some((skip, value)) = &skip {
                    let v = skip * value[e];
                    *sum = Num { x: sum.x + v, m: sum.m + v.abs() };
                }
                if let Some(Num { x: 0.0, m: 0.0 }) = den {
                    *sum = num(0.0);
                } else if let Some(den) = den {
                    *sum = Num { x: sum.x / den.x, m: (sum.m + (sum.x / den.x).abs() * den.m) / den.x.abs() };
                    // First order no longer tells anything.
                    if den.m * self.c * U > 0.1 * den.x.abs() {
                        sum.m = f64::INFINITY;
                    }
                }
            }
            let row = (batch * self.n_out + out) * self.p.t as usize + query;
            y[row * self.e..][..self.e].copy_from_slice(&sums);
        }
    }

    fn denominator(&self, q: &[Num], state: &State, mode: &str, eps: f64) -> Num {
        let products = || q.iter().zip(&state.z);
        let x: f64 = products().map(|(q, z)| q.x * z.x).sum();
        let m: f64 = products().map(|(q, z)| q.m * z.m).sum();
        let x = match mode {
            "add" => x + eps,
            "add_mean" => x + eps * self.p.s as f64,
            "clamp" => x.max(eps),
            "abs_clamp" => x.abs().max(eps),
            "signed_clamp" => x.abs().max(eps) * if x < 0.0 { -1.0 } else { 1.0 },
            // Where it jumps, nothing is known.
            "add_if_small" if (x.abs() - eps).abs() <= m * self.c * U => 0.0,
            "add_if_small" if x.abs() <= eps => x + 2.0 * eps,
            "add_if_small" => x,
            other => panic!("den_mode {other}"),
        };
        Num { x, m }
    }
}
