//! The definition.

use super::{Args, TILE};

/// # Safety
/// The contract of [`Args`].
#[inline(always)]
pub(super) unsafe fn run(args: &Args) {
    for j in 0..args.d {
        for i in 0..TILE {
            // SAFETY: i < n where src is read, j < d.
            unsafe {
                *args.dst.add(j * args.ld_dst + i) =
                    if i < args.n { *args.src.add(i * args.ld + j) } else { 0.0 };
            }
        }
    }
}
