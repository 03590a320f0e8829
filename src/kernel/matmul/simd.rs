//! Register-blocked product, any vector width.
//!
//! **Register block.** `NR = 2` vectors of columns by `MR` rows: 8 rows where there are 32 registers (AVX-512,
//! NEON), 6 where there are 16 (AVX2); 4 and 1 for what is left over. Per step of the product that is 2 vector
//! loads and `MR` broadcasts for `2·MR` fused multiply-adds: 10 loads to 16 on AVX-512, which two load ports
//! cover even where two such multiply-adds issue per cycle, and enough independent sums for their latency.
//! Two columns of vectors also divide every panel, whose width is a multiple of 32.
//!
//! Measured on one Zen 4 core at a peak of 118 GFLOP/s (best of many, data in L1):
//!
//! | product | AVX-512 | AVX2 |
//! | --- | --- | --- |
//! | read, 16 × 32 × 128 | 118 | 115 |
//! | update, 128 × 32 × 16, `C0 = C`, with row factors | 110 | 101 |
//! | scores, 16 × 16 × 128 | 110 | 103 |
//!
//! **Tried and lost.** AVX2 with 4 × 2: eight sums just cover the latency, and any hiccup shows (`simple_gla`
//! 857 against 834 ns per token and head). A step of the product per turn of the loop instead of 4: the
//! addresses of `MR` rows are computed every time (`gated_delta_rule` 1 % slower on AVX-512, more on AVX2).
//! Panels of 48 and 64 columns with 32 KiB of L1: even within noise; 128: `simple_gla` 12 % slower.

use super::Args;
use pulp::{MemMask, Simd};

/// Steps of the product per turn of the loop, which share the addresses of the rows of `A`.
const UNROLL: usize = 4;

/// # Safety
/// The contract of [`Args`].
#[inline(always)]
pub unsafe fn matmul<S: Simd>(simd: S, t: &Args) {
    // SAFETY: the caller's contract, handed on.
    unsafe {
        if t.a_by_columns {
            column_strips::<S, true>(simd, t);
        } else {
            column_strips::<S, false>(simd, t);
        }
    }
}

/// # Safety
/// The contract of [`Args`].
#[inline(always)]
unsafe fn column_strips<S: Simd, const BY_COLUMNS: bool>(simd: S, t: &Args) {
    let lanes = S::F32_LANES;
    let mut j = 0;
    // SAFETY: the caller's contract; each strip covers columns `j .. j + NR·lanes`, the last one masked.
    unsafe {
        while j < t.n {
            match (t.n - j).div_ceil(lanes) {
                1 => {
                    row_blocks::<S, 1, BY_COLUMNS>(simd, t, j);
                    j += lanes;
                }
                _ => {
                    row_blocks::<S, 2, BY_COLUMNS>(simd, t, j);
                    j += 2 * lanes;
                }
            }
        }
    }
}

/// # Safety
/// The contract of [`Args`], and `j < n`.
#[inline(always)]
unsafe fn row_blocks<S: Simd, const NR: usize, const BY_COLUMNS: bool>(simd: S, t: &Args, j: usize) {
    let mut i = 0;
    // SAFETY: the caller's contract; each block covers rows `i .. i + MR ≤ m`.
    unsafe {
        if S::F32_LANES != 8 {
            while i + 8 <= t.m {
                block::<S, 8, NR, BY_COLUMNS>(simd, t, i, j);
                i += 8;
            }
        } else {
            while i + 6 <= t.m {
                block::<S, 6, NR, BY_COLUMNS>(simd, t, i, j);
                i += 6;
            }
        }
        while i + 4 <= t.m {
            block::<S, 4, NR, BY_COLUMNS>(simd, t, i, j);
            i += 4;
        }
        while i < t.m {
            block::<S, 1, NR, BY_COLUMNS>(simd, t, i, j);
            i += 1;
        }
    }
}

/// One block of `MR` rows and `NR` vectors of columns.
///
/// # Safety
/// The contract of [`Args`], `i + MR ≤ m` and `j < n`.
#[inline(always)]
unsafe fn block<S: Simd, const MR: usize, const NR: usize, const BY_COLUMNS: bool>(
    simd: S,
    t: &Args,
    i: usize,
    j: usize,
) {
    let lanes = S::F32_LANES;
    // SAFETY: rows `i .. i + MR` exist; columns up to `n` rounded up to 16 are readable, and only the
    // first `n` are stored.
    unsafe {
        let load = |p: *const f32, v: usize| p.add(v * lanes).cast::<S::f32s>().read_unaligned();
        let mut acc = [[simd.splat_f32s(0.0); NR]; MR];
        if !t.c0.is_null() {
            for (r, acc) in acc.iter_mut().enumerate() {
                let row = t.c0.offset((i + r) as isize * t.ldc0).add(j);
                let pre = simd.splat_f32s(if t.pre.is_null() { 1.0 } else { *t.pre.add(i + r) });
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = simd.mul_f32s(pre, load(row, v));
                    if !t.col.is_null() {
                        *acc = simd.mul_f32s(*acc, load(t.col.add(j), v));
                    }
                }
            }
        }
        let mut a = if BY_COLUMNS { t.a.add(i) } else { t.a.wrapping_add(i * t.lda) };
        let mut b = t.b.wrapping_add(j);
        let (row, next) = if BY_COLUMNS { (1, t.lda) } else { (t.lda, 1) };
        for _ in 0..t.k / UNROLL {
            for step in 0..UNROLL {
                let (a, b) = (a.wrapping_add(step * next), b.wrapping_add(step * t.ldb));
                multiply::<S, MR, NR>(simd, &mut acc, a, row, b);
            }
            a = a.wrapping_add(UNROLL * next);
            b = b.wrapping_add(UNROLL * t.ldb);
        }
        for _ in 0..t.k % UNROLL {
            multiply::<S, MR, NR>(simd, &mut acc, a, row, b);
            a = a.wrapping_add(next);
            b = b.wrapping_add(t.ldb);
        }
        for (l, u) in [(t.l, t.u), (t.l2, t.u2)] {
            if l.is_null() {
                continue;
            }
            let mut l = l.add(i * t.ldl);
            let mut u = u.add(j);
            for _ in 0..i + MR {
                multiply::<S, MR, NR>(simd, &mut acc, l, t.ldl, u);
                l = l.wrapping_add(1);
                u = u.wrapping_add(t.ldu);
            }
        }
        if !t.post.is_null() {
            for (r, acc) in acc.iter_mut().enumerate() {
                let post = simd.splat_f32s(*t.post.add(i + r));
                for acc in acc {
                    *acc = simd.mul_f32s(*acc, post);
                }
            }
        }
        let whole = t.n - j >= NR * lanes;
        for (r, acc) in acc.iter().enumerate() {
            let row = t.c.offset((i + r) as isize * t.ldc).add(j);
            for (v, &acc) in acc.iter().enumerate() {
                if whole || v + 1 < NR {
                    row.add(v * lanes).cast::<S::f32s>().write_unaligned(acc);
                } else {
                    let mask = simd.mask_between_m32s(0, (t.n - j - v * lanes) as u32);
                    simd.mask_store_ptr_f32s(MemMask::new(mask.mask()), row.add(v * lanes), acc);
                }
            }
        }
    }
}

/// `acc += a[:] ⊗ b[:]`, `a` of `MR` elements `stride` apart, `b` of `NR` vectors.
///
/// # Safety
/// Those elements must be readable.
#[inline(always)]
unsafe fn multiply<S: Simd, const MR: usize, const NR: usize>(
    simd: S,
    acc: &mut [[S::f32s; NR]; MR],
    a: *const f32,
    stride: usize,
    b: *const f32,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut row = [simd.splat_f32s(0.0); NR];
        for (v, row) in row.iter_mut().enumerate() {
            *row = b.add(v * S::F32_LANES).cast::<S::f32s>().read_unaligned();
        }
        for (r, acc) in acc.iter_mut().enumerate() {
            let a = simd.splat_f32s(*a.add(r * stride));
            for (acc, &b) in acc.iter_mut().zip(&row) {
                *acc = simd.mul_add_f32s(a, b, *acc);
            }
        }
    }
}
