//! The definition.

use super::{Args, Target};

/// # Safety
/// The contract of [`Args`].
pub(super) unsafe fn run<E: Target>(args: &Args<E>) {
    for i in 0..args.n {
        for j in 0..args.d {
            let at = i as isize * args.row_stride + j as isize * args.col_stride;
            // SAFETY: i < n, j < d.
            unsafe { *args.dst.offset(at) = E::narrow_reference(*args.src.add(i * args.ld + j)) };
        }
    }
}
