//! Whether a problem's result is right, before anybody looks at its speed.

use super::gradient;
use super::inputs::{self, Roles, Tensors};
use super::problem::Problem;
use crate::values::unit_roundoff;
use anyhow::{Context as _, Result};
use subquad::{DType, Isa};

/// Tokens of the checked problem at most: eight chunks of today's length.
const MAX_TOKENS: i64 = 128;

/// A gradient counts as no smaller than this part of the call's largest: that of a constant which is added to every
/// score of a softmax is a sum that cancels, nothing but rounding.
const LEAST_GRADIENT: f64 = 0.01;

/// Largest error that counts as right, relative to the largest value of the tensor. Rounding in `f32` over
/// 128 tokens and some hundred channels leaves some 1e-6; a wrong term leaves 1e-2 and more. Where results have 16
/// bits, values on the two sides of a rounding's edge are a unit in the last place apart. Rounded operands leave a few
/// of their units (`docs/numerics.md`).
pub fn tolerance(problem: &Problem) -> f64 {
    let rounding = |dtype| if dtype == DType::F32 { 0.0 } else { 2.0 * unit_roundoff(dtype) };
    let operands = if problem.bf16_dot { 4.0 * unit_roundoff(DType::Bf16) } else { 0.0 };
    1e-4 + operands + rounding(problem.dtype).max(rounding(problem.dtype_state))
}

/// Largest difference between the problem's plan and the plan of the scalar reference, on the same inputs,
/// relative to each result's largest value. Where the problem asks for gradients they are results too, each side's own.
/// The problem is reduced to few tokens, heads and sequences.
pub fn error(problem: &Problem, roles: &Roles) -> Result<f64> {
    let small = problem.reduced(MAX_TOKENS);
    let reference = Problem { isa: Some(Isa::Scalar), threads: 1, bf16_dot: false, ..small.clone() };
    let past = inputs::past(&reference)?;
    let run = |problem: &Problem| -> Result<Tensors> {
        let plan = problem.plan()?;
        let mut tensors = Tensors::generate(problem, &plan, roles, &past)?;
        let mut workspace = gradient::workspace(problem, &plan)?;
        tensors.run(&plan, problem.mode, &mut workspace).with_context(|| format!("problem `{problem}`"))?;
        Ok(tensors)
    };
    let (ours, reference) = (run(&small)?, run(&reference)?);
    let gradients = reference.results().filter(|(role, _)| role.is_grad());
    let floor = LEAST_GRADIENT * gradients.map(|(_, data)| largest(&data)).fold(0.0, f64::max);
    let both = ours.results().zip(reference.results());
    let errors = both.map(|((role, a), (_, b))| relative(&a, &b, if role.is_grad() { floor } else { 0.0 }));
    Ok(errors.fold(0.0, f64::max))
}

fn largest(values: &[f32]) -> f64 {
    values.iter().fold(0.0, |most, &x| most.max(f64::from(x.abs())))
}

/// `max |a − b| / max |b|`, the latter at least `floor`; infinite where either is not finite.
fn relative(a: &[f32], b: &[f32], floor: f64) -> f64 {
    let mut difference = 0f64;
    for (&a, &b) in a.iter().zip(b) {
        if !a.is_finite() || !b.is_finite() {
            return f64::INFINITY;
        }
        difference = difference.max((f64::from(a) - f64::from(b)).abs());
    }
    if difference == 0.0 { 0.0 } else { difference / largest(b).max(floor) }
}

#[cfg(test)]
mod tests {
    use super::relative;

    #[test]
    fn only_finite_numbers_can_agree() {
        let exact = |a: &[f32], b: &[f32]| relative(a, b, 0.0);
        assert_eq!(exact(&[1.0, 2.0], &[1.0, 4.0]), 0.5);
        assert_eq!(exact(&[0.0], &[0.0]), 0.0);
        assert_eq!(exact(&[f32::NAN], &[f32::NAN]), f64::INFINITY);
        assert_eq!(exact(&[1.0], &[0.0]), f64::INFINITY);
        assert_eq!(relative(&[1.0, 2.0], &[1.0, 4.0], 8.0), 0.25);
        assert_eq!(relative(&[f32::NAN], &[0.0], 8.0), f64::INFINITY);
    }
}
