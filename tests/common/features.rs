//! Feature maps as the pages write them (`docs/spec/random_features.md` 4 and 9, `docs/spec/sparse.md` 10), one row
//! at a time in `f64`.
//!
//! Beside each feature goes its magnitude: what an error of one rounding in each sum and product of its formula
//! comes to, so that an exponent or an argument counts with the sum of the absolute values it is made of.

use super::oracle::{Num, Oracle, num};
use std::f64::consts::{FRAC_PI_2, PI};
use subquad::Role;

impl Oracle<'_> {
    /// A row of `q` or `k` as features, for mechanisms with a map of their own.
    pub(super) fn mapped(&self, role: Role, batch: usize, head: usize, token: usize) -> Option<Vec<Num>> {
        let p = self.p;
        let x = self.row(role, [batch, head, token]);
        Some(match p.mechanism.name {
            "cosformer" => {
                let i = (p.integer("position0") + token as i64) as f64;
                let (sin, cos) = (FRAC_PI_2 * i / p.real("period")).sin_cos();
                [sin, cos].iter().flat_map(|f| x.iter().map(move |x| num(x.max(0.0) * f))).collect()
            }
            "dpfp" => self.rolled(role, &x),
            "focused" => self.focused(role, batch, head, token),
            "hedgehog" => self.hedgehog(role, head, &x),
            "feature_fixation" => self.fixated(role, batch, head, token),
            "dijiang" => self.dijiang(&x),
            "lln" => {
                let scale = p.real(if role == Role::Q { "x_scale_q" } else { "x_scale_k" });
                x.iter().map(|x| self.exponential(scale * x, (scale * x).abs())).collect()
            }
            "rfa_gate" if p.is_rfa() => self.fourier(role, head, &x),
            _ => return None,
        })
    }

    pub(super) fn map_row(&self, row: &mut [Num]) {
        let elu1 = |x: f64| if x > 0.0 { num(x + 1.0) } else { num(x.exp()) };
        let each = |row: &mut [Num], f: &dyn Fn(f64) -> Num| row.iter_mut().for_each(|x| *x = f(x.x));
        match self.map.as_str() {
            "" | "identity" => {}
            "elu1" => each(row, &elu1),
            "elu1_neg" => each(row, &|x| elu1(-x)),
            // Cancels below zero.
            "tanh1" => each(row, &|x| Num { x: x.tanh() + 1.0, m: 2.0 }),
            "relu" => each(row, &|x| num(x.max(0.0))),
            "relu2" => each(row, &|x| num(x.max(0.0).powi(2))),
            "silu" => each(row, &|x| num(x / (1.0 + (-x).exp()))),
            // The roundings of an exponent are as many as it is large.
            "softmax" => {
                let top = row.iter().fold(f64::NEG_INFINITY, |m, x| m.max(x.x));
                let sum: f64 = row.iter().map(|x| (x.x - top).exp()).sum();
                each(row, &|x| {
                    let p = (x - top).exp() / sum;
                    Num { x: p, m: p * (1.0 + (x - top).abs() / 4.0) }
                });
            }
            "exp" => each(row, &|x| {
                let p = x.exp();
                Num { x: p, m: p * (1.0 + self.largest_exponent / 2.0) }
            }),
            other => panic!("feature map {other}"),
        }
    }

    pub(super) fn coef(&self) -> [f64; 2] {
        let given = self.p.params.iter().find(|(name, _)| *name == "coef").map(|(_, value)| value);
        match given {
            Some(subquad::Value::Reals(list)) => [list[0], list[1]],
            None => [1.0, 1.0],
            other => panic!("coef {other:?}"),
        }
    }

    /// `e^y`, for an exponent whose terms have this sum of absolute values.
    fn exponential(&self, y: f64, magnitude: f64) -> Num {
        Num { x: y.exp(), m: y.exp() * (1.0 + magnitude + self.largest_exponent / 2.0) }
    }

    fn rolled(&self, role: Role, x: &[f64]) -> Vec<Num> {
        let scale = if role == Role::K { self.p.real("feature_scale_k") } else { 1.0 };
        let r: Vec<f64> = x.iter().map(|x| x.max(0.0)).chain(x.iter().map(|x| (-x).max(0.0))).collect();
        let n = r.len();
        let product = |j: usize, i: usize| num(scale * r[i] * r[(i + n - j % n) % n]);
        (1..=self.p.integer("nu") as usize)
            .flat_map(|j| (0..n).map(move |i| (j, i)))
            .map(|(j, i)| product(j, i))
            .collect()
    }

    fn focused(&self, role: Role, batch: usize, head: usize, token: usize) -> Vec<Num> {
        let degree = self.p.integer("degree") as i32;
        let eps = self.p.real("feature_eps");
        let y = |h: usize| -> Vec<f64> {
            let row = self.row(role, [batch, h, token]);
            let temperature = |c: usize| self.at(Role::TEMPERATURE, &[h, c]).unwrap();
            row.iter().enumerate().map(|(c, x)| (x.max(0.0) + eps) / temperature(c)).collect()
        };
        let span = if self.p.joins_heads() { 0..self.heads[1] } else { head..head + 1 };
        let all: Vec<f64> = span.flat_map(y).collect();
        let top = all.iter().fold(0.0, |top: f64, &y| top.max(y));
        if top == 0.0 {
            return vec![num(0.0); self.d];
        }
        let norm = |p: i32| all.iter().map(|y| (y / top).powi(2 * p)).sum::<f64>().sqrt();
        let factor = top * norm(1) / norm(degree);
        let power = |y: f64| factor * (y / top).powi(degree);
        y(head).into_iter().map(|y| Num { x: power(y), m: power(y) * (1.0 + f64::from(degree)) }).collect()
    }

    /// `x W + b` with the sums of absolute values.
    fn affine(
        &self,
        x: &[f64],
        width: usize,
        w: impl Fn(usize, usize) -> f64,
        b: impl Fn(usize) -> f64,
    ) -> Vec<Num> {
        let one = |f: usize| {
            let terms = || x.iter().enumerate().map(|(c, x)| x * w(c, f)).chain([b(f)]);
            Num { x: terms().sum(), m: terms().map(f64::abs).sum() }
        };
        (0..width).map(one).collect()
    }

    /// Softmax of numbers with magnitudes.
    fn softmax(y: &[Num]) -> Vec<Num> {
        let top = y.iter().fold(f64::NEG_INFINITY, |top, y| top.max(y.x));
        let widest = y.iter().fold(0.0, |m: f64, y| m.max(y.m));
        let sum: f64 = y.iter().map(|y| (y.x - top).exp()).sum();
        let share = |y: &Num| (y.x - top).exp() / sum;
        y.iter()
            .map(|y| Num { x: share(y), m: share(y) * (1.0 + widest + (y.x - top).abs() / 4.0) })
            .collect()
    }

    fn hedgehog(&self, role: Role, head: usize, x: &[f64]) -> Vec<Num> {
        let f = self.m / 2;
        let (w, b) = if role == Role::Q { (Role::W_Q, Role::B_Q) } else { (Role::W_K, Role::B_K) };
        let split = self.p.word("form") == "split";
        let y = if self.tensor(Role::W_QK).is_some() {
            let w = |c: usize, f: usize| self.at(Role::W_QK, &[c, f]).unwrap();
            self.affine(x, f, w, |f| self.at(Role::B_QK, &[f]).unwrap_or(0.0))
        } else if self.tensor(w).is_some() {
            let weight = |c: usize, f: usize| self.at(w, &[head, c, f]).unwrap();
            self.affine(x, f, weight, |f| self.at(b, &[head, f]).unwrap_or(0.0))
        } else {
            x.iter().map(|&x| num(x)).collect()
        };
        let times = |factor: f64| y.iter().map(move |y| Num { x: factor * y.x, m: factor.abs() * y.m });
        if !split {
            return Self::softmax(&times(2.0).chain(times(-2.0)).collect::<Vec<_>>());
        }
        let both = [1.0, -1.0].map(|sign| Self::softmax(&times(sign).collect::<Vec<_>>()));
        let floor = self.p.real("feature_eps");
        both.concat().into_iter().map(|p| Num { x: p.x.max(floor), m: p.m.max(floor) }).collect()
    }

    fn dijiang(&self, x: &[f64]) -> Vec<Num> {
        let (n, d) = (self.d, self.d as f64);
        let c = |k: usize, n: usize| {
            let scale = if k == 0 { 1.0 / d } else { 2.0 / d }.sqrt();
            scale * (PI * (2 * n + 1) as f64 * k as f64 / (2.0 * d)).cos()
        };
        let cosines = self.cosines.get_or_init(|| (0..n * n).map(|i| c(i / n, i % n)).collect());
        let t: Vec<f64> = (0..n).map(|n| self.at(Role::W_DIAG, &[n]).unwrap()).collect();
        let u = self.affine(x, n, |k, i| t[i] * cosines[k * n + i], |_| 0.0);
        if self.p.word("feature_map") == "softmax" {
            return Self::softmax(&u);
        }
        u.iter().map(|u| self.exponential(u.x, u.m)).collect()
    }

    fn fourier(&self, role: Role, head: usize, x: &[f64]) -> Vec<Num> {
        let p = self.p;
        let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt() + p.real("l2norm_eps");
        let sigma = |c: usize| self.at(Role::SIGMA, &[head, c]).unwrap_or(1.0);
        let unit = |x: f64| if x == 0.0 { 0.0 } else { x / norm };
        let x: Vec<f64> = x.iter().enumerate().map(|(c, &x)| sigma(c) * unit(x) / p.real("tau")).collect();
        let w = &self.tensor(Role::W).unwrap().shape;
        // Query heads share the matrix of their key head.
        let key = if role == Role::Q { head / (self.heads[0] / self.heads[1]) } else { head };
        let at = |f: usize, c: usize| match w.len() {
            2 => self.at(Role::W, &[f, c]),
            _ if w[0] == 1 => self.at(Role::W, &[0, f, c]),
            _ => self.at(Role::W, &[key, f, c]),
        };
        let rows = w[w.len() - 2] as usize;
        let u = self.affine(&x, rows, |c, f| at(f, c).unwrap(), |_| 0.0);
        let scale = p.real("feature_scale");
        if p.word("kernel") == "arccos" {
            return u.iter().map(|u| Num { x: scale * u.x.max(0.0), m: scale * u.m }).collect();
        }
        let wave = |f: fn(f64) -> f64| {
            u.iter().map(move |u| Num { x: scale * f(u.x), m: scale * (f(u.x).abs() + u.m) })
        };
        wave(f64::sin).chain(wave(f64::cos)).collect()
    }

    fn fixated(&self, role: Role, batch: usize, head: usize, token: usize) -> Vec<Num> {
        let eps = self.p.real("feature_eps");
        let positive = |role| self.row(role, [batch, head, token]).into_iter().map(|x| x.max(0.0) + eps);
        let v = self.row(Role::V, [batch, head, token]);
        let joined: Vec<f64> = positive(Role::Q).chain(positive(Role::K)).chain(v).collect();
        let two = role == Role::K && self.tensor(Role::W_GATE_K).is_some();
        let (w, b) = if two { (Role::W_GATE_K, Role::B_GATE_K) } else { (Role::W_GATE, Role::B_GATE) };
        let z =
            self.affine(&joined, self.d, |c, f| self.at(w, &[f, c]).unwrap(), |f| self.at(b, &[f]).unwrap());
        let gate = |z: &Num| 1.0 / (1.0 + (-z.x).exp());
        z.iter()
            .zip(positive(role))
            .map(|(z, x)| Num { x: gate(z) * x, m: gate(z) * x * (1.0 + z.m) })
            .collect()
    }
}
