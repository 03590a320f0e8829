//! The definition.

use super::{Activation, Args};

/// # Safety
/// The contract of [`Args`].
pub(super) unsafe fn run(args: &Args) {
    for i in 0..args.n {
        let mut sum = 0.0;
        for p in 0..args.n_pieces {
            for e in 0..args.piece_len {
                // SAFETY: element e of piece p of row i.
                let y = f64::from(unsafe { *args.y.offset(at(i, args.ld, p, args.piece_stride, e)) });
                sum += y * y;
            }
        }
        let mean = sum / (args.n_pieces * args.piece_len) as f64;
        let root = (mean + f64::from(args.eps)).sqrt();
        for p in 0..args.n_pieces {
            for e in 0..args.piece_len {
                // SAFETY: element e of piece p of row i, its weight and its gate.
                unsafe {
                    let y = args.y.offset(at(i, args.ld, p, args.piece_stride, e));
                    let mut o = f64::from(*y) / root;
                    if !args.weight.is_null() {
                        o *= f64::from(*args.weight.add(p * args.piece_len + e));
                    }
                    if !args.gate.is_null() {
                        let g = args.gate.offset(at(i, args.gate_ld, p, args.gate_piece_stride, e));
                        let g = f64::from(*g);
                        let sigmoid = 1.0 / (1.0 + (-g).exp());
                        o *= match args.activation {
                            Activation::Silu => g * sigmoid,
                            Activation::Sigmoid => sigmoid,
                        };
                    }
                    *y = o as f32;
                }
            }
        }
    }
}

/// Offset of element `e` of piece `p` of row `i`.
fn at(i: usize, ld: isize, p: usize, piece_stride: isize, e: usize) -> isize {
    i as isize * ld + p as isize * piece_stride + e as isize
}
