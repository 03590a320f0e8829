//! What the companions of attention must give, in `f64` and by their definitions (`docs/spec/linear.md` 7 and 14), with
//! the error model of `oracle.rs`: beside each number its magnitude, times a count of roundings.

use super::oracle::{Expected, Nudge, element};
use super::problem::{Problem, index_of};
use std::collections::BTreeMap;
use subquad::Role;

const U: f64 = f32::EPSILON as f64 / 2.0;
/// Results below may be flushed to zero.
const TINY: f64 = 1e-37;

/// The expected outputs, if the problem is a companion.
pub fn expect(p: &Problem, nudge: Option<Nudge>) -> Option<BTreeMap<Role, Expected>> {
    let companion = Companion { p, nudge };
    match p.mechanism.name {
        "gate" => Some(companion.gate()),
        "causal_conv" => Some(companion.conv()),
        _ => None,
    }
}

struct Companion<'a> {
    p: &'a Problem,
    nudge: Option<Nudge>,
}

impl Companion<'_> {
    /// Element of an input that is bound.
    fn at(&self, role: Role, index: &[usize]) -> Option<f64> {
        element(self.p, self.nudge, role, index)
    }

    fn gate(&self) -> BTreeMap<Role, Expected> {
        let mut out = Expected { value: Vec::new(), tolerance: Vec::new() };
        let shape = self.p.shape(Role::OUT);
        for i in 0..shape.iter().product::<i64>() as usize {
            let index = index_of(i, &shape);
            let head = index[1];
            let own = if index.len() == 4 { vec![head, index[3]] } else { vec![head] };
            let x = self.at(Role::X, &index).unwrap();
            let bias = self.at(Role::DT_BIAS, &own).unwrap_or(0.0);
            let rate = self.at(Role::A_LOG, &[head]).unwrap_or(0.0).exp();
            let sigmoid = |u: f64| 1.0 / (1.0 + (-u).exp());
            let softplus = |u: f64| u.max(0.0) + (-u.abs()).exp().ln_1p();
            let (value, u) = match self.p.word("form").as_str() {
                "softplus" => (-rate * softplus(x + bias), x + bias),
                "lower_bound" => (self.p.real("lower_bound") * sigmoid(rate * (x + bias)), rate * (x + bias)),
                "logsigmoid" => (-softplus(-x) / self.p.real("normalizer"), x),
                "sigmoid" => (self.p.real("gain") * sigmoid(x), x),
                form => panic!("form {form}"),
            };
            // Either function changes by no more than the change of its argument, relative; and that has the error of
            // a sum and, once, of a factor.
            let sum = (x.abs() + bias.abs()) * if u == x { 1.0 } else { 1.0 + rate };
            out.value.push(value);
            out.tolerance.push(value.abs() * U * (10.0 + 2.0 * sum + u.abs()) + TINY);
        }
        BTreeMap::from([(Role::OUT, out)])
    }

    fn conv(&self) -> BTreeMap<Role, Expected> {
        let (b, d, t) = (self.p.b as usize, self.p.d as usize, self.p.t as usize);
        let width = self.p.integer("width") as usize;
        let before = width - 1;
        // Inputs behind the state: place W − 1 is token 0.
        let x = |batch, c, place: usize| match place.checked_sub(before) {
            Some(token) => self.at(Role::X, &[batch, c, token]).unwrap(),
            None => self.at(Role::STATE_IN, &[batch, c, place]).unwrap_or_else(|| {
                // A state that is not bound can be nudged as well.
                let flat = (batch * d + c) * before + place;
                let own = self.nudge.filter(|n| (n.role, n.at) == (Role::STATE_IN, flat));
                own.map_or(0.0, |nudge| nudge.by)
            }),
        };
        let mut out = Expected { value: Vec::new(), tolerance: Vec::new() };
        let mut state = out.clone();
        for batch in 0..b {
            for c in 0..d {
                let bias = self.at(Role::B_CONV, &[c]).unwrap_or(0.0);
                for token in 0..t {
                    let taps =
                        (0..width).map(|j| self.at(Role::W_CONV, &[c, j]).unwrap() * x(batch, c, token + j));
                    let (sum, magnitude) =
                        taps.fold((bias, bias.abs()), |(sum, m), term| (sum + term, m + term.abs()));
                    let silu = self.p.word("activation") == "silu";
                    let value = if silu { sum / (1.0 + (-sum).exp()) } else { sum };
                    out.value.push(value);
                    // The slope of silu is at most 1.1.
                    let own = if silu {
                        1.1 * magnitude * (width + 1) as f64 + 6.0 * value.abs()
                    } else {
                        magnitude * (width + 1) as f64
                    };
                    out.tolerance.push(own * U + TINY);
                }
                for place in t..t + before {
                    state.value.push(x(batch, c, place));
                    state.tolerance.push(TINY);
                }
            }
        }
        BTreeMap::from([(Role::OUT, out), (Role::STATE_OUT, state)])
    }
}
