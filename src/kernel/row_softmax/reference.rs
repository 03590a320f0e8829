//! The definition.

use super::Args;

/// # Safety
/// The contract of [`Args`].
pub(super) unsafe fn run(args: &Args) {
    for i in 0..args.n {
        // SAFETY: row i of n, d elements; rows don't overlap.
        let row = unsafe { std::slice::from_raw_parts_mut(args.x.add(i * args.ld), args.d) };
        // `max` skips NaN; the sum doesn't.
        let max = row.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
        let sum: f64 = row.iter().map(|&x| (f64::from(x) - max).exp()).sum();
        for x in row {
            *x = ((f64::from(*x) - max).exp() / sum) as f32;
        }
    }
}
