//! Decay factors applied to the rows of a chunk: prefixes to queries and erase rows, suffixes to keys.
//!
//! ```text
//! P_i = Π_{m ≤ i} α_m        F_j = Π_{m > j} α_m
//! q_i ← q_i ⊙ P_i  (every set)     erase_i = erase_row[i] · e_i ⊙ P_i     k_j ← k_j ⊙ F_j     end = P_{n-1}
//! ```
//!
//! Erase rows are made of the keys (`e = k`) or of rows of their own. Queries or erase rows that read the state before
//! the decay of their token take `P_{i−1}`. A second block of keys may follow the first.
//! `α` is one factor per token, or one per token and channel. Rows are packed `[n, ld]`, `d` rounded up to
//! 16 columns of them are worked on (the padding must be readable; it stays finite if it is finite).
//! *Aliasing*: `e` may be `k`, or the erase rows themselves. *Numerics*: running products of numbers in `[0, 1]`, in token order for `P`, in
//! reverse order for `F`; no logarithm, no quotient. *Cost*: about `2·(sets + 3)·n·d` FLOPs, memory bound in L1.

use super::Kernel;
use crate::CHUNK;
use pulp::Simd;

/// Operands of one call.
#[derive(Clone, Copy)]
pub struct Args {
    /// Rows, at most 16.
    pub n: usize,
    /// Channels.
    pub d: usize,
    /// Elements between rows.
    pub ld: usize,
    /// Factors: `[n]`, or `[n, ld]` if `by_channel`; null: all 1.
    pub alpha: *const f32,
    /// One factor per channel.
    pub by_channel: bool,
    /// Sets of query rows, `[n_sets, 16, ld]`.
    pub q: *mut f32,
    /// Number of sets.
    pub n_sets: usize,
    /// Queries are read before the decay of their token.
    pub q_pre: bool,
    /// Key rows, `[k_sets, n, ld]`.
    pub k: *mut f32,
    /// Blocks of key rows, at least one.
    pub k_sets: usize,
    /// Erase rows to write, `[n, ld]`; null: none.
    pub erase: *mut f32,
    /// What they are made of, `[n, ld]`.
    pub erase_from: *const f32,
    /// Their factor, `[n]`; null: 1.
    pub erase_row: *const f32,
    /// They are read before the decay of their token.
    pub erase_pre: bool,
    /// Product over the chunk, `[ld]`; null: not wanted. Not written where `alpha` is null.
    pub end: *mut f32,
}

/// Decay factors applied to rows in `f32`.
pub struct DecayRows;

impl Kernel for DecayRows {
    type Args = Args;
    const NAME: &'static str = "decay_rows_f32";

    unsafe fn reference(t: &Args) {
        for c in 0..t.d.next_multiple_of(16) {
            // SAFETY: `i < n`, `c` is below `d` rounded up; the contract of `Args` makes both exist.
            unsafe {
                let alpha = |i: usize| match (t.alpha.is_null(), t.by_channel) {
                    (true, _) => 1.0,
                    (_, true) => f64::from(*t.alpha.add(i * t.ld + c)),
                    (_, false) => f64::from(*t.alpha.add(i)),
                };
                let scale = |p: *mut f32, factor: f64| *p = (f64::from(*p) * factor) as f32;
                let mut p = 1.0;
                for i in 0..t.n {
                    let before = p;
                    p *= alpha(i);
                    let at = i * t.ld + c;
                    for set in 0..t.n_sets {
                        scale(t.q.add(set * CHUNK * t.ld + at), if t.q_pre { before } else { p });
                    }
                    if !t.erase.is_null() {
                        let row = if t.erase_row.is_null() { 1.0 } else { f64::from(*t.erase_row.add(i)) };
                        let p = if t.erase_pre { before } else { p };
                        *t.erase.add(at) = (row * p * f64::from(*t.erase_from.add(at))) as f32;
                    }
                }
                if !t.end.is_null() && !t.alpha.is_null() {
                    *t.end.add(c) = p as f32;
                }
                let mut f = 1.0;
                for i in (0..t.n).rev() {
                    for set in 0..t.k_sets {
                        scale(t.k.add((set * t.n + i) * t.ld + c), f);
                    }
                    f *= alpha(i);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(simd: S, t: &Args) {
        // SAFETY: the caller's contract.
        unsafe {
            if t.by_channel && !t.alpha.is_null() {
                by_channel(simd, t);
            } else {
                by_token(simd, t);
            }
        }
    }
}

/// `p[0 .. columns] = x[0 .. columns] · factor`, whole vectors.
///
/// # Safety
/// Both rows have `columns` elements, a multiple of 16.
#[inline(always)]
unsafe fn scale_row<S: Simd>(simd: S, columns: usize, x: *const f32, factor: f32, p: *mut f32) {
    let factor = simd.splat_f32s(factor);
    for c in (0..columns).step_by(S::F32_LANES) {
        // SAFETY: the caller's contract.
        unsafe {
            let x = x.add(c).cast::<S::f32s>().read_unaligned();
            p.add(c).cast::<S::f32s>().write_unaligned(simd.mul_f32s(x, factor));
        }
    }
}

/// One factor per token, or none: the products are scalars, and rows are scaled one after the other.
///
/// # Safety
/// The contract of [`Args`].
#[inline(always)]
unsafe fn by_token<S: Simd>(simd: S, t: &Args) {
    let columns = t.d.next_multiple_of(16);
    // SAFETY: the caller's contract; `i < n ≤ 16`.
    unsafe {
        let alpha = |i: usize| if t.alpha.is_null() { 1.0 } else { *t.alpha.add(i) };
        let mut p = 1.0;
        for i in 0..t.n {
            let before = p;
            p *= alpha(i);
            let at = i * t.ld;
            for set in 0..if t.alpha.is_null() { 0 } else { t.n_sets } {
                let q = t.q.add(set * CHUNK * t.ld + at);
                scale_row(simd, columns, q, if t.q_pre { before } else { p }, q);
            }
            if !t.erase.is_null() {
                let row = if t.erase_row.is_null() { 1.0 } else { *t.erase_row.add(i) };
                let p = if t.erase_pre { before } else { p };
                scale_row(simd, columns, t.erase_from.add(at), p * row, t.erase.add(at));
            }
        }
        if t.alpha.is_null() {
            return;
        }
        if !t.end.is_null() {
            std::slice::from_raw_parts_mut(t.end, columns).fill(p);
        }
        let mut f = 1.0;
        for i in (0..t.n).rev() {
            for set in 0..if i + 1 < t.n { t.k_sets } else { 0 } {
                let k = t.k.add((set * t.n + i) * t.ld);
                scale_row(simd, columns, k, f, k);
            }
            f *= alpha(i);
        }
    }
}

/// One factor per token and channel: products run down the columns.
///
/// # Safety
/// The contract of [`Args`].
#[inline(always)]
unsafe fn by_channel<S: Simd>(simd: S, t: &Args) {
    let scale = |p: *mut f32, factor: S::f32s| {
        let p = p.cast::<S::f32s>();
        // SAFETY: a vector never leaves the 16-column group it starts in, and the row has those columns.
        unsafe { p.write_unaligned(simd.mul_f32s(p.read_unaligned(), factor)) }
    };
    for c in (0..t.d.next_multiple_of(16)).step_by(S::F32_LANES) {
        // SAFETY: the caller's contract.
        unsafe {
            let alpha = |i: usize| t.alpha.add(i * t.ld + c).cast::<S::f32s>().read_unaligned();
            let mut p = simd.splat_f32s(1.0);
            for i in 0..t.n {
                let before = p;
                p = simd.mul_f32s(p, alpha(i));
                let at = i * t.ld + c;
                for set in 0..t.n_sets {
                    scale(t.q.add(set * CHUNK * t.ld + at), if t.q_pre { before } else { p });
                }
                if !t.erase.is_null() {
                    let row = if t.erase_row.is_null() { 1.0 } else { *t.erase_row.add(i) };
                    let p = if t.erase_pre { before } else { p };
                    let row = simd.mul_f32s(p, simd.splat_f32s(row));
                    let from = t.erase_from.add(at).cast::<S::f32s>().read_unaligned();
                    t.erase.add(at).cast::<S::f32s>().write_unaligned(simd.mul_f32s(row, from));
                }
            }
            if !t.end.is_null() {
                t.end.add(c).cast::<S::f32s>().write_unaligned(p);
            }
            let mut f = simd.splat_f32s(1.0);
            for i in (0..t.n).rev() {
                for set in 0..t.k_sets {
                    scale(t.k.add((set * t.n + i) * t.ld + c), f);
                }
                f = simd.mul_f32s(f, alpha(i));
            }
        }
    }
}
