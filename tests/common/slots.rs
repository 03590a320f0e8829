//! The oracle's other recurrences: slots that a softmax reads (`docs/spec/linear.md` 6, `docs/spec/sparse.md` 7) and
//! orthogonal memory (`docs/spec/linear.md` 11), token by token in `f64`, from their definitions.
//!
//! **Error model.** As in [`super::oracle`]. A softmax turns an absolute error of its scores into a relative one of
//! its weights: a weight's magnitude is `p (1 + m_i + Σ p_j m_j)`, which is first order. Where the scores are so large
//! that it tells nothing, the tolerance is infinite. Log-sums of size `|z|` put a relative error of `|z|` roundings
//! into every weight that is made of them.

use super::oracle::{Expected, Nudge, Num, U, element, expected, num};
use super::problem::Problem;
use std::collections::BTreeMap;
use subquad::{Mode, Role};

/// The expected outputs of a problem whose mechanism has slots or a basis, one element of whose inputs may be nudged.
pub fn expect(p: &Problem, nudge: Option<Nudge>) -> BTreeMap<Role, Expected> {
    assert!(p.indices.is_empty());
    let heads = p.heads.map(|n| n as usize);
    let [b, t, s, d, e, m] = [p.b, p.t, p.s, p.d, p.e, p.slots()].map(|n| n as usize);
    let c = 16.0 + (d + m) as f64 / 2.0 + 4.0 * s as f64;
    let logits = p.mechanism.role(Role::SLOT_LOGITS).is_some();
    let mut oracle = Oracle { p, heads, d, e, m, c, logits, nudge, out: Vec::new() };
    let basis = p.mechanism.role(Role::BASIS).is_some();
    let n_state = if basis { heads[0] } else { heads[1] };
    oracle.out = vec![Num::default(); b * heads[0] * t * if basis { d } else { e }];
    let causal = matches!(p.mode, Mode::Causal | Mode::Step);
    let mut parts: [Vec<Num>; 3] = Default::default();
    for batch in 0..b {
        for head in 0..n_state {
            let mut memory = if basis { oracle.load_mean(batch, head) } else { oracle.load(batch, head) };
            let read = |oracle: &mut Oracle, memory: &Memory, token: usize| {
                if basis {
                    oracle.read_mean(memory, batch, head, token);
                } else {
                    oracle.read(memory, batch, head, token);
                }
            };
            for token in 0..s {
                if basis {
                    oracle.write_mean(&mut memory, batch, head, token);
                } else {
                    oracle.write(&mut memory, batch, head, token);
                }
                if causal {
                    read(&mut oracle, &memory, token);
                }
            }
            for token in 0..if causal { 0 } else { t } {
                read(&mut oracle, &memory, token);
            }
            for (all, part) in parts.iter_mut().zip([memory.keys, memory.values, memory.z]) {
                all.extend(part);
            }
        }
    }
    let [keys, values, z] = parts.map(|part| expected(part, c));
    let mut all = BTreeMap::from([(Role::OUT, expected(oracle.out, c))]);
    if basis {
        all.extend([(Role::STATE_OUT, values), (Role::COUNT_OUT, z)]);
        return all;
    }
    all.extend([(Role::STATE_K_OUT, keys), (Role::STATE_V_OUT, values)]);
    if logits {
        all.insert(Role::LSE_OUT, z);
    }
    all
}

struct Oracle<'a> {
    p: &'a Problem,
    heads: [usize; 3],
    d: usize,
    e: usize,
    m: usize,
    /// Roundings.
    c: f64,
    /// Whether slots are written by logits.
    logits: bool,
    nudge: Option<Nudge>,
    out: Vec<Num>,
}

/// What a head keeps.
struct Memory {
    /// `[D, M]`, or `[M, D]` with logits; empty with a basis.
    keys: Vec<Num>,
    /// `[M, E]`; with a basis the mean `[M]`.
    values: Vec<Num>,
    /// Log of the sums `[M]`; with a basis the count.
    z: Vec<Num>,
}

impl Oracle<'_> {
    fn at(&self, role: Role, index: &[usize]) -> Option<f64> {
        element(self.p, self.nudge, role, index)
    }

    fn row(&self, role: Role, [batch, head, token]: [usize; 3], n: usize) -> Vec<f64> {
        (0..n).map(|c| self.at(role, &[batch, head, token, c]).unwrap()).collect()
    }

    /// Where the key memory keeps channel `c` of slot `i`.
    fn key(&self, i: usize, c: usize) -> [usize; 2] {
        if self.logits { [i, c] } else { [c, i] }
    }

    fn key_index(&self, i: usize, c: usize) -> usize {
        let [row, column] = self.key(i, c);
        row * if self.logits { self.d } else { self.m } + column
    }

    fn load(&self, batch: usize, head: usize) -> Memory {
        let (d, e, m) = (self.d, self.e, self.m);
        let mut memory = Memory {
            keys: vec![Num::default(); d * m],
            values: vec![Num::default(); m * e],
            z: vec![num(f64::NEG_INFINITY); m],
        };
        for i in 0..m {
            for c in 0..d {
                let [row, column] = self.key(i, c);
                let x = self.at(Role::STATE_K_IN, &[batch, head, row, column]).unwrap_or(0.0);
                memory.keys[self.key_index(i, c)] = num(x);
            }
            for c in 0..e {
                let x = self.at(Role::STATE_V_IN, &[batch, head, i, c]).unwrap_or(0.0);
                memory.values[i * e + c] = num(x);
            }
            if let Some(x) = self.at(Role::LSE_IN, &[batch, head, i]) {
                memory.z[i] = num(x);
            }
        }
        memory
    }

    /// Decay and write weight of slot `i`, and the factor of their magnitudes; carries the log-sum on.
    fn gates(
        &self,
        memory: &mut Memory,
        batch: usize,
        head: usize,
        token: usize,
        i: usize,
    ) -> (f64, f64, f64) {
        let at = [batch, head, token, i];
        let Some(s) = self.at(Role::SLOT_LOGITS, &at) else {
            let (g, write) = (self.at(Role::G, &at), self.at(Role::SLOT_WRITE, &at));
            return (g.unwrap().exp(), write.unwrap(), 1.0);
        };
        let Num { x: z, m } = memory.z[i];
        let top = z.max(s);
        if top == f64::NEG_INFINITY {
            return (1.0, 0.0, 1.0);
        }
        let new = top + ((z - top).exp() + (s - top).exp()).ln();
        let m = if m.is_finite() { m.max(new.abs()) } else { new.abs() }.max(s.abs());
        memory.z[i] = Num { x: new, m: m.max(1.0) };
        ((z - new).exp(), (s - new).exp(), 1.0 + m)
    }

    fn write(&self, memory: &mut Memory, batch: usize, head: usize, token: usize) {
        let k = self.row(Role::K, [batch, head, token], self.d);
        let v = self.row(Role::V, [batch, head, token], self.e);
        for i in 0..self.m {
            let (alpha, write, factor) = self.gates(memory, batch, head, token, i);
            let add = |state: &mut Num, x: f64| {
                let term = write * x;
                // A weight's relative error is that of its logarithm, however often it decays.
                *state = Num { x: state.x * alpha + term, m: state.m * alpha + term.abs() * factor };
            };
            for (c, &x) in k.iter().enumerate() {
                let index = self.key_index(i, c);
                add(&mut memory.keys[index], x);
            }
            for (state, &x) in memory.values[i * self.e..].iter_mut().zip(&v) {
                add(state, x);
            }
        }
    }

    /// Softmax of scores.
    fn softmax(&self, scores: &[Num]) -> Vec<Num> {
        let top = scores.iter().fold(f64::NEG_INFINITY, |top, x| top.max(x.x));
        let sum: f64 = scores.iter().map(|x| (x.x - top).exp()).sum();
        let p: Vec<f64> = scores.iter().map(|x| (x.x - top).exp() / sum).collect();
        let mean: f64 = p.iter().zip(scores).map(|(p, x)| p * x.m).sum();
        let largest = scores.iter().fold(0.0f64, |largest, x| largest.max(x.m));
        // First order no longer tells anything.
        let lost = largest * self.c * U > 0.1;
        let weight = |(&p, x): (&f64, &Num)| {
            let m = if lost { f64::INFINITY } else { p * (1.0 + x.m + mean) };
            Num { x: p, m }
        };
        p.iter().zip(scores).map(weight).collect()
    }

    fn read(&mut self, memory: &Memory, batch: usize, head: usize, token: usize) {
        let [h, hk, _] = self.heads;
        let scale = self.p.real("scale");
        for out in head * (h / hk)..(head + 1) * (h / hk) {
            let row = self.row(Role::Q, [batch, out, token], self.d);
            let score = |i: usize| {
                row.iter().enumerate().fold(Num::default(), |sum, (c, q)| {
                    let q = scale * q;
                    let k = memory.keys[self.key_index(i, c)];
                    Num { x: sum.x + q * k.x, m: sum.m + q.abs() * k.m }
                })
            };
            let scores: Vec<Num> = (0..self.m).map(score).collect();
            let p = self.softmax(&scores);
            for c in 0..self.e {
                let terms = p.iter().enumerate().map(|(i, &p)| (p, memory.values[i * self.e + c]));
                let row = (batch * h + out) * self.p.t as usize + token;
                self.out[row * self.e + c] = weighted(terms);
            }
        }
    }

    fn load_mean(&self, batch: usize, head: usize) -> Memory {
        let mean = |i: usize| num(self.at(Role::STATE_IN, &[batch, head, i]).unwrap_or(0.0));
        let count = self.at(Role::COUNT_IN, &[batch, head]).unwrap_or(0.0);
        Memory { keys: Vec::new(), values: (0..self.m).map(mean).collect(), z: vec![num(count)] }
    }

    /// A row in the basis.
    fn coefficient(&self, role: Role, batch: usize, head: usize, token: usize, i: usize) -> Num {
        (0..self.d).fold(Num::default(), |sum, c| {
            let x = self.at(role, &[batch, head, token, c]).unwrap();
            let term = x * self.at(Role::BASIS, &[head, i, c]).unwrap();
            Num { x: sum.x + term, m: sum.m + term.abs() }
        })
    }

    fn write_mean(&self, memory: &mut Memory, batch: usize, head: usize, token: usize) {
        let t = memory.z[0].x + 1.0;
        memory.z[0] = num(t);
        for i in 0..self.m {
            let x = self.coefficient(Role::KV, batch, head, token, i);
            let mean = &mut memory.values[i];
            *mean = Num { x: ((t - 1.0) * mean.x + x.x) / t, m: ((t - 1.0) * mean.m + x.m) / t };
        }
    }

    fn read_mean(&mut self, memory: &Memory, batch: usize, head: usize, token: usize) {
        let scale = self.p.real("scale");
        let score = |(i, mean): (usize, &Num)| {
            let q = self.coefficient(Role::Q, batch, head, token, i);
            product(num(scale), product(*mean, q))
        };
        let scores: Vec<Num> = memory.values.iter().enumerate().map(score).collect();
        let p = self.softmax(&scores);
        for c in 0..self.d {
            let terms = p.iter().enumerate().map(|(i, &p)| {
                let (w, mean) = (self.at(Role::BASIS, &[head, i, c]).unwrap(), memory.values[i]);
                (p, Num { x: mean.x * w, m: mean.m * w.abs() })
            });
            let row = (batch * self.heads[0] + head) * self.p.t as usize + token;
            self.out[row * self.d + c] = weighted(terms);
        }
    }
}

/// The error of a product is that of each factor times the other.
fn product(a: Num, b: Num) -> Num {
    Num { x: a.x * b.x, m: a.m * b.x.abs() + a.x.abs() * b.m }
}

/// `Σ p x`.
fn weighted(terms: impl Iterator<Item = (Num, Num)>) -> Num {
    terms.fold(Num::default(), |sum, (p, x)| {
        let term = product(p, x);
        // An infinite magnitude stays one beside a factor of 0.
        let m = if p.m.is_finite() { term.m } else { p.m };
        Num { x: sum.x + term.x, m: sum.m + m }
    })
}
