//! Three passes over a row: maximum, exponentials and their sum, quotient.

use super::Args;
use crate::simd::math;
use crate::simd::mem::{Head, load, store};
use pulp::Simd;

/// # Safety
/// The contract of [`Args`].
#[inline(always)]
pub(super) unsafe fn run<S: Simd>(s: S, args: &Args) {
    if args.d == 0 {
        return;
    }
    let tail = Head::new(s, args.d % S::F32_LANES);
    for i in 0..args.n {
        // SAFETY: row i of n.
        unsafe { row(s, args.x.add(i * args.ld), args.d, tail) };
    }
}

/// # Safety
/// `x` is valid for reading and writing `d` elements; `tail` is the first `d % LANES` lanes.
#[inline(always)]
unsafe fn row<S: Simd>(s: S, x: *mut f32, d: usize, tail: Head<S>) {
    let lanes = S::F32_LANES;
    let whole = d - d % lanes;
    let lowest = s.splat_f32s(f32::NEG_INFINITY);
    // A NaN may or may not get into the maximum: the sum is NaN in either case.
    let mut max = lowest;
    for j in (0..whole).step_by(lanes) {
        // SAFETY: j + LANES ≤ d.
        max = s.max_f32s(unsafe { load(s, x.add(j)) }, max);
    }
    if whole < d {
        // SAFETY: the mask covers d − whole elements.
        max = s.max_f32s(tail.select(s, unsafe { tail.load(s, x.add(whole)) }, lowest), max);
    }
    let max = s.splat_f32s(s.reduce_max_f32s(max));

    let mut sum = s.splat_f32s(0.0);
    for j in (0..whole).step_by(lanes) {
        // SAFETY: j + LANES ≤ d.
        unsafe {
            let e = math::exp(s, s.sub_f32s(load(s, x.add(j)), max));
            store(s, x.add(j), e);
            sum = s.add_f32s(sum, e);
        }
    }
    if whole < d {
        // SAFETY: the mask covers d − whole elements.
        unsafe {
            let e = math::exp(s, s.sub_f32s(tail.load(s, x.add(whole)), max));
            tail.store(s, x.add(whole), e);
            sum = s.add_f32s(sum, tail.select(s, e, s.splat_f32s(0.0)));
        }
    }

    let factor = s.splat_f32s(1.0 / s.reduce_sum_f32s(sum));
    for j in (0..whole).step_by(lanes) {
        // SAFETY: j + LANES ≤ d.
        unsafe { store(s, x.add(j), s.mul_f32s(load(s, x.add(j)), factor)) };
    }
    if whole < d {
        // SAFETY: the mask covers d − whole elements.
        unsafe { tail.store(s, x.add(whole), s.mul_f32s(tail.load(s, x.add(whole)), factor)) };
    }
}
