//! Reductions of a row.

use super::mem::{Head, load};
use pulp::Simd;

/// `Σ (f x)²` over `d` elements.
///
/// Two vectors of partial sums: the error is at most `d / (2 LANES) + 6` roundings of the result.
///
/// # Safety
/// `x` is valid for reading `d` elements.
#[inline(always)]
pub(crate) unsafe fn sum_squares<S: Simd>(s: S, x: *const f32, d: usize, f: f32) -> f32 {
    let f = s.splat_f32s(f);
    let (mut even, mut odd) = (s.splat_f32s(0.0), s.splat_f32s(0.0));
    let mut j = 0;
    while j + 2 * S::F32_LANES <= d {
        // SAFETY: j + 2 LANES ≤ d.
        let (a, b) = unsafe { (load(s, x.add(j)), load(s, x.add(j + S::F32_LANES))) };
        even = square_add(s, s.mul_f32s(a, f), even);
        odd = square_add(s, s.mul_f32s(b, f), odd);
        j += 2 * S::F32_LANES;
    }
    if j + S::F32_LANES <= d {
        // SAFETY: j + LANES ≤ d.
        even = square_add(s, s.mul_f32s(unsafe { load(s, x.add(j)) }, f), even);
        j += S::F32_LANES;
    }
    if j < d {
        // SAFETY: the mask covers the d − j elements that are left.
        let x = unsafe { Head::new(s, d - j).load(s, x.add(j)) };
        odd = square_add(s, s.mul_f32s(x, f), odd);
    }
    s.reduce_sum_f32s(s.add_f32s(even, odd))
}

/// `x² + sum`.
#[inline(always)]
fn square_add<S: Simd>(s: S, x: S::f32s, sum: S::f32s) -> S::f32s {
    s.mul_add_f32s(x, x, sum)
}

/// Range of a sum of squares that has neither overflowed nor lost digits to underflow.
const GOOD: std::ops::RangeInclusive<f32> = 8.077_936e-28..=8.507_059e37;

/// A factor that brings the row into range, and the sum of squares of the row times it.
///
/// The factor is 1 but for rows of huge (≥ 2⁶³) or tiny (< 2⁻⁴⁵) values, where it is 2⁻⁸⁰ or 2¹⁰⁰; for tiny ones only
/// if `eps`, which the caller adds to or compares with the norm, is tiny too and can't hide them. `sum(f)` is the sum
/// of squares of `f` times the row. `NaN` and `inf` stay.
#[inline(always)]
pub(crate) fn in_range(eps_is_tiny: bool, sum: impl Fn(f32) -> f32) -> (f32, f32) {
    let plain = sum(1.0);
    let f = if plain > *GOOD.end() {
        2f32.powi(-80)
    } else if plain < *GOOD.start() && eps_is_tiny {
        2f32.powi(100)
    } else {
        return (1.0, plain);
    };
    (f, sum(f))
}
