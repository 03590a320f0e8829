//! Scores of few queries: the product of two matrices that both are read by rows, transposed.
//!
//! ```text
//! C[j, i] = Σ_k A[i, k] B[j, k]
//! ```
//!
//! *Shapes*: `A` is `[m, k]`, its rows readable to a multiple of 16 and zero there; `B`, of `f32`, `bf16` or `f16`, is
//! `[n, k]`, read exactly; `C` is `[n, m]`. They don't overlap. *Numerics*: `B` is converted exactly; fused multiply-add, one
//! vector of lanes per sum, then across lanes: the same bits for the same values of any type. *Cost*: `2·m·n·k` FLOPs and a
//! reduction per sum (16, or 8 with AVX2, at once: a tile of 64 keys and 4 queries of 128 elements takes a quarter less
//! time than with one after the other, with AVX2 two fifths). Where there are queries enough for a vector of them,
//! [`super::matmul`] on transposed queries does without the reductions.
//!
//! `B` comes from memory, so **what is read first, and in which order, is the cost**. A Zen 4 core reads 25 GB/s row after row,
//! and 10 if it takes turns between the rows of a block, be it only two: the hardware's prefetcher no longer sees a stream.
//! So a block takes two rows whole, each in up to 8 registers, and multiplies then; that loads each vector of `A` once for two
//! rows, and a row alone would wait for those loads. Where rows are short, or 16 registers leave no room (AVX2), they take turns,
//! and the lines of the next tile are asked for. *Tried and lost*: turns of 4 rows with every line asked for in order, into L1
//! (0.7 times the speed) or touched by a load (0.8); 1, 2, 4, 16 KiB ahead (8 KiB is the best of them). A line is asked for with every
//! vector that is read alone, twice where it holds two: once was no faster, and a single query 4 to 7 % slower.

use super::Kernel;
use super::load_rows::Source;
use crate::simd::mem::load;
use crate::simd::prefetch::{Ahead, LINE, prefetch};
use crate::simd::reduce;
use crate::tensor::DType;
use pulp::Simd;
use std::marker::PhantomData;

/// One call. Strides are in elements.
#[derive(Clone, Copy, Debug)]
pub struct Args<E> {
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
    pub b: *const E,
    /// Elements between rows of `B`.
    pub ldb: usize,
    /// Where a later call reads `B`.
    pub ahead: Ahead,
    /// `C`.
    pub c: *mut f32,
    /// Elements between rows of `C`.
    pub ldc: usize,
}

impl<E> Args<E> {
    /// The same, of other elements.
    pub fn cast<F>(self) -> Args<F> {
        let Args { m, n, k, a, lda, b, ldb, ahead, c, ldc } = self;
        Args { m, n, k, a, lda, b: b.cast(), ldb, ahead, c, ldc }
    }
}

/// The kernel for elements `E` of `B`.
pub struct Dots<E>(PhantomData<E>);

impl<E: Source> Kernel for Dots<E> {
    type Args = Args<E>;
    const NAME: &'static str = match E::DTYPE {
        DType::Bf16 => "dots_bf16",
        DType::F16 => "dots_f16",
        _ => "dots_f32",
    };

    unsafe fn reference(t: &Args<E>) {
        for j in 0..t.n {
            for i in 0..t.m {
                // SAFETY: i < m, j < n, p < k.
                unsafe {
                    let b = |p: usize| f64::from((*t.b.add(j * t.ldb + p)).widen());
                    let product = |p: usize| f64::from(*t.a.add(i * t.lda + p)) * b(p);
                    *t.c.add(j * t.ldc + i) = (0..t.k).map(product).sum::<f64>() as f32;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(simd: S, t: &Args<E>) {
        // SAFETY: the caller's contract, handed on.
        unsafe { if t.ahead.bytes == 0 { all::<S, E, false>(simd, t) } else { all::<S, E, true>(simd, t) } }
    }
}

/// # Safety
/// The contract of [`Args`].
#[inline(always)]
unsafe fn all<S: Simd, E: Source, const AHEAD: bool>(simd: S, t: &Args<E>) {
    // 16 sums, or 8 where there are 16 registers.
    let step = if S::F32_LANES == 8 { 2 } else { 4 };
    let mut j = 0;
    // SAFETY: the caller's contract; blocks stay inside n.
    unsafe {
        while j + step <= t.n {
            match step {
                2 => rows::<S, E, 2, AHEAD>(simd, t, j),
                _ => rows::<S, E, 4, AHEAD>(simd, t, j),
            }
            j += step;
        }
        while j < t.n {
            rows::<S, E, 1, false>(simd, t, j);
            j += 1;
        }
    }
}

/// `NB` rows of `B` with all of `A`.
///
/// # Safety
/// The contract of [`Args`], `j + NB ≤ n`.
#[inline(always)]
unsafe fn rows<S: Simd, E: Source, const NB: usize, const AHEAD: bool>(simd: S, t: &Args<E>, j: usize) {
    let mut i = 0;
    // SAFETY: the caller's contract; blocks stay inside m.
    unsafe {
        while i + 4 <= t.m {
            match AHEAD && i == 0 {
                true => block::<S, E, 4, NB, true>(simd, t, i, j),
                false => block::<S, E, 4, NB, false>(simd, t, i, j),
            }
            i += 4;
        }
        while i < t.m {
            match AHEAD && i == 0 {
                true => block::<S, E, 1, NB, true>(simd, t, i, j),
                false => block::<S, E, 1, NB, false>(simd, t, i, j),
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
unsafe fn block<S: Simd, E: Source, const NA: usize, const NB: usize, const AHEAD: bool>(
    simd: S,
    t: &Args<E>,
    i: usize,
    j: usize,
) {
    let mut sum = [[simd.splat_f32s(0.0); NA]; NB];
    // SAFETY: rows of these blocks.
    unsafe {
        let (a, b) = (t.a.add(i * t.lda), t.b.add(j * t.ldb));
        if NA == 4 && in_turn::<S>(t.k) {
            sum = sums::<S, E, NA, NB, AHEAD>(simd, t, a, b);
        } else if NA == 4 && NB == 4 {
            // Not a loop, which might stay one, with the sums in memory.
            [sum[0], sum[1]] = sums::<S, E, NA, 2, AHEAD>(simd, t, a, b);
            [sum[2], sum[3]] = sums::<S, E, NA, 2, AHEAD>(simd, t, a, b.add(2 * t.ldb));
        } else {
            for (r, sum) in sum.iter_mut().enumerate() {
                [*sum] = sums::<S, E, NA, 1, AHEAD>(simd, t, a, b.add(r * t.ldb));
            }
        }
        for (r, sums) in reduce::sums(simd, sum).into_iter().enumerate() {
            t.c.add((j + r) * t.ldc + i).cast::<[f32; NA]>().write_unaligned(sums);
        }
    }
}

/// Whether rows take turns, vector by vector, where several of `A` are multiplied with them: they are short, or there is no
/// room for more.
#[inline(always)]
fn in_turn<S: Simd>(k: usize) -> bool {
    S::F32_LANES == 8 || k < 8 * S::F32_LANES
}

/// `NB` rows of `B` with `NA` of `A`, before the reduction.
///
/// # Safety
/// The rows are there.
#[inline(always)]
unsafe fn sums<S: Simd, E: Source, const NA: usize, const NB: usize, const AHEAD: bool>(
    simd: S,
    t: &Args<E>,
    a: *const f32,
    b: *const E,
) -> [[S::f32s; NA]; NB] {
    let mut sums = [[simd.splat_f32s(0.0); NA]; NB];
    let (lanes, mut p) = (S::F32_LANES, 0);
    let whole = t.k - t.k % lanes;
    let in_turn = NB == 1 || in_turn::<S>(t.k);
    // SAFETY: by contract; rows of A go on to a multiple of 16.
    unsafe {
        while !in_turn && p + 8 * lanes <= t.k {
            pieces::<S, E, NA, NB, 8, AHEAD>(simd, t, a.add(p), b.add(p), &mut sums);
            p += 8 * lanes;
        }
        while !in_turn && p + 4 * lanes <= t.k {
            pieces::<S, E, NA, NB, 4, AHEAD>(simd, t, a.add(p), b.add(p), &mut sums);
            p += 4 * lanes;
        }
        while p < whole {
            pieces::<S, E, NA, NB, 1, AHEAD>(simd, t, a.add(p), b.add(p), &mut sums);
            p += lanes;
        }
        if whole < t.k {
            let mut last = [simd.splat_f32s(0.0); NB];
            for (r, last) in last.iter_mut().enumerate() {
                *last = E::head(simd, t.k - whole, b.add(r * t.ldb + whole));
            }
            multiply(simd, &mut sums, &last, a.add(whole), t.lda);
        }
    }
    sums
}

/// Pieces of `NP` vectors of `NB` rows of `B` with those of `NA` rows of `A`.
///
/// # Safety
/// They are readable.
#[inline(always)]
unsafe fn pieces<S: Simd, E: Source, const NA: usize, const NB: usize, const NP: usize, const AHEAD: bool>(
    simd: S,
    t: &Args<E>,
    a: *const f32,
    b: *const E,
    sums: &mut [[S::f32s; NA]; NB],
) {
    let ahead = t.ahead.distance(NB == 1 || !in_turn::<S>(t.k));
    let mut rows = [[simd.splat_f32s(0.0); NP]; NB];
    // SAFETY: by contract.
    unsafe {
        for (r, row) in rows.iter_mut().enumerate() {
            for (v, row) in row.iter_mut().enumerate() {
                let at = b.add(r * t.ldb + v * S::F32_LANES);
                if AHEAD && (v * S::F32_LANES * size_of::<E>()).is_multiple_of(LINE) {
                    prefetch(at.cast::<u8>().wrapping_offset(ahead), 1);
                }
                *row = E::vector(simd, at);
            }
        }
        for v in 0..NP {
            let mut b = [simd.splat_f32s(0.0); NB];
            for (b, row) in b.iter_mut().zip(&rows) {
                *b = row[v];
            }
            multiply(simd, sums, &b, a.add(v * S::F32_LANES), t.lda);
        }
    }
}

/// A vector of each of `NB` rows with those of `NA` rows of `A`.
///
/// # Safety
/// `a` is valid for reading a vector in each of its rows.
#[inline(always)]
unsafe fn multiply<S: Simd, const NA: usize, const NB: usize>(
    simd: S,
    sums: &mut [[S::f32s; NA]; NB],
    b: &[S::f32s; NB],
    a: *const f32,
    lda: usize,
) {
    for i in 0..NA {
        // SAFETY: by contract.
        let a = unsafe { load(simd, a.add(i * lda)) };
        for (sums, &b) in sums.iter_mut().zip(b) {
            sums[i] = simd.mul_add_f32s(a, b, sums[i]);
        }
    }
}
