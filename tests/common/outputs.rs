//! What the oracle makes of outputs and states, and how results compare with it.

use super::oracle::{Expected, Num, Oracle, State, expected, num};
use super::problem::Tensors;
use std::collections::BTreeMap;
use subquad::Role;

impl Oracle<'_> {
    /// Norms of the output, over a head or over all heads of a token.
    pub(super) fn normalise(&self, y: &mut [Num]) {
        let (t, e) = (self.p.t as usize, self.e);
        let normalize = self.p.word("normalize");
        if !matches!(normalize.as_str(), "rms_head" | "rms_gate" | "srms_all") {
            return;
        }
        let eps = self.p.real("norm_eps");
        let sigmoid_gate = self.p.word("gate_activation") == "sigmoid";
        let at =
            |batch: usize, h: usize, token: usize, c: usize| ((batch * self.n_out + h) * t + token) * e + c;
        let groups: Vec<Vec<usize>> = if normalize == "srms_all" {
            vec![(0..self.n_out).collect()]
        } else {
            (0..self.n_out).map(|h| vec![h]).collect()
        };
        for batch in 0..self.p.b as usize {
            for token in 0..t {
                for heads in &groups {
                    let places = || heads.iter().flat_map(|&h| (0..e).map(move |c| (h, c)));
                    let n = places().count() as f64;
                    let sum =
                        |f: fn(Num) -> f64| places().map(|(h, c)| f(y[at(batch, h, token, c)])).sum::<f64>();
                    let rho = 1.0 / (sum(|y| y.x * y.x) / n + eps).sqrt();
                    let coupling = sum(|y| y.x.abs() * y.m) / n;
                    for (h, c) in places() {
                        let weight = match self.tensor(Role::OUT_NORM_WEIGHT) {
                            Some(_) if normalize == "srms_all" => {
                                self.at(Role::OUT_NORM_WEIGHT, &[h * e + c])
                            }
                            _ => self.at(Role::OUT_NORM_WEIGHT, &[c]),
                        };
                        let gate = self.at(Role::GATE, &[batch, h, token, c]).map_or(1.0, |gate| {
                            let sigmoid = 1.0 / (1.0 + (-gate).exp());
                            if sigmoid_gate { sigmoid } else { gate * sigmoid }
                        });
                        let factor = rho * weight.unwrap_or(1.0) * gate;
                        let y = &mut y[at(batch, h, token, c)];
                        let m = factor.abs() * (y.m + y.x.abs() * (1.0 + rho * rho * coupling));
                        *y = Num { x: y.x * factor, m };
                    }
                }
            }
        }
    }

    pub(super) fn gather(&self, y: Vec<Num>, states: Vec<State>) -> BTreeMap<Role, Expected> {
        let expected = |nums: Vec<Num>| expected(nums, self.c);
        let carries = self.p.has_shift() && self.p.shift;
        let rows = |f: fn(&State) -> &[Num], width: usize| {
            let scaled = states.iter().flat_map(|state| {
                f(state).iter().enumerate().map(move |(i, n)| {
                    // Where the shift is carried out, the state comes without it.
                    let shift = state.shift[i / width];
                    let carried = carries && shift > f64::NEG_INFINITY;
                    let plain = if carried { (-shift).exp() } else { 1.0 };
                    Num { x: n.x * plain, m: n.m * plain }
                })
            });
            expected(scaled.collect())
        };
        let mut all = BTreeMap::from([(Role::OUT, expected(y))]);
        all.insert(Role::STATE_OUT, rows(|state| &state.s, self.e));
        if self.denominator.is_some() {
            all.insert(Role::Z_OUT, rows(|state| &state.z, 1));
        }
        if carries {
            let shift = states.iter().flat_map(|state| state.shift.iter().map(|&m| num(m)));
            all.insert(Role::SHIFT_OUT, expected(shift.collect()));
        }
        all
    }
}

/// Panics unless every output is as expected; gives the worst error as a fraction of its tolerance.
#[track_caller]
pub fn check(got: &Tensors, want: &BTreeMap<Role, Expected>, what: impl Fn() -> String) -> f64 {
    compare(got, want, &what)
}

#[track_caller]
fn compare(got: &Tensors, want: &BTreeMap<Role, Expected>, what: &dyn Fn() -> String) -> f64 {
    assert!(got.keys().eq(want.keys()), "{:?} for {:?}: {}", got.keys(), want.keys(), what());
    let mut worst = 0.0f64;
    for (role, want) in want {
        let got = &got[role];
        assert_eq!(got.data.len(), want.value.len(), "{role} of {}", what());
        for (i, &g) in got.data.iter().enumerate() {
            let (w, tolerance) = (want.value[i], want.tolerance[i]);
            // A denominator of zero, or all but zero: nothing is known.
            if !tolerance.is_finite() {
                continue;
            }
            // What a single holds, infinities included.
            let close = g == w as f32 || (f64::from(g) - w).abs() <= tolerance;
            let at = || super::problem::index_of(i, &got.shape);
            assert!(close, "{role}{:?} is {g:e} for {w:e}, tolerance {tolerance:e}: {}", at(), what());
            if g != w as f32 {
                worst = worst.max((f64::from(g) - w).abs() / tolerance);
            }
        }
    }
    worst
}
