//! The matrix tile: a small product on packed or strided operands, with what the engines need around it.
//!
//! ```text
//! C[i, :] = post[i] · ( pre[i] · col ⊙ C0[i, :]  +  Σ_k A[i, k] B[k, :]
//!                       +  Σ_{j ≤ i} L[i, j] U[j, :]  +  Σ_{j ≤ i} L₂[i, j] U₂[j, :] )
//! ```
//!
//! `A` is `[m, k]`, `B` is `[k, n]`, `C` is `[m, n]`, `L` and `L₂` are `[m, m]`, `U` and `U₂` are `[m, n]`. Each part but the
//! product is optional. With it one call does a chunk's output (`Q S + tril(A) U`), its residual
//! (`X − e S`, the sign in `A`), its rank-C state update (`P S + Kᵀ U`, `A` read by columns) or its scores.
//!
//! *Aliasing*: `C0` may be `C` itself (same pointer, same stride); nothing else may overlap `C`.
//! *Numerics*: products are accumulated by fused multiply-add in `f32`, in index order of `k`, then of
//! `j` in `L`, then in `L₂`; a column's bits do not depend on `n` nor on the columns beside it. `L` must hold zeros above its
//! diagonal: blocks of rows multiply some of them, so a NaN in `U` can reach rows before it.
//! *Cost*: `2·m·n·k` FLOPs; `B` is read `⌈m / MR⌉` times.
//!
//! **Blocking.** `MR × NR` accumulators of one vector each. Measured figures and what lost: see `simd.rs`.

mod reference;
mod simd;

use super::Kernel;
use pulp::Simd;

/// Operands of one call. Strides are in elements. `n` rounded up to 16 columns of `b`, `u`, `c0` and `col`
/// must be readable; exactly `n` columns of `c` are written.
#[derive(Clone, Copy)]
pub struct Args {
    /// Rows of `C`.
    pub m: usize,
    /// Columns of `C`.
    pub n: usize,
    /// Length of the product.
    pub k: usize,
    /// `A`.
    pub a: *const f32,
    /// Elements between rows of `A`, or between its columns if `a_by_columns`.
    pub lda: usize,
    /// `A[i, k]` is `a[k * lda + i]` instead of `a[i * lda + k]`.
    pub a_by_columns: bool,
    /// `B`.
    pub b: *const f32,
    /// Elements between rows of `B`.
    pub ldb: usize,
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
    /// `L`; null: no triangular part.
    pub l: *const f32,
    /// Elements between rows of `L`.
    pub ldl: usize,
    /// `U`.
    pub u: *const f32,
    /// Elements between rows of `U`.
    pub ldu: usize,
    /// `L₂`, its rows as far apart as those of `L`; null: no second triangular part.
    pub l2: *const f32,
    /// `U₂`, its rows as far apart as those of `U`.
    pub u2: *const f32,
    /// Factor of each row of the result; null: 1.
    pub post: *const f32,
}

impl Args {
    /// A plain product into `c`, without any of the optional parts.
    pub fn product(m: usize, n: usize, k: usize, c: *mut f32, ldc: isize) -> Args {
        Args {
            m,
            n,
            k,
            a: std::ptr::null(),
            lda: 0,
            a_by_columns: false,
            b: std::ptr::null(),
            ldb: 0,
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
            l2: std::ptr::null(),
            u2: std::ptr::null(),
            post: std::ptr::null(),
        }
    }
}

/// The matrix tile in `f32`.
pub struct Matmul;

impl Kernel for Matmul {
    type Args = Args;
    const NAME: &'static str = "matmul_f32";

    unsafe fn reference(args: &Args) {
        // SAFETY: the caller's contract.
        unsafe { reference::matmul(args) }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(simd: S, args: &Args) {
        // SAFETY: the caller's contract.
        unsafe { simd::matmul(simd, args) }
    }
}

pub(super) use simd::matmul as matmul_body;
