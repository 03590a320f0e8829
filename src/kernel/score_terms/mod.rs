//! What a tile of attention scores gets besides the product: a cap, additive terms, a mask
//! (`docs/spec/softmax.md` 1.2, hooks C, A, M).
//!
//! ```text
//! X[s, r] = cap · tanh(X[s, r] / cap)
//!         − slope[r] · |position[r] − s|
//!         + tile[s, r]
//!         + (row[r] − key[s]) + (row_low[r] − key_low[s])
//! X[s, r] = −inf unless first[r] ≤ s < end[r]
//! ```
//!
//! Queries are columns, so whatever belongs to a query is a vector and costs no shuffle. Each part is optional and a
//! pass of its own: at 64 keys by 32 queries and `D = 128` a pass is under 1 % of the tile's products, and any set of
//! parts is one loop each instead of one of 32 combinations.
//!
//! *Shapes*: `X` and `tile` are `[n][ld]`, of which `w` columns, a multiple of 16, are computed. *Numerics*: the pair of
//! differences keeps a difference of sums of many decays to the rounding of `f32` where each sum alone would have lost
//! it; the mask selects, so a `NaN` that is not visible is gone. *Cost*: 8 bytes and up to 29 operations per element.

use super::Kernel;
use crate::simd::math;
use crate::simd::mem::{load, store};
use pulp::Simd;
use std::ptr;

/// One call. Vectors by query have `w` elements, by key `n`; a null pointer leaves the part out.
#[derive(Clone, Copy, Debug)]
pub struct Args {
    /// Keys.
    pub n: usize,
    /// Queries, rounded up to 16.
    pub w: usize,
    /// Scores, `[n][ld]`.
    pub x: *mut f32,
    /// Elements between keys of `x` and of `tile`.
    pub ld: usize,
    /// Soft cap; 0: none.
    pub cap: f32,
    /// Slope of each query.
    pub slope: *const f32,
    /// Position of each query, counted from the first key of the tile; read with `slope`.
    pub position: *const f32,
    /// Added as it is, `[n][ld]`.
    pub tile: *const f32,
    /// Added for each query, in two parts: the second is what the rounding of the first left.
    pub row: [*const f32; 2],
    /// Subtracted for each key, likewise; read with `row`.
    pub key: [*const f32; 2],
    /// First key that each query sees.
    pub first: *const f32,
    /// One past the last key that each query sees; read with `first`.
    pub end: *const f32,
}

impl Args {
    /// A tile without any part.
    pub fn plain(n: usize, w: usize, x: *mut f32, ld: usize) -> Args {
        let none = ptr::null();
        Args {
            n,
            w,
            x,
            ld,
            cap: 0.0,
            slope: none,
            position: none,
            tile: none,
            row: [none; 2],
            key: [none; 2],
            first: none,
            end: none,
        }
    }

    /// Whether there is nothing to do.
    pub fn is_plain(&self) -> bool {
        let unset = [self.slope, self.tile, self.row[0], self.first].iter().all(|part| part.is_null());
        unset && self.cap == 0.0
    }
}

/// The kernel.
pub struct ScoreTerms;

impl Kernel for ScoreTerms {
    type Args = Args;
    const NAME: &'static str = "score_terms_f32";

    unsafe fn reference(t: &Args) {
        for s in 0..t.n {
            for r in 0..t.w {
                // SAFETY: s < n, r < w ≤ ld; what is not null has these elements.
                unsafe {
                    let x = t.x.add(s * t.ld + r);
                    let mut y = f64::from(*x);
                    if t.cap > 0.0 {
                        y = f64::from(t.cap) * (y / f64::from(t.cap)).tanh();
                    }
                    if !t.slope.is_null() {
                        let distance = (f64::from(*t.position.add(r)) - s as f64).abs();
                        y -= f64::from(*t.slope.add(r)) * distance;
                    }
                    if !t.tile.is_null() {
                        y += f64::from(*t.tile.add(s * t.ld + r));
                    }
                    if !t.row[0].is_null() {
                        for part in 0..2 {
                            y += f64::from(*t.row[part].add(r)) - f64::from(*t.key[part].add(s));
                        }
                    }
                    let seen = |s: f32| *t.first.add(r) <= s && s < *t.end.add(r);
                    let visible = t.first.is_null() || seen(s as f32);
                    *x = if visible { y as f32 } else { f32::NEG_INFINITY };
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(simd: S, t: &Args) {
        // SAFETY: the caller's contract.
        unsafe {
            if t.cap > 0.0 {
                let (cap, inverse) = (simd.splat_f32s(t.cap), simd.splat_f32s(1.0 / t.cap));
                each(
                    simd,
                    t,
                    |_, _| (),
                    |_, x, ()| simd.mul_f32s(cap, math::tanh(simd, simd.mul_f32s(x, inverse))),
                );
            }
            if !t.slope.is_null() {
                let vectors = |r: usize, _| (load(simd, t.slope.add(r)), load(simd, t.position.add(r)));
                each(simd, t, vectors, |s, x, (slope, position)| {
                    let distance = math::abs(simd, simd.sub_f32s(position, simd.splat_f32s(s as f32)));
                    simd.negate_mul_add_f32s(slope, distance, x)
                });
            }
            if !t.tile.is_null() {
                each(
                    simd,
                    t,
                    |r, _| t.tile.add(r),
                    |s, x, tile| simd.add_f32s(x, load(simd, tile.add(s * t.ld))),
                );
            }
            if !t.row[0].is_null() {
                let vectors = |r: usize, _| t.row.map(|row| load(simd, row.add(r)));
                each(simd, t, vectors, |s, x, [high, low]| {
                    let high = simd.sub_f32s(high, simd.splat_f32s(*t.key[0].add(s)));
                    let low = simd.sub_f32s(low, simd.splat_f32s(*t.key[1].add(s)));
                    simd.add_f32s(x, simd.add_f32s(high, low))
                });
            }
            if !t.first.is_null() {
                let vectors = |r: usize, _| (load(simd, t.first.add(r)), load(simd, t.end.add(r)));
                let masked = simd.splat_f32s(f32::NEG_INFINITY);
                each(simd, t, vectors, |s, x, (first, end)| {
                    let s = simd.splat_f32s(s as f32);
                    let x = math::select(simd, simd.less_than_or_equal_f32s(first, s), x, masked);
                    math::select(simd, simd.less_than_f32s(s, end), x, masked)
                });
            }
        }
    }
}

/// `X[s, r] = part(s, X[s, r], vectors(r))`.
///
/// # Safety
/// The contract of [`Args`]; `vectors` and `part` read what is there for `r < w`, `s < n`.
#[inline(always)]
unsafe fn each<S: Simd, V: Copy>(
    simd: S,
    t: &Args,
    vectors: impl Fn(usize, S) -> V,
    part: impl Fn(usize, S::f32s, V) -> S::f32s,
) {
    for r in (0..t.w).step_by(S::F32_LANES) {
        let vectors = vectors(r, simd);
        for s in 0..t.n {
            // SAFETY: w is a multiple of the lanes.
            unsafe {
                let x = t.x.add(s * t.ld + r);
                store(simd, x, part(s, load(simd, x), vectors));
            }
        }
    }
}
