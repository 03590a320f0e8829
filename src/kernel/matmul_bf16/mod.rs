//! The matrix tile with `bf16` operands and `f32` sums.
//!
//! ```text
//! C[i, :] = post[i] · ( pre[i] · col ⊙ C0[i, :]  +  mid[i] · Σ_k A[i, k] B[k, :]  +  Σ_{j ≤ i} L[i, j] U[j, :] )
//! ```
//!
//! `A` is `[m, 2·pairs]` and `B` `[2·pairs, n]`, both in pairs along the product ([`crate::simd`]): `A` is rows of `bf16`
//! as they lie in memory, or pairs of its columns; a row of `B` is two rows zipped, as [`super::pair_rows`] makes them.
//! The other operands are `f32`, as in [`super::matmul`]. Optionally `C` is also written as such pairs, `[⌈m/2⌉, n]`: a
//! state is the next chunk's `B`.
//!
//! Factors of rows stand outside the sum (`mid`), so that rows that were `bf16` to begin with are multiplied as they are.
//!
//! *Aliasing*: `C0` may be `C` itself (same pointer, same stride); nothing else may overlap.
//! *Numerics*: products of `bf16` are exact in `f32`; sums are `f32`, in index order of pairs, two roundings to a pair,
//! whose order is the instruction set's. They start from `C0`, or if there is `mid`, that and `C0` come after them; then `L`. Denormals may count as zero. A column's bits do not depend on
//! `n` nor on the columns beside it. NaN in a row of `A` stays in its row of `C`.
//! *Cost*: `4·m·n·pairs` FLOPs.
//!
//! **Blocking** as in [`super::matmul`]. `vdpbf16ps` has twice the throughput of a fused multiply-add on Zen 4.

mod reference;
mod simd;

use super::Kernel;
#[cfg(target_arch = "x86_64")]
use super::Row;
#[cfg(target_arch = "x86_64")]
use crate::simd::bf16::Pairs;
use crate::simd::bf16::Widened;
use pulp::Simd;

/// Operands of one call. Strides are in elements (pairs, where operands are pairs). `n` rounded up to 16 columns of `b`,
/// `u`, `c0` and `col` must be readable; exactly `n` columns of `c` are written.
#[derive(Clone, Copy)]
pub struct Args {
    /// Rows of `C`.
    pub m: usize,
    /// Columns of `C`.
    pub n: usize,
    /// Half the length of the product.
    pub pairs: usize,
    /// `A`.
    pub a: *const u32,
    /// Elements between rows of `A`, or between its columns if `a_by_columns`.
    pub lda: usize,
    /// Pair `k` of row `i` is `a[k * lda + i]` instead of `a[i * lda + k]`.
    pub a_by_columns: bool,
    /// `B`.
    pub b: *const u32,
    /// Elements between rows of `B`.
    pub ldb: usize,
    /// Factor of each row of the product; null: 1.
    pub mid: *const f32,
    /// `C`.
    pub c: *mut f32,
    /// Elements between rows of `C`.
    pub ldc: isize,
    /// `C0`; null: zero.
    pub c0: *const f32,
    /// Elements between rows of `C0`.
    pub ldc0: isize,
    /// Factor of each row of `C0`; null: 1.
    pub pre: *const f32,
    /// Factor of each column of `C0`; null: 1.
    pub col: *const f32,
    /// `L`; null: no triangular part. Zeros above its diagonal.
    pub l: *const f32,
    /// Elements between rows of `L`.
    pub ldl: usize,
    /// `U`.
    pub u: *const f32,
    /// Elements between rows of `U`.
    pub ldu: usize,
    /// Factor of each row of the result; null: 1.
    pub post: *const f32,
    /// Pairs of rows of `C`, of which `n` then is a multiple of 16; null: not wanted. The partner of an odd last row
    /// is zero.
    pub packed: *mut u32,
    /// Elements between its rows.
    pub ldp: usize,
}

impl Args {
    /// A plain product into `c`, without any of the optional parts.
    pub fn product(m: usize, n: usize, pairs: usize, c: *mut f32, ldc: isize) -> Args {
        Args {
            m,
            n,
            pairs,
            a: std::ptr::null(),
            lda: 0,
            a_by_columns: false,
            b: std::ptr::null(),
            ldb: 0,
            mid: std::ptr::null(),
            c,
            ldc,
            c0: std::ptr::null(),
            ldc0: 0,
            pre: std::ptr::null(),
            col: std::ptr::null(),
            l: std::ptr::null(),
            ldl: 0,
            u: std::ptr::null(),
            ldu: 0,
            post: std::ptr::null(),
            packed: std::ptr::null_mut(),
            ldp: 0,
        }
    }
}

/// The matrix tile with `bf16` operands.
pub struct MatmulBf16;

impl Kernel for MatmulBf16 {
    type Args = Args;
    const NAME: &'static str = "matmul_bf16";
    #[cfg(target_arch = "x86_64")]
    const ROWS: &'static [Row<Args>] = &super::pairs::rows::<MatmulBf16>();

    unsafe fn reference(args: &Args) {
        // SAFETY: the caller's contract.
        unsafe { reference::matmul(args) }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(simd: S, args: &Args) {
        // SAFETY: the caller's contract.
        unsafe { simd::matmul::<S, Widened>(simd, args) }
    }
}

#[cfg(target_arch = "x86_64")]
impl super::pairs::PairKernel for MatmulBf16 {
    #[inline(always)]
    unsafe fn pairs<S: Simd, P: Pairs<S>>(simd: S, args: &Args) {
        // SAFETY: the caller's contract.
        unsafe { simd::matmul::<S, P>(simd, args) }
    }
}
