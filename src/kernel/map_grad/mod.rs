//! Derivatives of the elementwise feature maps: `dy[i] ← dy[i] · f′(x[i])`.
//!
//! * **Shapes.** `n` contiguous elements; `dy` is updated in place and does not overlap `x`.
//! * **Maps.** Those of [`super::elementwise`]: `elu1` 1 or `eˣ`; `elu1_neg` −1 or `−e⁻ˣ`; `tanh1`
//!   `1 − tanh² x = 4 σ(2x) σ(−2x)`; `relu` `[x > 0]`; `relu2` `2 max(x, 0)`; `silu` `σ(x) (1 + x σ(−x))`.
//! * **Numerics.** A few roundings of the terms; `silu` cancels near `x = −1.28`, where it is 0. At a kink the slope is
//!   that of the left.
//! * **Cost.** 12 bytes and 2 to 40 vector operations per element.

mod functions;

use crate::kernel::Kernel;
use crate::kernel::elementwise::Function;
use crate::simd::mem::{Head, load, store};
pub use functions::*;
use pulp::Simd;
use std::marker::PhantomData;

/// One call: `n` elements.
///
/// `x` is valid for reading and `dy` for reading and writing `n` elements; they don't overlap.
#[derive(Clone, Copy, Debug)]
pub struct Args {
    /// Number of elements.
    pub n: usize,
    /// Arguments of the map.
    pub x: *const f32,
    /// Gradients of its results, then of its arguments.
    pub dy: *mut f32,
}

/// The kernel for the map whose derivative is `F`.
pub struct MapGrad<F>(PhantomData<F>);

impl<F: Function> Kernel for MapGrad<F> {
    type Args = Args;
    const NAME: &'static str = F::NAME;

    unsafe fn reference(t: &Args) {
        for i in 0..t.n {
            // SAFETY: i < n.
            unsafe {
                let slope = F::scalar(f64::from(*t.x.add(i)));
                *t.dy.add(i) = (f64::from(*t.dy.add(i)) * slope) as f32;
            }
        }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(s: S, t: &Args) {
        let mut i = 0;
        while i + S::F32_LANES <= t.n {
            // SAFETY: i + LANES ≤ n.
            unsafe {
                let slope = F::vector(s, load(s, t.x.add(i)));
                store(s, t.dy.add(i), s.mul_f32s(load(s, t.dy.add(i)), slope));
            }
            i += S::F32_LANES;
        }
        if i < t.n {
            let head = Head::new(s, t.n - i);
            // SAFETY: the mask covers the n − i elements that are left.
            unsafe {
                let slope = F::vector(s, head.load(s, t.x.add(i)));
                head.store(s, t.dy.add(i), s.mul_f32s(head.load(s, t.dy.add(i)), slope));
            }
        }
    }
}
