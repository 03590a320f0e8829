//! One tile's part of a search for the largest score, whose keys come tile by tile (`docs/spec/softmax.md` 9).
//!
//! ```text
//! s* = the smallest s with the largest X[s, :]
//! m, key = X[s*, :], s*   if X[s*, :] > m, else m, −1
//! ```
//!
//! Queries are columns, as in [`super::online_softmax`].
//!
//! *Shapes*: `X` is `[n][ld]`, of which `w` columns, a multiple of 16, count. *Numerics*: comparisons only. A `NaN` is
//! larger than everything, and the first one stays, so that it can't hide; `−inf` is no score. *Cost*: 4 bytes and
//! seven operations per element.

use super::Kernel;
use crate::simd::math;
use crate::simd::mem::{load, store};
use pulp::Simd;

/// One tile. Vectors have `w` elements.
#[derive(Clone, Copy, Debug)]
pub struct Args {
    /// Keys, less than 2²⁴.
    pub n: usize,
    /// Queries, rounded up to 16.
    pub w: usize,
    /// Scores, `[n][ld]`.
    pub x: *const f32,
    /// Elements between keys.
    pub ld: usize,
    /// Running maximum; `−inf` at first.
    pub max: *mut f32,
    /// The key that it came from, counted from the first of the tile; −1: one of an earlier tile.
    pub key: *mut f32,
}

/// The kernel.
pub struct BestKey;

impl Kernel for BestKey {
    type Args = Args;
    const NAME: &'static str = "best_key_f32";

    unsafe fn reference(t: &Args) {
        for r in 0..t.w {
            // SAFETY: s < n, r < w ≤ ld.
            unsafe {
                let (max, key) = (t.max.add(r), t.key.add(r));
                *key = -1.0;
                for s in 0..t.n {
                    let x = *t.x.add(s * t.ld + r);
                    if !(*max).is_nan() && (x.is_nan() || x > *max) {
                        (*max, *key) = (x, s as f32);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(simd: S, t: &Args) {
        for r in (0..t.w).step_by(S::F32_LANES) {
            // SAFETY: w is a multiple of the lanes; s < n.
            unsafe {
                let mut max = load(simd, t.max.add(r));
                let mut key = simd.splat_f32s(-1.0);
                for s in 0..t.n {
                    let x = load(simd, t.x.add(s * t.ld + r));
                    // False for a NaN on either side: the score's is taken, the maximum's stays.
                    let kept = simd.less_than_or_equal_f32s(x, max);
                    let number = simd.equal_f32s(max, max);
                    let at = math::select(simd, kept, key, simd.splat_f32s(s as f32));
                    key = math::select(simd, number, at, key);
                    max = math::select(simd, number, math::select(simd, kept, max, x), max);
                }
                store(simd, t.max.add(r), max);
                store(simd, t.key.add(r), key);
            }
        }
    }
}
