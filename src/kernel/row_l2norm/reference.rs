//! The definition.

use super::{Args, Mode};

/// # Safety
/// The contract of [`Args`].
pub(super) unsafe fn run(args: &Args) {
    let eps = f64::from(args.eps);
    for i in 0..args.n {
        // SAFETY: row i of n, d elements; rows don't overlap.
        let row = unsafe { std::slice::from_raw_parts_mut(args.x.add(i * args.ld), args.d) };
        let sum: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let norm = sum.sqrt();
        let divisor = match args.mode {
            Mode::SquareAdd => (sum + eps).sqrt(),
            // Not `max`, which would hide a NaN.
            Mode::Floor => {
                if norm < eps {
                    eps
                } else {
                    norm
                }
            }
            Mode::Add => norm + eps,
        };
        for x in row {
            *x = (f64::from(*x) / divisor * f64::from(args.scale)) as f32;
        }
    }
}
