//! Register-blocked product, any vector width, by any way to multiply pairs.
//!
//! Measured on one Zen 4 core beside the `f32` tile (best of many, data in L1, ns):
//!
//! | product | `f32` | pairs |
//! | --- | --- | --- |
//! | read, 16 × 32 × 128 | 1150 | 581 |
//! | the same, with factors of rows and a triangular part of 16 | 1250 | 693 |
//! | update, 128 × 32 × 16, `C0 = C`, with row factors | 1200 | 664 |
//! | the same, with pairs of the result | | 790 |
//! | scores, 16 × 16 × 128 | | 400 |
//!
//! **Tried and lost.** `C0` after the sum also where nothing stands between: 750 for 664, its loads come too late. 4 steps of
//! the product to a turn of the loop, all in line: 810 for 630 ns of a plain update. 16 rows of one vector, for the scores: no
//! gain.

use super::Args;
use crate::simd::bf16::Pairs;
use crate::simd::mem::{Head, load, store};
use pulp::Simd;

/// Steps of the product per turn of the loop, which share the addresses of the rows of `A`.
const UNROLL: usize = 8;

/// # Safety
/// The contract of [`Args`], and what `P` needs.
#[inline(always)]
pub unsafe fn matmul<S: Simd, P: Pairs<S>>(simd: S, t: &Args) {
    // SAFETY: the caller's contract, handed on.
    unsafe {
        if t.a_by_columns {
            column_strips::<S, P, true>(simd, t);
        } else {
            column_strips::<S, P, false>(simd, t);
        }
    }
}

/// # Safety
/// The contract of [`Args`], and what `P` needs.
#[inline(always)]
unsafe fn column_strips<S: Simd, P: Pairs<S>, const BY_COLUMNS: bool>(simd: S, t: &Args) {
    let lanes = S::F32_LANES;
    let mut j = 0;
    // SAFETY: the caller's contract; each strip covers columns `j .. j + NR·lanes`, the last one masked.
    unsafe {
        while j < t.n {
            if t.n - j <= lanes {
                row_blocks::<S, P, 1, BY_COLUMNS>(simd, t, j);
                j += lanes;
            } else {
                row_blocks::<S, P, 2, BY_COLUMNS>(simd, t, j);
                j += 2 * lanes;
            }
        }
    }
}

/// # Safety
/// The contract of [`Args`], what `P` needs, and `j < n`.
#[inline(always)]
unsafe fn row_blocks<S: Simd, P: Pairs<S>, const NR: usize, const BY_COLUMNS: bool>(
    simd: S,
    t: &Args,
    j: usize,
) {
    let mut i = 0;
    // SAFETY: the caller's contract; each block covers rows `i .. i + MR ≤ m`, and begins with an even one.
    unsafe {
        while S::F32_LANES != 8 && i + 8 <= t.m {
            block::<S, P, 8, NR, BY_COLUMNS>(simd, t, i, j);
            i += 8;
        }
        while i + 4 <= t.m {
            block::<S, P, 4, NR, BY_COLUMNS>(simd, t, i, j);
            i += 4;
        }
        if i + 2 <= t.m {
            block::<S, P, 2, NR, BY_COLUMNS>(simd, t, i, j);
            i += 2;
        }
        if i < t.m {
            block::<S, P, 1, NR, BY_COLUMNS>(simd, t, i, j);
        }
    }
}

/// One block of `MR` rows and `NR` vectors of columns.
///
/// # Safety
/// The contract of [`Args`], what `P` needs, `i + MR ≤ m`, `i` even and `j < n`.
#[inline(always)]
unsafe fn block<S: Simd, P: Pairs<S>, const MR: usize, const NR: usize, const BY_COLUMNS: bool>(
    simd: S,
    t: &Args,
    i: usize,
    j: usize,
) {
    let lanes = S::F32_LANES;
    let zero = simd.splat_f32s(0.0);
    // SAFETY: rows `i .. i + MR` exist; columns up to `n` rounded up to 16 are readable, and only the
    // first `n` are stored.
    unsafe {
        let splat = |p: *const f32, r: usize| simd.splat_f32s(*p.add(i + r));
        let mut acc = [[zero; NR]; MR];
        if t.mid.is_null() && !t.c0.is_null() {
            past::<S, MR, NR>(
                simd,
                t,
                (i, j),
                #[inline(always)]
                |r, v, pre, c0| acc[r][v] = simd.mul_f32s(pre, c0),
            );
        }
        let mut a = if BY_COLUMNS { t.a.wrapping_add(i) } else { t.a.wrapping_add(i * t.lda) };
        let mut b = t.b.wrapping_add(j);
        let (row, next) = if BY_COLUMNS { (1, t.lda) } else { (t.lda, 1) };
        for _ in 0..t.pairs / UNROLL {
            for step in 0..UNROLL {
                let (a, b) = (a.wrapping_add(step * next), b.wrapping_add(step * t.ldb));
                dots::<S, P, MR, NR>(simd, &mut acc, a, row, b);
            }
            a = a.wrapping_add(UNROLL * next);
            b = b.wrapping_add(UNROLL * t.ldb);
        }
        for _ in 0..t.pairs % UNROLL {
            dots::<S, P, MR, NR>(simd, &mut acc, a, row, b);
            a = a.wrapping_add(next);
            b = b.wrapping_add(t.ldb);
        }
        if !t.mid.is_null() {
            for (r, acc) in acc.iter_mut().enumerate() {
                let mid = splat(t.mid, r);
                acc.iter_mut().for_each(|acc| *acc = simd.mul_f32s(*acc, mid));
            }
            if !t.c0.is_null() {
                past::<S, MR, NR>(
                    simd,
                    t,
                    (i, j),
                    #[inline(always)]
                    |r, v, pre, c0| acc[r][v] = simd.mul_add_f32s(pre, c0, acc[r][v]),
                );
            }
        }
        if !t.l.is_null() {
            for k in 0..i + MR {
                let mut u = [zero; NR];
                for (v, u) in u.iter_mut().enumerate() {
                    *u = load(simd, t.u.add(k * t.ldu + j + v * lanes));
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let l = simd.splat_f32s(*t.l.add((i + r) * t.ldl + k));
                    for (acc, &u) in acc.iter_mut().zip(&u) {
                        *acc = simd.mul_add_f32s(l, u, *acc);
                    }
                }
            }
        }
        if !t.post.is_null() {
            for (r, acc) in acc.iter_mut().enumerate() {
                let post = splat(t.post, r);
                acc.iter_mut().for_each(|acc| *acc = simd.mul_f32s(*acc, post));
            }
        }
        let whole = t.n - j >= NR * lanes;
        for (r, acc) in acc.iter().enumerate() {
            let row = t.c.offset((i + r) as isize * t.ldc).add(j);
            for (v, &acc) in acc.iter().enumerate() {
                if whole || v + 1 < NR {
                    store(simd, row.add(v * lanes), acc);
                } else {
                    Head::new(simd, t.n - j - v * lanes).store(simd, row.add(v * lanes), acc);
                }
            }
        }
        if !t.packed.is_null() {
            for r in (0..MR).step_by(2) {
                let row = t.packed.add((i + r) / 2 * t.ldp + j);
                for (v, &first) in acc[r].iter().enumerate() {
                    let second = if r + 1 < MR { acc[(r + 1) % MR][v] } else { zero };
                    let pair = P::pair(simd, first, second);
                    row.add(v * lanes).cast::<S::u32s>().write_unaligned(pair);
                }
            }
        }
    }
}

/// Calls `f(row, vector, pre, col ⊙ C0)` for every vector of a block.
///
/// # Safety
/// The contract of [`block`], and there is a `C0`.
#[inline(always)]
unsafe fn past<S: Simd, const MR: usize, const NR: usize>(
    simd: S,
    t: &Args,
    (i, j): (usize, usize),
    mut f: impl FnMut(usize, usize, S::f32s, S::f32s),
) {
    for r in 0..MR {
        // SAFETY: the caller's contract.
        unsafe {
            let row = t.c0.offset((i + r) as isize * t.ldc0).add(j);
            let pre = simd.splat_f32s(if t.pre.is_null() { 1.0 } else { *t.pre.add(i + r) });
            for v in 0..NR {
                let mut c0 = load(simd, row.add(v * S::F32_LANES));
                if !t.col.is_null() {
                    c0 = simd.mul_f32s(c0, load(simd, t.col.add(j + v * S::F32_LANES)));
                }
                f(r, v, pre, c0);
            }
        }
    }
}

/// `acc += a[:] ⊗ b[:]`, `a` of `MR` pairs `stride` apart, `b` of `NR` vectors of pairs.
///
/// # Safety
/// Those elements must be readable, and what `P` needs must be there.
#[inline(always)]
unsafe fn dots<S: Simd, P: Pairs<S>, const MR: usize, const NR: usize>(
    simd: S,
    acc: &mut [[S::f32s; NR]; MR],
    a: *const u32,
    stride: usize,
    b: *const u32,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut row = [simd.splat_u32s(0); NR];
        for (v, row) in row.iter_mut().enumerate() {
            *row = b.add(v * S::F32_LANES).cast::<S::u32s>().read_unaligned();
        }
        for (r, acc) in acc.iter_mut().enumerate() {
            let a = simd.splat_u32s(*a.add(r * stride));
            for (acc, &b) in acc.iter_mut().zip(&row) {
                *acc = P::dot(simd, *acc, a, b);
            }
        }
    }
}
