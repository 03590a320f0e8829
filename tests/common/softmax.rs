//! Softmax attention and its relatives by their definitions (`docs/spec/softmax.md`), row by row in `f64`.
//!
//! **Error model.** As in [`super::slots`]: a score carries its magnitude, and a weight `p_s` of a softmax the relative
//! magnitude `1 + m_s + Σ p m`, since a softmax turns absolute errors of scores into relative ones. A cap has a slope of at most 1.

use super::oracle::{Expected, Nudge, Num, element, expected, num};
use super::problem::Problem;
use std::collections::BTreeMap;
use subquad::{Mode, Role, Value};

/// The expected outputs, if the problem is of this family.
pub fn expect(p: &Problem, nudge: Option<Nudge>) -> Option<BTreeMap<Role, Expected>> {
    expect_rounded(p, nudge, 0.0)
}

/// The same where so many more roundings are allowed.
pub fn expect_rounded(p: &Problem, nudge: Option<Nudge>, roundings: f64) -> Option<BTreeMap<Role, Expected>> {
    let names = ["softmax", "focal", "fox", "bswa", "diff", "integral", "parallax"];
    names.contains(&p.mechanism.name).then(|| Oracle::new(p, nudge, roundings).run())
}

struct Oracle<'a> {
    p: &'a Problem,
    nudge: Option<Nudge>,
    roundings: f64,
    q: Rows,
    k: Rows,
    v: Rows,
    scale: f64,
    cap: f64,
    /// How many keys before a query it sees, and how many behind it.
    window: [i64; 2],
}

/// A tensor `[B, H, tokens, channels]` in `f64`.
struct Rows {
    data: Vec<f64>,
    shape: [usize; 4],
}

impl Rows {
    fn new(p: &Problem, nudge: Option<Nudge>, role: Role) -> Rows {
        let array = &p.inputs[&role];
        let mut data: Vec<f64> = array.data.iter().map(|&x| f64::from(x)).collect();
        if let Some(nudge) = nudge.filter(|nudge| nudge.role == role) {
            data[nudge.at] += nudge.by;
        }
        Rows { data, shape: [0, 1, 2, 3].map(|axis| array.shape[axis] as usize) }
    }

    fn row(&self, batch: usize, head: usize, token: usize) -> &[f64] {
        let [_, heads, tokens, channels] = self.shape;
        &self.data[((batch * heads + head) * tokens + token) * channels..][..channels]
    }
}

/// Weights of the keys that a row sees, and the log of their normaliser.
struct Row {
    weights: Vec<(usize, Num)>,
    lse: Num,
}

impl<'a> Oracle<'a> {
    fn new(p: &'a Problem, nudge: Option<Nudge>, roundings: f64) -> Oracle<'a> {
        let [q, k, v] = [Role::Q, Role::K, Role::V].map(|role| Rows::new(p, nudge, role));
        let bound = |name: &str| match p.params.iter().find(|(own, _)| *own == name) {
            Some((_, Value::Int(bound))) if *bound >= 0 => *bound,
            _ => i64::MAX / 4,
        };
        let scale = if p.inputs.contains_key(&Role::SCALE_BH) { f64::NAN } else { p.real("scale") };
        let cap = if p.mechanism.param("softcap").is_some() { p.real("softcap") } else { 0.0 };
        let window = ["window_left", "window_right"].map(bound);
        Oracle { p, nudge, roundings, q, k, v, scale, cap, window }
    }

    fn at(&self, role: Role, index: &[usize]) -> Option<f64> {
        element(self.p, self.nudge, role, index)
    }

    fn run(&self) -> BTreeMap<Role, Expected> {
        let p = self.p;
        let [b, h, t, e] = [p.b, p.heads[0], p.t, p.e].map(|n| n as usize);
        let sets = h / p.heads[1] as usize;
        let (mut out, mut lse) = (Vec::new(), Vec::new());
        for (batch, head) in (0..b).flat_map(|batch| (0..h).map(move |head| (batch, head))) {
            for token in 0..t {
                let at = [batch, head, token];
                let sums = |weights: &[(usize, Num)]| {
                    let mut sums = vec![Num::default(); e];
                    for &(s, w) in weights {
                        for (sum, v) in sums.iter_mut().zip(self.v.row(batch, head / sets, s)) {
                            *sum = Num { x: sum.x + w.x * v, m: sum.m + w.m * v.abs() };
                        }
                    }
                    sums
                };
                if p.mechanism.name == "diff" {
                    let rows = [0, 1].map(|map| self.row(at, 2 * head + map, 2 * (head / sets) + map));
                    let lam = self.at(Role::LAM, &[head]).unwrap();
                    let [one, two] = rows.each_ref().map(|row| sums(&row.weights));
                    out.extend(
                        one.iter()
                            .zip(two)
                            .map(|(one, two)| Num { x: one.x - lam * two.x, m: one.m + lam.abs() * two.m }),
                    );
                    continue;
                }
                let mut row = self.row(at, head, head / sets);
                if p.mechanism.name == "parallax" {
                    self.probe(&mut row, at, head / sets);
                }
                out.extend(sums(&row.weights));
                lse.push(row.lse);
            }
        }
        let c = 16.0 + p.d as f64 / 2.0 + p.s as f64 / 4.0 + self.roundings;
        let outputs = [(Role::OUT, out), (Role::LSE, lse)];
        let there = outputs.into_iter().filter(|(role, _)| p.mechanism.role(*role).is_some());
        there.map(|(role, nums)| (role, expected(nums, c))).collect()
    }

    /// `P_s (1 + Σ P t − t_s)`.
    fn probe(&self, row: &mut Row, [batch, head, token]: [usize; 3], key_head: usize) {
        let probe: Vec<f64> =
            (0..self.p.d as usize).map(|c| self.at(Role::PROBE, &[batch, head, token, c]).unwrap()).collect();
        let score = |s: usize| (s, dot(&probe, self.k.row(batch, key_head, s)));
        let scores: Vec<_> = row.weights.iter().map(|&(s, _)| score(s)).collect();
        let mean = row
            .weights
            .iter()
            .zip(&scores)
            .fold(Num::default(), |sum, ((_, w), (_, t))| Num { x: sum.x + w.x * t.x, m: sum.m + w.m * t.m });
        for ((_, w), (_, t)) in row.weights.iter_mut().zip(&scores) {
            *w = Num { x: w.x * (1.0 + mean.x - t.x), m: w.m * (1.0 + mean.m + t.m) };
        }
    }

    /// Whether query position `position` sees key `s`.
    fn sees(&self, batch: usize, position: i64, s: i64) -> bool {
        let p = self.p;
        let causal = matches!(p.mode, Mode::Causal | Mode::Step);
        let len =
            p.indices.iter().find(|(role, _)| *role == Role::KEY_LEN).map(|(_, len)| i64::from(len[batch]));
        let in_block = p.mechanism.name != "bswa" || {
            let block = p.integer("block");
            s / block >= position / block - p.integer("mem_blocks")
        };
        let in_window = position - s <= self.window[0] && s - position <= self.window[1];
        (!causal || s <= position) && in_window && in_block && len.is_none_or(|len| s < len)
    }

    /// One row: of head `head` of the output, whose scores are those of `score_head` and `key_head`.
    fn row(&self, [batch, head, token]: [usize; 3], score_head: usize, key_head: usize) -> Row {
        let p = self.p;
        let position = p.s - p.t + token as i64;
        let seen = (0..p.s as usize).filter(|&s| self.sees(batch, position, s as i64));
        let mut scores: Vec<(usize, Num)> =
            seen.map(|s| (s, self.score([batch, token, s], head, score_head, key_head))).collect();
        if p.mechanism.name == "fox" {
            self.forget(&mut scores, batch, head, position as usize);
        }
        let sink = self.at(Role::SINK, &[score_head]).unwrap_or(f64::NEG_INFINITY);
        let top = scores.iter().fold(sink, |top, (_, score)| top.max(score.x));
        if top == f64::NEG_INFINITY {
            return Row { weights: Vec::new(), lse: num(top) };
        }
        let total: f64 = scores.iter().map(|(_, score)| (score.x - top).exp()).sum();
        let total = total + (sink - top).exp();
        let weight = |score: &Num| (score.x - top).exp() / total;
        let mean: f64 =
            scores.iter().map(|(_, score)| weight(score) * score.m).filter(|m| m.is_finite()).sum();
        let weights =
            scores.iter().filter(|(_, score)| score.x > f64::NEG_INFINITY).map(|&(s, ref score)| {
                let x = weight(score);
                (s, Num { x, m: x * (1.0 + score.m + mean) })
            });
        let lse = top + total.ln();
        Row { weights: weights.collect(), lse: Num { x: lse, m: 1.0 + mean + lse.abs() } }
    }

    /// A score with all that is added to it.
    fn score(&self, [batch, token, s]: [usize; 3], head: usize, score_head: usize, key_head: usize) -> Num {
        let p = self.p;
        let scale = self.at(Role::SCALE_BH, &[batch, head]).unwrap_or(self.scale);
        let product = dot(self.q.row(batch, score_head, token), self.k.row(batch, key_head, s));
        let mut score = Num { x: scale * product.x, m: scale * product.m };
        let cap = self.cap;
        if cap > 0.0 {
            score = Num { x: cap * (score.x / cap).tanh(), m: 2.0 * score.m };
        }
        let mut add = |term: f64| score = Num { x: score.x + term, m: score.m + term.abs() };
        let position = p.s - p.t + token as i64;
        if let Some(slope) = self.at(Role::ALIBI_SLOPES, &[score_head]) {
            add(-slope * (position - s as i64).abs() as f64);
        }
        if let Some(bias) = p.inputs.get(&Role::BIAS) {
            let (batch, head) =
                (batch.min(bias.shape[0] as usize - 1), score_head.min(bias.shape[1] as usize - 1));
            add(self.at(Role::BIAS, &[batch, head, token, s]).unwrap());
        }
        score
    }

    /// Adds the gates after a key, up to the query, to its score; there are no keys behind the query.
    fn forget(&self, scores: &mut [(usize, Num)], batch: usize, head: usize, position: usize) {
        let (mut sum, mut next) = (0.0, position + 1);
        for (s, score) in scores.iter_mut().rev() {
            while next > *s + 1 {
                next -= 1;
                sum += self.at(Role::G, &[batch, head, next]).unwrap();
            }
            *score = Num { x: score.x + sum, m: score.m + f64::abs(sum) };
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> Num {
    a.iter().zip(b).fold(Num::default(), |sum, (a, b)| Num { x: sum.x + a * b, m: sum.m + (a * b).abs() })
}
