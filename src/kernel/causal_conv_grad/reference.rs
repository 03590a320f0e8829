//! The definition.

use super::{Args, PANEL};
use crate::kernel::causal_conv::MAX_WIDTH;

/// # Safety
/// The contract of [`Args`].
pub(super) unsafe fn run(args: &Args) {
    for c in 0..PANEL {
        let (mut dw, mut db) = ([0f64; MAX_WIDTH], 0f64);
        // SAFETY: channel c < 16 of tokens i < n, rows i + j < n + width − 1 and taps j < width.
        unsafe {
            for i in 0..args.n {
                let x = |j: usize| f64::from(*args.src.add((i + j) * PANEL + c));
                let mut z = if args.bias.is_null() { 0.0 } else { f64::from(*args.bias.add(c)) };
                for j in 0..args.width {
                    z += x(j) * f64::from(*args.weight.add(j * PANEL + c));
                }
                let sigmoid = 1.0 / (1.0 + (-z).exp());
                let slope = if args.silu { sigmoid * (1.0 + z * (1.0 - sigmoid)) } else { 1.0 };
                let dz = f64::from(*args.dout.add(i * PANEL + c)) * slope;
                *args.dz.add(i * PANEL + c) = dz as f32;
                db += dz;
                for (j, dw) in dw[..args.width].iter_mut().enumerate() {
                    *dw += dz * x(j);
                }
            }
            for (j, dw) in dw[..args.width].iter().enumerate() {
                *args.dw.add(j * PANEL + c) += *dw as f32;
            }
            *args.db.add(c) += db as f32;
        }
    }
}
