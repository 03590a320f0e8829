//! Loops that the compiler vectorises.

use super::{Args, Target};

/// # Safety
/// The contract of [`Args`].
#[inline(always)]
pub(super) unsafe fn run<E: Target>(args: &Args<E>) {
    // SAFETY: `each` gives the pointers of a row of `d` elements.
    unsafe {
        each(
            args,
            #[inline(always)]
            |src, dst| {
                for j in 0..args.d {
                    *dst.add(j) = E::narrow(*src.add(j));
                }
            },
        );
    }
}

/// Calls `row` with source and destination of each row if rows are contiguous, does the work itself if they aren't.
///
/// # Safety
/// The contract of [`Args`].
#[inline(always)]
pub(super) unsafe fn each<E: Target>(args: &Args<E>, row: impl Fn(*const f32, *mut E)) {
    for i in 0..args.n {
        // Not `offset`: no element need be at column 0 if d = 0.
        let dst = args.dst.wrapping_offset(i as isize * args.row_stride);
        let src = args.src.wrapping_add(i * args.ld);
        if args.col_stride == 1 {
            row(src, dst);
        } else {
            for j in 0..args.d {
                // SAFETY: column j < d of row i < n.
                unsafe { *dst.offset(j as isize * args.col_stride) = E::narrow(*src.add(j)) };
            }
        }
    }
}
