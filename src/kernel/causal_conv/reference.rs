//! The definition.

use super::{Args, tap};

/// # Safety
/// The contract of [`Args`].
pub(super) unsafe fn run(args: &Args) {
    for i in 0..args.n {
        for c in 0..args.d {
            // SAFETY: channel c < d of rows i + j < n + width − 1, its taps, its bias and output i.
            unsafe {
                let mut sum = if args.bias.is_null() { 0.0 } else { f64::from(*args.bias.add(c)) };
                for j in 0..args.width {
                    let x = *args.src.offset((i + j) as isize * args.src_stride + c as isize);
                    sum += f64::from(x) * f64::from(*args.weight.add(tap(args.width, c, j)));
                }
                let y = if args.silu { sum / (1.0 + (-sum).exp()) } else { sum };
                *args.dst.offset(i as isize * args.dst_stride + c as isize) = y as f32;
            }
        }
    }
}
