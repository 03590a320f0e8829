//! Sums of the elementwise product of two blocks, along their rows, their columns, or both.
//!
//! ```text
//! row[i] += Σ_j A[i, j] B[i, j]          col[j] += Σ_i A[i, j] B[i, j]
//! ```
//!
//! *Shapes*: `A` and `B` are `[n, d]`, `d` rounded up to 16 columns of which must exist, and be zero in one of them.
//! Without `B` the sums are those of `A`. *Aliasing*: sums overlap nothing. *Numerics*: fused multiply-add; a row is
//! summed in two vectors of lanes, a column in order of rows. *Cost*: `2·n·d` FLOPs for each kind of sum.

pub mod lanes;

use super::Kernel;
use crate::simd::mem::{load, store};
use pulp::Simd;

/// Operands of one call.
#[derive(Clone, Copy)]
pub struct Args {
    /// Rows.
    pub n: usize,
    /// Columns.
    pub d: usize,
    /// `A`.
    pub a: *const f32,
    /// Elements between rows of `A`.
    pub lda: usize,
    /// `B`; null: all 1.
    pub b: *const f32,
    /// Elements between rows of `B`.
    pub ldb: usize,
    /// Sums of rows, `[n]`; null: not wanted.
    pub row: *mut f32,
    /// Sums of columns, `[d]` rounded up to 16; null: not wanted.
    pub col: *mut f32,
}

/// Sums of elementwise products in `f32`.
pub struct Products;

impl Kernel for Products {
    type Args = Args;
    const NAME: &'static str = "products_f32";

    unsafe fn reference(t: &Args) {
        let columns = t.d.next_multiple_of(16);
        // SAFETY: `i < n`, `j` is below `d` rounded up.
        unsafe {
            let at = |i: usize, j: usize| {
                let b = if t.b.is_null() { 1.0 } else { f64::from(*t.b.add(i * t.ldb + j)) };
                f64::from(*t.a.add(i * t.lda + j)) * b
            };
            for i in 0..if t.row.is_null() { 0 } else { t.n } {
                let sum: f64 = (0..columns).map(|j| at(i, j)).sum();
                *t.row.add(i) = (f64::from(*t.row.add(i)) + sum) as f32;
            }
            for j in 0..if t.col.is_null() { 0 } else { columns } {
                let sum: f64 = (0..t.n).map(|i| at(i, j)).sum();
                *t.col.add(j) = (f64::from(*t.col.add(j)) + sum) as f32;
            }
        }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(simd: S, t: &Args) {
        let (columns, one) = (t.d.next_multiple_of(16), simd.splat_f32s(1.0));
        // SAFETY: a vector never leaves the 16-column group it starts in, and rows have those columns.
        unsafe {
            let b = |i: usize, j: usize| {
                if t.b.is_null() { one } else { load(simd, t.b.add(i * t.ldb + j)) }
            };
            for i in 0..if t.row.is_null() { 0 } else { t.n } {
                let mut sum = [simd.splat_f32s(0.0); 2];
                for (turn, j) in (0..columns).step_by(S::F32_LANES).enumerate() {
                    let a = load(simd, t.a.add(i * t.lda + j));
                    sum[turn % 2] = simd.mul_add_f32s(a, b(i, j), sum[turn % 2]);
                }
                *t.row.add(i) += simd.reduce_sum_f32s(simd.add_f32s(sum[0], sum[1]));
            }
            for j in (0..if t.col.is_null() { 0 } else { columns }).step_by(S::F32_LANES) {
                let mut sum = load(simd, t.col.add(j));
                for i in 0..t.n {
                    sum = simd.mul_add_f32s(load(simd, t.a.add(i * t.lda + j)), b(i, j), sum);
                }
                store(simd, t.col.add(j), sum);
            }
        }
    }
}
