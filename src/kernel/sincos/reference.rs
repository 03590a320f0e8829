//! The definition: `f64`, one rounding.

use super::Args;

/// # Safety
/// The contract of [`Args`].
pub(super) unsafe fn run(args: &Args) {
    for i in 0..args.n {
        // SAFETY: i < n.
        unsafe {
            let (sin, cos) = f64::from(*args.src.add(i)).sin_cos();
            *args.sin.add(i) = sin as f32;
            *args.cos.add(i) = cos as f32;
        }
    }
}
