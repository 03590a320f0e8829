//! Sine and cosine of the same elements: `sin[i] = sin(src[i])`, `cos[i] = cos(src[i])`.
//!
//! * **Shapes.** `n` contiguous elements each, any alignment; none of the three overlap.
//! * **Numerics.** Those of [`crate::simd::math::sincos`]; `NaN` and `±inf` give `NaN`.
//! * **Cost.** 12 bytes and 39 vector operations per element: half of what `elementwise` takes for both.

mod reference;
mod simd;

use crate::kernel::Kernel;
use pulp::Simd;

/// One call.
///
/// `src` is valid for reading, `sin` and `cos` for writing `n` elements; none overlap.
#[derive(Clone, Copy, Debug)]
pub struct Args {
    /// Number of elements.
    pub n: usize,
    /// Arguments.
    pub src: *const f32,
    /// Sines.
    pub sin: *mut f32,
    /// Cosines.
    pub cos: *mut f32,
}

/// The kernel.
pub struct SinCos;

impl Kernel for SinCos {
    type Args = Args;
    const NAME: &'static str = "sincos_f32";

    unsafe fn reference(args: &Args) {
        // SAFETY: the contract is the same.
        unsafe { reference::run(args) }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(s: S, args: &Args) {
        // SAFETY: the contract is the same.
        unsafe { simd::run(s, args) }
    }
}
