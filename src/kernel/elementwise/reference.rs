//! The definition: `f64`, one rounding.

use super::{Args, Function};

/// # Safety
/// The contract of [`Args`].
pub(super) unsafe fn run<F: Function>(args: &Args) {
    for i in 0..args.n {
        // SAFETY: i < n.
        unsafe { *args.dst.add(i) = F::scalar(f64::from(*args.src.add(i))) as f32 };
    }
}
