//! The definition.

use super::{Args, Source};

/// # Safety
/// The contract of [`Args`].
pub(super) unsafe fn run<E: Source>(args: &Args<E>) {
    for i in 0..args.n {
        // SAFETY: row i of n.
        let factor = unsafe { args.factor(i) };
        for j in 0..args.ld {
            // SAFETY: i < n; src has columns j < d, dst columns j < ld.
            unsafe {
                *args.dst.add(i * args.ld + j) = if j < args.d {
                    let at = i as isize * args.row_stride + j as isize * args.col_stride;
                    (*args.src.offset(at)).widen() * factor
                } else {
                    0.0
                };
            }
        }
    }
}
