//! The definition.

use super::{Args, Function};

/// # Safety
/// The contract of [`Args`].
pub(super) unsafe fn run(args: &Args) {
    for l in 0..args.d {
        let (mut dbias, mut da) = (0f64, 0f64);
        // SAFETY: element l < d of rows i < n.
        unsafe {
            let [bias, pre, post] = [args.bias, args.pre, args.post].map(|p| f64::from(*p.add(l)));
            for i in 0..args.n {
                let dy = args.dy.add(i * args.ld + l);
                let (sum, given) = (f64::from(*args.x.add(i * args.ld + l)) + bias, f64::from(*dy) * post);
                let u = pre * sum;
                let e = (-u.abs()).exp();
                let dx = match args.function {
                    Function::Softplus => given * pre / (1.0 + (-u).exp()),
                    Function::Sigmoid => given * pre * e / (1.0 + e).powi(2),
                };
                da += match args.function {
                    // `f64::max` would turn NaN into 0.
                    Function::Softplus => given * ((if u <= 0.0 { 0.0 } else { u }) + e.ln_1p()),
                    Function::Sigmoid => dx * sum,
                };
                dbias += dx;
                *dy = dx as f32;
            }
            *args.dbias.add(l) += dbias as f32;
            *args.da.add(l) += da as f32;
        }
    }
}
