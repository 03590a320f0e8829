//! Weighted sums of rows for few queries: the values of a decode step.
//!
//! ```text
//! C[i, :] = pre[i] · C[i, :]  +  Σ_j A[j, i] B[j, :]
//! ```
//!
//! *Shapes*: `A` is `[n, m]`, `B`, of `f32`, `bf16` or `f16`, `[n, e]`, `C` `[m, e]`; columns up to `e` rounded up to 16 are
//! read and written. They don't overlap. *Numerics*: `B` is converted exactly; fused multiply-add in index order of the rows
//! of `B`, one sum per element, whatever stands beside it: the same bits for the same values of any type. NaN in a row of `B`
//! reaches every row of `C`. *Cost*: `2·m·n·e` FLOPs.
//!
//! [`super::matmul`] does the same product; here `B` is new from memory in every call, and its rows are long and few weights
//! go with each. As in [`super::dots`] the order in which `B` is first read is the cost, so the first pass takes whole rows:
//! 2 rows of `C` by 8 vectors where there are 32 registers, a single row by 8, whose sums else would wait for each other. Of
//! 16-bit floats, whose rows are half as long, 4 rows by 4, which convert each vector once (3 % of a step).
//! 16 rows of `B` go through all rows of `C` before the next, so that every other pass finds them in L1. With 16
//! registers 4 rows by 2 vectors are faster in all, in strips as long as the tile, whose next lines are asked for one tile ahead.
//! *Measured* on a Zen 4 core, a step over 32 k keys of 128 channels in `f32`, with this and `dots` reading whole rows in place of
//! strips and turns: 0.93 of the time with 4 queries to a key head, 0.83 with one.

use super::Kernel;
use super::load_rows::Source;
use crate::simd::mem::{load, store};
use crate::simd::prefetch::{Ahead, LINE, prefetch};
use crate::tensor::DType;
use pulp::Simd;
use std::marker::PhantomData;
use std::ops::Range;

/// Rows of `B` that all rows of `C` take in before the next.
const TURN: usize = 16;

/// One call. Strides are in elements.
#[derive(Clone, Copy, Debug)]
pub struct Args<E> {
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
    pub b: *const E,
    /// Elements between rows of `B`.
    pub ldb: usize,
    /// Where a later call reads `B`.
    pub ahead: Ahead,
    /// `C`.
    pub c: *mut f32,
    /// Elements between rows of `C`.
    pub ldc: usize,
    /// `C` is zero before: it is not read.
    pub first: bool,
    /// Factor of each row of `C`; null: 1.
    pub pre: *const f32,
}

impl<E> Args<E> {
    /// The same, of other elements.
    pub fn cast<F>(self) -> Args<F> {
        let Args { m, n, e, a, lda, b, ldb, ahead, c, ldc, first, pre } = self;
        Args { m, n, e, a, lda, b: b.cast(), ldb, ahead, c, ldc, first, pre }
    }
}

/// The kernel for elements `E` of `B`.
pub struct Weigh<E>(PhantomData<E>);

impl<E: Source> Kernel for Weigh<E> {
    type Args = Args<E>;
    const NAME: &'static str = match E::DTYPE {
        DType::Bf16 => "weigh_bf16",
        DType::F16 => "weigh_f16",
        _ => "weigh_f32",
    };

    unsafe fn reference(t: &Args<E>) {
        for i in 0..t.m {
            for c in 0..t.e.next_multiple_of(16) {
                // SAFETY: i < m, j < n, c below e rounded up.
                unsafe {
                    let to = t.c.add(i * t.ldc + c);
                    let pre = if t.pre.is_null() { 1.0 } else { f64::from(*t.pre.add(i)) };
                    let before = if t.first { 0.0 } else { pre * f64::from(*to) };
                    let b = |j: usize| f64::from((*t.b.add(j * t.ldb + c)).widen());
                    let product = |j: usize| f64::from(*t.a.add(j * t.lda + i)) * b(j);
                    *to = (before + (0..t.n).map(product).sum::<f64>()) as f32;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(simd: S, t: &Args<E>) {
        // SAFETY: the caller's contract, handed on.
        unsafe { if t.ahead.bytes == 0 { rows::<S, E, false>(simd, t) } else { rows::<S, E, true>(simd, t) } }
    }
}

/// # Safety
/// The contract of [`Args`].
#[inline(always)]
unsafe fn rows<S: Simd, E: Source, const AHEAD: bool>(simd: S, t: &Args<E>) {
    let turn = if S::F32_LANES == 8 { t.n } else { TURN };
    let mut keys = 0..t.n.min(turn);
    loop {
        let mut i = 0;
        // SAFETY: the caller's contract; blocks stay inside `m`. One pass over `B` asks for what comes next.
        unsafe {
            while i + 4 <= t.m {
                match AHEAD && i == 0 {
                    true => four::<S, E, true>(simd, t, i, &keys),
                    false => four::<S, E, false>(simd, t, i, &keys),
                }
                i += 4;
            }
            while i < t.m {
                match AHEAD && i == 0 {
                    true => one::<S, E, true>(simd, t, i, &keys),
                    false => one::<S, E, false>(simd, t, i, &keys),
                }
                i += 1;
            }
        }
        if keys.end == t.n {
            return;
        }
        keys = keys.end..(keys.end + turn).min(t.n);
    }
}

/// Some rows of `B` into 4 rows.
///
/// # Safety
/// The contract of [`Args`], `i + 4 ≤ m`, `keys` below `n`.
#[inline(always)]
unsafe fn four<S: Simd, E: Source, const AHEAD: bool>(simd: S, t: &Args<E>, i: usize, keys: &Range<usize>) {
    let (mut j, e, lanes) = (0, t.e.next_multiple_of(16), S::F32_LANES);
    // SAFETY: the caller's contract; strips stay inside the columns, of which there are whole vectors.
    unsafe {
        while lanes != 8 && size_of::<E>() == 4 && j + 8 * lanes <= e {
            block::<S, E, 2, 8, AHEAD>(simd, t, (i, j), keys);
            block::<S, E, 2, 8, false>(simd, t, (i + 2, j), keys);
            j += 8 * lanes;
        }
        while lanes != 8 && j + 4 * lanes <= e {
            block::<S, E, 4, 4, AHEAD>(simd, t, (i, j), keys);
            j += 4 * lanes;
        }
        while j + 2 * lanes <= e {
            block::<S, E, 4, 2, AHEAD>(simd, t, (i, j), keys);
            j += 2 * lanes;
        }
        while j < e {
            block::<S, E, 4, 1, AHEAD>(simd, t, (i, j), keys);
            j += lanes;
        }
    }
}

/// Some rows of `B` into a single row.
///
/// # Safety
/// The contract of [`Args`], `i < m`, `keys` below `n`.
#[inline(always)]
unsafe fn one<S: Simd, E: Source, const AHEAD: bool>(simd: S, t: &Args<E>, i: usize, keys: &Range<usize>) {
    let (mut j, e, lanes) = (0, t.e.next_multiple_of(16), S::F32_LANES);
    // SAFETY: as in `four`.
    unsafe {
        while j + 8 * lanes <= e {
            block::<S, E, 1, 8, AHEAD>(simd, t, (i, j), keys);
            j += 8 * lanes;
        }
        while j + 4 * lanes <= e {
            block::<S, E, 1, 4, AHEAD>(simd, t, (i, j), keys);
            j += 4 * lanes;
        }
        while j < e {
            block::<S, E, 1, 1, AHEAD>(simd, t, (i, j), keys);
            j += lanes;
        }
    }
}

/// `MR` rows by `NR` vectors.
///
/// # Safety
/// The contract of [`Args`], `i + MR ≤ m`, `j + NR` vectors within the columns, `keys` below `n`.
#[inline(always)]
unsafe fn block<S: Simd, E: Source, const MR: usize, const NR: usize, const AHEAD: bool>(
    simd: S,
    t: &Args<E>,
    (i, j): (usize, usize),
    keys: &Range<usize>,
) {
    let ahead = t.ahead.distance(S::F32_LANES != 8 || MR == 1);
    let mut sum = [[simd.splat_f32s(0.0); NR]; MR];
    // SAFETY: rows below `m` and `n`, columns of these vectors.
    unsafe {
        let to = |r: usize, v: usize| t.c.add((i + r) * t.ldc + j + v * S::F32_LANES);
        let begun = keys.start > 0;
        if begun || !t.first {
            for (r, sum) in sum.iter_mut().enumerate() {
                let pre = simd.splat_f32s(if begun || t.pre.is_null() { 1.0 } else { *t.pre.add(i + r) });
                for (v, sum) in sum.iter_mut().enumerate() {
                    *sum = simd.mul_f32s(pre, load(simd, to(r, v)));
                }
            }
        }
        let (mut a, mut b) = (t.a.add(keys.start * t.lda + i), t.b.add(keys.start * t.ldb));
        for _ in keys.clone() {
            let mut weight = [simd.splat_f32s(0.0); MR];
            for (r, weight) in weight.iter_mut().enumerate() {
                *weight = simd.splat_f32s(*a.add(r));
            }
            for v in 0..NR {
                let at = b.add(j + v * S::F32_LANES);
                if AHEAD && (v * S::F32_LANES * size_of::<E>()).is_multiple_of(LINE) {
                    prefetch(at.cast::<u8>().wrapping_offset(ahead), 1);
                }
                let row = E::vector(simd, at);
                for (sum, &weight) in sum.iter_mut().zip(&weight) {
                    sum[v] = simd.mul_add_f32s(weight, row, sum[v]);
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
