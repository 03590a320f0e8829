//! Scores of few queries: the product of two matrices that both are read by rows, transposed.
//!
//! ```text
//! C[j, i] = Σ_k A[i, k] B[j, k]
//! ```
//!
//! *Shapes*: `A` is `[m, k]`, its rows readable to a multiple of 16 and zero there; `B` is `[n, k]`, read exactly; `C` is
//! `[n, m]`. They don't overlap. *Numerics*: fused multiply-add, one vector of lanes per sum, then across lanes. *Cost*:
//! `2·m·n·k` FLOPs and a reduction per sum (16, or 8 with AVX2, at
//! once: a tile of 64 keys and 4 queries of 128 elements takes a quarter less time than with one after the other, with AVX2 two fifths), `B` is read once for every 4 queries, from L1 after the first; with each of its
//! vectors the one `ahead` bytes further is asked for. Where there are queries enough for a
//! vector of them, [`super::matmul`] on transposed queries does without the reductions.

use super::Kernel;
use crate::simd::mem::{Head, load};
use crate::simd::{prefetch, reduce};
use pulp::Simd;

/// One call. Strides are in elements.
#[derive(Clone, Copy, Debug)]
pub struct Args {
    /// Rows of `A`.
    pub m: usize,
    /// Rows of `B`.
    pub n: usize,
    /// Length of a row.
    pub k: usize,
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
}

/// The kernel.
pub struct Dots;

impl Kernel for Dots {
    type Args = Args;
    const NAME: &'static str = "dots_f32";

    unsafe fn reference(t: &Args) {
        for j in 0..t.n {
            for i in 0..t.m {
                // SAFETY: i < m, j < n, p < k.
                unsafe {
                    let product =
                        |p: usize| f64::from(*t.a.add(i * t.lda + p)) * f64::from(*t.b.add(j * t.ldb + p));
                    *t.c.add(j * t.ldc + i) = (0..t.k).map(product).sum::<f64>() as f32;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(simd: S, t: &Args) {
        let mut j = 0;
        // SAFETY: the caller's contract; blocks stay inside m and n.
        unsafe {
            // 16 sums, or 8 where there are 16 registers.
            let step = if S::F32_LANES == 8 { 2 } else { 4 };
            while j + step <= t.n {
                match (step, t.ahead) {
                    (2, 0) => rows::<S, 2, false>(simd, t, j),
                    (2, _) => rows::<S, 2, true>(simd, t, j),
                    (_, 0) => rows::<S, 4, false>(simd, t, j),
                    (_, _) => rows::<S, 4, true>(simd, t, j),
                }
                j += step;
            }
            while j < t.n {
                rows::<S, 1, false>(simd, t, j);
                j += 1;
            }
        }
    }
}

/// `NB` rows of `B` with all of `A`.
///
/// # Safety
/// The contract of [`Args`], `j + NB ≤ n`.
#[inline(always)]
unsafe fn rows<S: Simd, const NB: usize, const AHEAD: bool>(simd: S, t: &Args, j: usize) {
    let mut i = 0;
    // SAFETY: the caller's contract; blocks stay inside m.
    unsafe {
        while i + 4 <= t.m {
            match AHEAD && i == 0 {
                true => block::<S, 4, NB, true>(simd, t, i, j),
                false => block::<S, 4, NB, false>(simd, t, i, j),
            }
            i += 4;
        }
        while i < t.m {
            match AHEAD && i == 0 {
                true => block::<S, 1, NB, true>(simd, t, i, j),
                false => block::<S, 1, NB, false>(simd, t, i, j),
            }
            i += 1;
        }
    }
}

/// `NA` rows of `A` with `NB` of `B`.
///
/// # Safety
/// The contract of [`Args`], `i + NA ≤ m`, `j + NB ≤ n`.
#[inline(always)]
unsafe fn block<S: Simd, const NA: usize, const NB: usize, const AHEAD: bool>(
    simd: S,
    t: &Args,
    i: usize,
    j: usize,
) {
    let mut sum = [[simd.splat_f32s(0.0); NA]; NB];
    let whole = t.k - t.k % S::F32_LANES;
    let tail = Head::new(simd, t.k - whole);
    // SAFETY: columns below k of these rows; those of A go on to a multiple of 16.
    unsafe {
        let (a, b) = (t.a.add(i * t.lda), t.b.add(j * t.ldb));
        let read_b = |r: usize, p: usize| {
            let at = b.add(r * t.ldb + p);
            if AHEAD && p.is_multiple_of(16) {
                prefetch(at.cast::<u8>().wrapping_offset(t.ahead), 1);
            }
            load(simd, at)
        };
        for p in (0..whole).step_by(S::F32_LANES) {
            multiply(simd, &mut sum, |r| load(simd, a.add(r * t.lda + p)), |r| read_b(r, p));
        }
        if whole < t.k {
            let p = whole;
            multiply(
                simd,
                &mut sum,
                |r| load(simd, a.add(r * t.lda + p)),
                |r| tail.load(simd, b.add(r * t.ldb + p)),
            );
        }
        for (r, sums) in reduce::sums(simd, sum).into_iter().enumerate() {
            t.c.add((j + r) * t.ldc + i).cast::<[f32; NA]>().write_unaligned(sums);
        }
    }
}

/// One vector of each row.
#[inline(always)]
fn multiply<S: Simd, const NA: usize, const NB: usize>(
    simd: S,
    sum: &mut [[S::f32s; NA]; NB],
    a: impl Fn(usize) -> S::f32s,
    b: impl Fn(usize) -> S::f32s,
) {
    let mut rows = [simd.splat_f32s(0.0); NA];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = a(r);
    }
    for (r, sum) in sum.iter_mut().enumerate() {
        let b = b(r);
        for (sum, &a) in sum.iter_mut().zip(&rows) {
            *sum = simd.mul_add_f32s(a, b, *sum);
        }
    }
}
