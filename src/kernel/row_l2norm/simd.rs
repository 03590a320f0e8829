//! Two passes over a row: sum of squares, product.

use super::{Args, Mode};
use crate::simd::mem::{Head, load, store};
use crate::simd::reduce::{in_range, sum_squares};
use pulp::Simd;

/// # Safety
/// The contract of [`Args`].
#[inline(always)]
pub(super) unsafe fn run<S: Simd>(s: S, args: &Args) {
    let d = args.d;
    let tail = Head::new(s, d % S::F32_LANES);
    for i in 0..args.n {
        // SAFETY: row i of n.
        let x = unsafe { args.x.add(i * args.ld) };
        let eps_is_tiny =
            args.eps < if args.mode == Mode::SquareAdd { 2f32.powi(-80) } else { 2f32.powi(-40) };
        // SAFETY: the row has d elements.
        let (f, sum) = in_range(
            eps_is_tiny,
            #[inline(always)]
            |f| unsafe { sum_squares(s, x, d, f) },
        );
        let factors = (s.splat_f32s(f), s.splat_f32s(factor(args, f, sum)));
        let mut j = 0;
        while j + S::F32_LANES <= d {
            // SAFETY: j + LANES ≤ d.
            unsafe { store(s, x.add(j), scaled(s, load(s, x.add(j)), factors)) };
            j += S::F32_LANES;
        }
        if j < d {
            // SAFETY: the mask covers the d − j elements that are left.
            unsafe { tail.store(s, x.add(j), scaled(s, tail.load(s, x.add(j)), factors)) };
        }
    }
}

/// `x f c`: two steps, as the product of the factors may leave the range.
#[inline(always)]
fn scaled<S: Simd>(s: S, x: S::f32s, (f, c): (S::f32s, S::f32s)) -> S::f32s {
    s.mul_f32s(s.mul_f32s(x, f), c)
}

/// The factor of a row that has been multiplied by `f` and then has this sum of squares.
#[inline(always)]
fn factor(args: &Args, f: f32, sum: f32) -> f32 {
    // ε as it is for a row `f` times as long; in f64, as f² may leave the range.
    let f = f64::from(f);
    let eps = f64::from(args.eps);
    let divisor = match args.mode {
        Mode::SquareAdd => (sum + (eps * f * f) as f32).sqrt(),
        Mode::Floor => {
            let (norm, eps) = (sum.sqrt(), (eps * f) as f32);
            // Not `max`, which would hide a NaN.
            if norm < eps { eps } else { norm }
        }
        Mode::Add => sum.sqrt() + (eps * f) as f32,
    };
    args.scale / divisor
}
