//! Functions of single elements: `dst[i] = f(src[i])`. One of two: [`Product`], `dst[i] = src[i] · dst[i]`.
//!
//! * **Shapes.** `n` contiguous elements, any alignment; `dst` may be `src`, otherwise they don't overlap.
//! * **Functions.** `exp`, `log`, `tanh`, `sigmoid`, `silu`, `softplus`, `rsqrt`, `sin`, `cos`, and the feature maps
//!   of linear attention: `elu1` (`x + 1` if `x > 0`, else `eˣ`), `elu1_neg` (`elu1(−x)`), `tanh1` (`tanh x + 1`),
//!   `relu`, `relu2` (`max(x, 0)²`).
//! * **Numerics.** Errors in ULP and the values at `±inf` are those of [`crate::simd::math`]; `tanh1` is computed as
//!   `2 sigmoid(2x)`. `NaN` gives `NaN`, `relu` too. Denormal results may be zero.
//! * **Cost.** 8 bytes and 2 to 39 vector operations per element. On a Zen 4 core at 3.7 GHz, elements per ns in L1,
//!   AVX2 and AVX-512: `exp` 4.4, 5.5; `sigmoid` 3.2, 4.2; `silu` 2.7, 4.2; `elu1` 3.4, 5.0; `log` 1.7, 3.1; `tanh` 1.4,
//!   2.6; `softplus` 1.3, 2.1; `sin` 1.8, 2.7; `rsqrt` 3.7, 3.7. Two vectors at a time beats one by 10 % for `exp` on
//!   AVX2 and by 0 to 12 % elsewhere (alternating runs of both). `exp` is at the limit of the multiply-add units; the
//!   long functions wait for their chains of dependent operations.

mod functions;
mod product;
mod reference;
mod simd;

use crate::kernel::Kernel;
pub use functions::*;
pub use product::Product;
use pulp::Simd;
use std::marker::PhantomData;

/// One call: `n` elements of `src` to `dst`.
///
/// `src` is valid for reading and `dst` for writing `n` elements; they are equal or don't overlap.
#[derive(Clone, Copy, Debug)]
pub struct Args {
    /// Number of elements.
    pub n: usize,
    /// Arguments.
    pub src: *const f32,
    /// Results.
    pub dst: *mut f32,
}

/// A function of one element.
pub trait Function: 'static {
    /// Name of its kernel.
    const NAME: &'static str;

    /// The definition.
    fn scalar(x: f64) -> f64;

    /// The same of a vector. Must be `#[inline(always)]`.
    fn vector<S: Simd>(s: S, x: S::f32s) -> S::f32s;
}

/// The kernel of `F`.
pub struct Elementwise<F>(PhantomData<F>);

impl<F: Function> Kernel for Elementwise<F> {
    type Args = Args;
    const NAME: &'static str = F::NAME;

    unsafe fn reference(args: &Args) {
        // SAFETY: the contract is the same.
        unsafe { reference::run::<F>(args) }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(s: S, args: &Args) {
        // SAFETY: the contract is the same.
        unsafe { simd::run::<S, F>(s, args) }
    }
}
