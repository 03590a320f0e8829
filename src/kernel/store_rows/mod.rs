//! Packed `f32` rows to a strided tensor of `f32`, `bf16` or `f16`: `dst[i][j] = src[i][j]`.
//!
//! * **Shapes.** `src [n][ld]`, of which `d` columns are stored; `dst [n, d]` at any strides (negative too).
//! * **Numerics.** Round to nearest, ties to even. `NaN` stays `NaN`, quiet. Beyond the type's range: `inf`. `f32` is
//!   copied bit by bit; denormal results of `f16` are made in any flush-to-zero mode.
//! * **Cost.** The bytes. Contiguous rows (`col_stride = 1`) go by whole vectors; others element by element.
//! * **Overrides.** `f16` on x86: `vcvtps2ph`, 8 or 16 elements at once. `bf16` and NEON's `f16` are plain loops that
//!   the compiler makes vector code of.

mod reference;
mod simd;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::kernel::{Kernel, Row, generic_rows};
use crate::simd::convert;
use crate::tensor::Element;
use half::{bf16, f16};
use pulp::Simd;
use std::marker::PhantomData;

/// One call.
///
/// `src` is readable for `n` rows of `d` elements, `ld ≥ d` apart; `dst + i·row_stride + j·col_stride` is writable for
/// `i < n`, `j < d` and doesn't overlap `src`. Where two elements are in one place, either may be what is left there.
#[derive(Clone, Copy, Debug)]
pub struct Args<E> {
    /// Rows.
    pub n: usize,
    /// Elements of a row.
    pub d: usize,
    /// The packed rows.
    pub src: *const f32,
    /// Elements from one packed row to the next.
    pub ld: usize,
    /// The tensor.
    pub dst: *mut E,
    /// Elements from one row to the next.
    pub row_stride: isize,
    /// Elements from one column to the next.
    pub col_stride: isize,
}

/// Types that rows can be stored to.
pub trait Target: Element {
    /// Name of the kernel.
    const NAME: &'static str;
    /// Its implementations.
    const ROWS: &'static [Row<Args<Self>>] = &generic_rows::<StoreRows<Self>>();

    /// The nearest value.
    fn narrow(x: f32) -> Self;
    /// The nearest value, by the definition.
    fn narrow_reference(x: f32) -> Self;
}

impl Target for f32 {
    const NAME: &'static str = "store_rows_f32";

    #[inline(always)]
    fn narrow(x: f32) -> f32 {
        x
    }
    fn narrow_reference(x: f32) -> f32 {
        x
    }
}

impl Target for bf16 {
    const NAME: &'static str = "store_rows_bf16";

    #[inline(always)]
    fn narrow(x: f32) -> bf16 {
        convert::f32_to_bf16(x)
    }
    fn narrow_reference(x: f32) -> bf16 {
        bf16::from_f32(x)
    }
}

impl Target for f16 {
    const NAME: &'static str = "store_rows_f16";
    #[cfg(target_arch = "x86_64")]
    const ROWS: &'static [Row<Args<f16>>] = &x86::ROWS;

    #[inline(always)]
    fn narrow(x: f32) -> f16 {
        convert::f32_to_f16(x)
    }
    fn narrow_reference(x: f32) -> f16 {
        f16::from_f32(x)
    }
}

/// The kernel for elements `E`.
pub struct StoreRows<E>(PhantomData<E>);

impl<E: Target> Kernel for StoreRows<E> {
    type Args = Args<E>;
    const NAME: &'static str = E::NAME;
    const ROWS: &'static [Row<Args<E>>] = E::ROWS;

    unsafe fn reference(args: &Args<E>) {
        // SAFETY: the contract is the same.
        unsafe { reference::run(args) }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(_: S, args: &Args<E>) {
        // SAFETY: the contract is the same.
        unsafe { simd::run(args) }
    }
}
