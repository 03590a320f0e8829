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
    names.contains(&p.mechanism.name).then(|| Oracle { p, nudge, roundings }.run())
}

struct Oracle<'a> {
    p: &'a Problem,
    nudge: Option<Nudge>,
    roundings: f64,
}

/// Weights of the keys that a row sees, and the log of their normaliser.
struct Row {
    weights: Vec<(usize, Num)>,
    lse: Num,
}

impl Oracle<'_> {
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
                let value = |s: usize, c: usize| self.at(Role::V, &[batch, head / sets, s, c]).unwrap();
                let sum = |weights: &[(usize, Num)], c: usize| {
                    weights.iter().fold(Num::default(), |sum, &(s, w)| {
                        let v = value(s, c);
                        Num { x: sum.x + w.x * v, m: sum.m + w.m * v.abs() }
                    })
                };
                if p.mechanism.name == "diff" {
                    let rows = [0, 1].map(|map| self.row(at, 2 * head + map, 2 * (head / sets) + map));
                    let lam = self.at(Role::LAM, &[head]).unwrap();
                    out.extend((0..e).map(|c| {
                        let [one, two] = rows.each_ref().map(|row| sum(&row.weights, c));
                        Num { x: one.x - lam * two.x, m: one.m + lam.abs() * two.m }
                    }));
                    continue;
                }
                let mut row = self.row(at, head, head / sets);
                if p.mechanism.name == "parallax" {
                    self.probe(&mut row, at, head / sets);
                }
                out.extend((0..e).map(|c| sum(&row.weights, c)));
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
        let score = |s: usize| {
            let dot = (0..self.p.d as usize).fold(Num::default(), |sum, c| {
                let product = self.at(Role::PROBE, &[batch, head, token, c]).unwrap()
                    * self.at(Role::K, &[batch, key_head, s, c]).unwrap();
                Num { x: sum.x + product, m: sum.m + product.abs() }
            });
            (s, dot)
        };
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
        let bound = |name: &str| match p.params.iter().find(|(own, _)| *own == name) {
            Some((_, Value::Int(bound))) if *bound >= 0 => *bound,
            _ => i64::MAX / 4,
        };
        let len =
            p.indices.iter().find(|(role, _)| *role == Role::KEY_LEN).map(|(_, len)| i64::from(len[batch]));
        let in_block = p.mechanism.name != "bswa" || {
            let block = p.integer("block");
            s / block >= position / block - p.integer("mem_blocks")
        };
        let in_window = position - s <= bound("window_left") && s - position <= bound("window_right");
        (!causal || s <= position) && in_window && in_block && len.is_none_or(|len| s < len)
    }

    /// One row: of head `head` of the output, whose scores are those of `score_head` and `key_head`.
    fn row(&self, [batch, head, token]: [usize; 3], score_head: usize, key_head: usize) -> Row {
        let p = self.p;
        let position = p.s - p.t + token as i64;
        let seen = (0..p.s as usize).filter(|&s| self.sees(batch, position, s as i64));
        let scores: Vec<(usize, Num)> =
            seen.map(|s| (s, self.score([batch, token, s], head, score_head, key_head))).collect();
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
        let scale = match self.at(Role::SCALE_BH, &[batch, head]) {
            Some(scale) => scale,
            None => p.real("scale"),
        };
        let mut score = (0..p.d as usize).fold(Num::default(), |sum, c| {
            let product = self.at(Role::Q, &[batch, score_head, token, c]).unwrap()
                * self.at(Role::K, &[batch, key_head, s, c]).unwrap();
            Num { x: sum.x + scale * product, m: sum.m + scale * product.abs() }
        });
        let cap = if p.mechanism.param("softcap").is_some() { p.real("softcap") } else { 0.0 };
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
        if p.mechanism.name == "fox" {
            let gates = s + 1..=position as usize;
            add(gates.map(|j| self.at(Role::G, &[batch, head, j]).unwrap()).sum());
        }
        score
    }
}
