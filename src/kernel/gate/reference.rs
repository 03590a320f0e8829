//! The definition.

use super::{Args, Function};

/// # Safety
/// The contract of [`Args`].
pub(super) unsafe fn run(args: &Args) {
    for i in 0..args.n {
        for l in 0..args.d {
            // SAFETY: element l < d of row i < n.
            unsafe {
                let x = args.x.add(i * args.ld + l);
                let u = f64::from(*args.pre.add(l)) * (f64::from(*x) + f64::from(*args.bias.add(l)));
                *x = (f64::from(*args.post.add(l)) * function(args.function, u)) as f32;
            }
        }
    }
}

/// `f64::max` would turn NaN into 0.
pub(crate) fn function(function: Function, u: f64) -> f64 {
    match function {
        Function::Softplus => (if u <= 0.0 { 0.0 } else { u }) + (-u.abs()).exp().ln_1p(),
        Function::Sigmoid => 1.0 / (1.0 + (-u).exp()),
    }
}
