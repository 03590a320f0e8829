//! Rows of a strided tensor of `f32`, `bf16` or `f16`, to packed `f32`: `dst[i][j] = src[i][j] · row_scale[i] · scale`.
//!
//! * **Shapes.** `src [n, d]` at any strides (0 and negative too); `dst [n][ld]`, columns `d..ld` are set to zero.
//! * **Numerics.** The conversion is exact; one rounding for the product of the two factors and one for the result,
//!   none where both are 1. `NaN` stays `NaN`. Half-precision denormals are kept in any flush-to-zero mode.
//! * **Cost.** The bytes. Contiguous rows (`col_stride = 1`) go by whole vectors; others element by element.
//! * **Overrides.** `f16` on x86: `vcvtph2ps`, 8 or 16 elements at once. `bf16` on AVX-512: 16 at once, where the compiler
//!   takes more for a panel of 32 columns than for a row of 128. The rest are plain loops that it makes vector code of.

mod reference;
mod simd;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::kernel::{Kernel, Row, generic_rows};
use crate::simd::{convert, mem, wide};
use crate::tensor::Element;
use half::{bf16, f16};
use pulp::Simd;
use std::marker::PhantomData;

/// One call.
///
/// `src + i·row_stride + j·col_stride` is readable for `i < n`, `j < d`; `dst` is valid for writing `n·ld` elements
/// and overlaps nothing else; `row_scale`, unless it is null, is readable at `i·row_scale_stride`. `ld ≥ d`.
#[derive(Clone, Copy, Debug)]
pub struct Args<E> {
    /// Rows.
    pub n: usize,
    /// Elements of a row.
    pub d: usize,
    /// The tensor.
    pub src: *const E,
    /// Elements from one row to the next.
    pub row_stride: isize,
    /// Elements from one column to the next.
    pub col_stride: isize,
    /// A factor for each row, or null.
    pub row_scale: *const f32,
    /// Elements from one of these factors to the next.
    pub row_scale_stride: isize,
    /// A factor for all.
    pub scale: f32,
    /// The packed rows.
    pub dst: *mut f32,
    /// Elements from one packed row to the next.
    pub ld: usize,
}

impl<E> Args<E> {
    /// The factor of row `i`.
    ///
    /// # Safety
    /// There is such a row.
    #[inline(always)]
    unsafe fn factor(&self, i: usize) -> f32 {
        if self.row_scale.is_null() {
            return self.scale;
        }
        // SAFETY: by contract.
        self.scale * unsafe { *self.row_scale.offset(i as isize * self.row_scale_stride) }
    }
}

/// Types that rows can be loaded from.
pub trait Source: Element {
    /// Name of the kernel.
    const NAME: &'static str;
    /// Its implementations.
    const ROWS: &'static [Row<Args<Self>>] = &generic_rows::<LoadRows<Self>>();

    /// The value.
    fn widen(self) -> f32;

    /// A vector of values.
    ///
    /// # Safety
    /// As many elements as it has lanes are readable.
    unsafe fn vector<S: Simd>(simd: S, p: *const Self) -> S::f32s;

    /// The first `n` lanes of a vector, zero in the others.
    ///
    /// # Safety
    /// As many elements are readable.
    #[inline(always)]
    unsafe fn head<S: Simd>(simd: S, n: usize, p: *const Self) -> S::f32s {
        // SAFETY: by contract.
        wide::one_by_one(simd, n, |i| unsafe { *p.add(i) }.widen())
    }
}

impl Source for f32 {
    const NAME: &'static str = "load_rows_f32";

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    unsafe fn vector<S: Simd>(simd: S, p: *const f32) -> S::f32s {
        // SAFETY: by contract.
        unsafe { mem::load(simd, p) }
    }

    #[inline(always)]
    unsafe fn head<S: Simd>(simd: S, n: usize, p: *const f32) -> S::f32s {
        // SAFETY: by contract.
        unsafe { mem::Head::new(simd, n).load(simd, p) }
    }
}

impl Source for bf16 {
    const NAME: &'static str = "load_rows_bf16";
    #[cfg(target_arch = "x86_64")]
    const ROWS: &'static [Row<Args<bf16>>] = &x86::BF16_ROWS;

    #[inline(always)]
    fn widen(self) -> f32 {
        convert::bf16_to_f32(self)
    }

    #[inline(always)]
    unsafe fn vector<S: Simd>(simd: S, p: *const bf16) -> S::f32s {
        // SAFETY: by contract.
        unsafe { wide::from_bf16(simd, p) }
    }
}

impl Source for f16 {
    const NAME: &'static str = "load_rows_f16";
    #[cfg(target_arch = "x86_64")]
    const ROWS: &'static [Row<Args<f16>>] = &x86::F16_ROWS;

    #[inline(always)]
    fn widen(self) -> f32 {
        convert::f16_to_f32(self)
    }

    #[inline(always)]
    unsafe fn vector<S: Simd>(simd: S, p: *const f16) -> S::f32s {
        // SAFETY: by contract.
        unsafe { wide::from_f16(simd, p) }
    }
}

/// The kernel for elements `E`.
pub struct LoadRows<E>(PhantomData<E>);

impl<E: Source> Kernel for LoadRows<E> {
    type Args = Args<E>;
    const NAME: &'static str = E::NAME;
    const ROWS: &'static [Row<Args<E>>] = E::ROWS;

    unsafe fn reference(args: &Args<E>) {
        // SAFETY: the contract is the same.
        unsafe { reference::run(args) }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(s: S, args: &Args<E>) {
        // SAFETY: the contract is the same.
        unsafe { simd::run(s, args) }
    }
}
