//! Contiguous rows of `f32` by vectors, of 16-bit floats by loops that the compiler vectorises.

use super::{Args, Source};
use crate::simd::mem::{Head, load, store};
use crate::tensor::DType;
use pulp::Simd;

/// # Safety
/// The contract of [`Args`].
#[inline(always)]
pub(super) unsafe fn run<S: Simd, E: Source>(s: S, args: &Args<E>) {
    // SAFETY: `each` gives the pointers of a row of `d` elements.
    unsafe {
        each(
            args,
            #[inline(always)]
            |src, dst, factor| {
                if E::DTYPE == DType::F32 {
                    contiguous(s, args.d, src.cast::<f32>(), dst, factor);
                } else {
                    for j in 0..args.d {
                        *dst.add(j) = (*src.add(j)).widen() * factor;
                    }
                }
            },
        );
    }
}

/// Calls `row` with source, destination and factor of each row if rows are contiguous, does the work itself if they
/// aren't, and clears the padding.
///
/// # Safety
/// The contract of [`Args`].
#[inline(always)]
pub(super) unsafe fn each<E: Source>(args: &Args<E>, row: impl Fn(*const E, *mut f32, f32)) {
    for i in 0..args.n {
        // SAFETY: row i of n.
        let (factor, dst) = unsafe { (args.factor(i), args.dst.add(i * args.ld)) };
        // Not `offset`: no element need be at column 0 if d = 0.
        let src = args.src.wrapping_offset(i as isize * args.row_stride);
        if args.col_stride == 1 {
            row(src, dst, factor);
        } else {
            for j in 0..args.d {
                // SAFETY: column j < d.
                unsafe { *dst.add(j) = (*src.offset(j as isize * args.col_stride)).widen() * factor };
            }
        }
        // Mostly there is none, and a call that clears nothing takes as long as a short row.
        if args.d < args.ld {
            // SAFETY: the row has `ld` elements.
            unsafe { dst.add(args.d).write_bytes(0, args.ld - args.d) };
        }
    }
}

/// # Safety
/// `src` is readable and `dst` writable for `d` elements.
#[inline(always)]
unsafe fn contiguous<S: Simd>(s: S, d: usize, src: *const f32, dst: *mut f32, factor: f32) {
    let factor = s.splat_f32s(factor);
    let mut j = 0;
    while j + S::F32_LANES <= d {
        // SAFETY: j + LANES ≤ d.
        unsafe { store(s, dst.add(j), s.mul_f32s(load(s, src.add(j)), factor)) };
        j += S::F32_LANES;
    }
    if j < d {
        let head = Head::new(s, d - j);
        // SAFETY: the mask covers the d − j elements that are left.
        unsafe { head.store(s, dst.add(j), s.mul_f32s(head.load(s, src.add(j)), factor)) };
    }
}
