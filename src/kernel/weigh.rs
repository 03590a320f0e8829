//! Weighted sums of rows for few queries: the values of a decode step.
//!
//! ```text
//! C[i, :] = pre[i] · C[i, :]  +  Σ_j A[j, i] B[j, :]
//! ```
//!
//! *Shapes*: `A` is `[n, m]`, `B` `[n, e]`, `C` `[m, e]`; columns up to `e` rounded up to 16 are read and written. They don't
//! overlap. *Numerics*: fused multiply-add in index order of the rows of `B`, one sum per element, whatever stands beside
//! it. NaN in a row of `B` reaches every row of `C`. *Cost*: `2·m·n·e` FLOPs.
//!
//! [`super::matmul`] does the same product; here `B` is new from memory in every call, and its rows are long and few
//! weights go with each. So a strip is wide, as few passes over `B` as the registers allow: 4 rows by 4 vectors
//! where there are 32 registers, by 2 where there are 16, and a single row by 8, whose sums else would wait for each other.
//! With each vector of `B` the one `ahead` bytes further is asked for. Measured on a Zen 4 core that reads memory at 22 to 27 GB/s,
//! one query of 32 heads on 8 key heads and a cache of 32 k keys: 0.54 ms per head; 0.66 to 0.84 where 4 rows of keys and of values
//! were asked for at once before 4 keys' scores, 1.15 where it was 16.

use super::Kernel;
use crate::simd::mem::{load, store};
use crate::simd::prefetch;
use pulp::Simd;

/// One call. Strides are in elements.
#[derive(Clone, Copy, Debug)]
pub struct Args {
    /// Rows of `C`.
    pub m: usize,
    /// Rows of `B`.
    pub n: usize,
    /// Columns.
    pub e: usize,
    /// `A`.
    pub a: *const f32,
    /// Elements between rows of `A`.
    pub lda: usize,
    /// `B`.
    pub b: *const f32,
    /// Elements between rows of `B`.
    pub ldb: usize,
    /// Bytes from what is read of `B` to what a later call reads; 0: not known.
    pub ahead: isize,
    /// `C`.
    pub c: *mut f32,
    /// Elements between rows of `C`.
    pub ldc: usize,
    /// `C` is zero before: it is not read.
    pub first: bool,
    /// Factor of each row of `C`; null: 1.
    pub pre: *const f32,
}

/// The kernel.
pub struct Weigh;

impl Kernel for Weigh {
    type Args = Args;
    const NAME: &'static str = "weigh_f32";

    unsafe fn reference(t: &Args) {
        for i in 0..t.m {
            for c in 0..t.e.next_multiple_of(16) {
                // SAFETY: i < m, j < n, c below e rounded up.
                unsafe {
                    let to = t.c.add(i * t.ldc + c);
                    let pre = if t.pre.is_null() { 1.0 } else { f64::from(*t.pre.add(i)) };
                    let before = if t.first { 0.0 } else { pre * f64::from(*to) };
                    let product =
                        |j: usize| f64::from(*t.a.add(j * t.lda + i)) * f64::from(*t.b.add(j * t.ldb + c));
                    *to = (before + (0..t.n).map(product).sum::<f64>()) as f32;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(simd: S, t: &Args) {
        // SAFETY: the caller's contract, handed on.
        unsafe { if t.ahead == 0 { rows::<S, false>(simd, t) } else { rows::<S, true>(simd, t) } }
    }
}

/// # Safety
/// The contract of [`Args`].
#[inline(always)]
unsafe fn rows<S: Simd, const AHEAD: bool>(simd: S, t: &Args) {
    let mut i = 0;
    // SAFETY: the caller's contract; blocks stay inside `m`. One pass over `B` asks for what comes next.
    unsafe {
        while i + 4 <= t.m {
            match (S::F32_LANES, AHEAD && i == 0) {
                (8, true) => strips::<S, 4, 2, true>(simd, t, i),
                (8, false) => strips::<S, 4, 2, false>(simd, t, i),
                (_, true) => strips::<S, 4, 4, true>(simd, t, i),
                (_, false) => strips::<S, 4, 4, false>(simd, t, i),
            }
            i += 4;
        }
        while i < t.m {
            match AHEAD && i == 0 {
                true => strips::<S, 1, 8, true>(simd, t, i),
                false => strips::<S, 1, 8, false>(simd, t, i),
            }
            i += 1;
        }
    }
}

/// `MR` rows, all columns.
///
/// # Safety
/// The contract of [`Args`], `i + MR ≤ m`.
#[inline(always)]
unsafe fn strips<S: Simd, const MR: usize, const NR: usize, const AHEAD: bool>(simd: S, t: &Args, i: usize) {
    let (mut j, e) = (0, t.e.next_multiple_of(16));
    // SAFETY: the caller's contract; strips stay inside the columns, of which there are whole vectors.
    unsafe {
        while j + NR * S::F32_LANES <= e {
            block::<S, MR, NR, AHEAD>(simd, t, i, j);
            j += NR * S::F32_LANES;
        }
        while j < e {
            block::<S, MR, 1, AHEAD>(simd, t, i, j);
            j += S::F32_LANES;
        }
    }
}

/// `MR` rows by `NR` vectors.
///
/// # Safety
/// The contract of [`Args`], `i + MR ≤ m`, `j + NR` vectors within the columns.
#[inline(always)]
unsafe fn block<S: Simd, const MR: usize, const NR: usize, const AHEAD: bool>(
    simd: S,
    t: &Args,
    i: usize,
    j: usize,
) {
    let mut sum = [[simd.splat_f32s(0.0); NR]; MR];
    // SAFETY: rows below `m` and `n`, columns of these vectors.
    unsafe {
        let to = |r: usize, v: usize| t.c.add((i + r) * t.ldc + j + v * S::F32_LANES);
        if !t.first {
            for (r, sum) in sum.iter_mut().enumerate() {
                let pre = simd.splat_f32s(if t.pre.is_null() { 1.0 } else { *t.pre.add(i + r) });
                for (v, sum) in sum.iter_mut().enumerate() {
                    *sum = simd.mul_f32s(pre, load(simd, to(r, v)));
                }
            }
        }
        let (mut a, mut b) = (t.a.wrapping_add(i), t.b.wrapping_add(j));
        for _ in 0..t.n {
            let mut row = [simd.splat_f32s(0.0); NR];
            for (v, row) in row.iter_mut().enumerate() {
                let at = b.add(v * S::F32_LANES);
                *row = load(simd, at);
                if AHEAD && (v * S::F32_LANES).is_multiple_of(16) {
                    prefetch(at.cast::<u8>().wrapping_offset(t.ahead), 1);
                }
            }
            for (r, sum) in sum.iter_mut().enumerate() {
                let weight = simd.splat_f32s(*a.add(r));
                for (sum, &row) in sum.iter_mut().zip(&row) {
                    *sum = simd.mul_add_f32s(weight, row, *sum);
                }
            }
            (a, b) = (a.wrapping_add(t.lda), b.wrapping_add(t.ldb));
        }
        for (r, sum) in sum.iter().enumerate() {
            for (v, &sum) in sum.iter().enumerate() {
                store(simd, to(r, v), sum);
            }
        }
    }
}
