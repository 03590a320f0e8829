//! Denominators of a chunk, and the normaliser state they come from.
//!
//! ```text
//! den_i = q_i · z + Σ_{j ≤ i} A[i, j]          (every set of queries; then)
//! z ← end ⊙ z + Σ_j k_j
//! ```
//!
//! `q` carries scale and prefix decay, `k` the suffix decay, `A` the score block: what the value columns see
//! of a value that is always 1. Rows are `[n, ld]` with `d` rounded up to 16 columns worked on; padding of
//! `q`, `k` and `z` must be zero. Either half can be left out (`n_sets = 0`; `k` null).
//! *Numerics*: `f32` sums over lanes, fused. *Cost*: `(2·sets + 1)·n·d` FLOPs.

use super::Kernel;
use crate::CHUNK;
use pulp::Simd;

/// Operands of one call.
#[derive(Clone, Copy)]
pub struct Args {
    /// Tokens, at most 16.
    pub n: usize,
    /// Channels.
    pub d: usize,
    /// Elements between rows.
    pub ld: usize,
    /// Query rows, `[n_sets, 16, ld]`.
    pub q: *const f32,
    /// Number of sets.
    pub n_sets: usize,
    /// Score blocks, `[n_sets, 16, 16]`; null: none.
    pub a: *const f32,
    /// Denominators, `[n_sets, 16]`.
    pub den: *mut f32,
    /// Key rows, `[n, ld]`; null: leave `z` alone.
    pub k: *const f32,
    /// Decay of `z` over the chunk, `[d]`; null: 1.
    pub end: *const f32,
    /// Normaliser, `[d]`.
    pub z: *mut f32,
}

/// Denominators in `f32`.
pub struct Denominator;

impl Kernel for Denominator {
    type Args = Args;
    const NAME: &'static str = "denominator_f32";

    unsafe fn reference(t: &Args) {
        // SAFETY: `i < n ≤ 16`, `c < d`, `set < n_sets`.
        unsafe {
            for set in 0..t.n_sets {
                for i in 0..t.n {
                    let q = t.q.add((set * CHUNK + i) * t.ld);
                    let dot: f64 = (0..t.d).map(|c| f64::from(*q.add(c)) * f64::from(*t.z.add(c))).sum();
                    let own = |j| f64::from(*t.a.add((set * CHUNK + i) * CHUNK + j));
                    let scores: f64 = if t.a.is_null() { 0.0 } else { (0..=i).map(own).sum() };
                    *t.den.add(set * CHUNK + i) = (dot + scores) as f32;
                }
            }
            for c in 0..if t.k.is_null() { 0 } else { t.d } {
                let end = if t.end.is_null() { 1.0 } else { f64::from(*t.end.add(c)) };
                let sum: f64 = (0..t.n).map(|i| f64::from(*t.k.add(i * t.ld + c))).sum();
                *t.z.add(c) = (end * f64::from(*t.z.add(c)) + sum) as f32;
            }
        }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(simd: S, t: &Args) {
        // SAFETY: a vector never leaves the 16-column group it starts in; rows have those columns.
        unsafe {
            let load = |p: *const f32| p.cast::<S::f32s>().read_unaligned();
            for set in 0..t.n_sets {
                for i in 0..t.n {
                    let q = t.q.add((set * CHUNK + i) * t.ld);
                    let mut sum = [simd.splat_f32s(0.0); 2];
                    for (turn, c) in (0..t.d.next_multiple_of(16)).step_by(S::F32_LANES).enumerate() {
                        sum[turn % 2] = simd.mul_add_f32s(load(q.add(c)), load(t.z.add(c)), sum[turn % 2]);
                    }
                    if !t.a.is_null() {
                        let a = t.a.add((set * CHUNK + i) * CHUNK);
                        for c in (0..CHUNK).step_by(S::F32_LANES) {
                            sum[0] = simd.add_f32s(sum[0], load(a.add(c)));
                        }
                    }
                    *t.den.add(set * CHUNK + i) = simd.reduce_sum_f32s(simd.add_f32s(sum[0], sum[1]));
                }
            }
            if t.k.is_null() {
                return;
            }
            for c in (0..t.d.next_multiple_of(16)).step_by(S::F32_LANES) {
                let mut z = load(t.z.add(c));
                if !t.end.is_null() {
                    z = simd.mul_f32s(z, load(t.end.add(c)));
                }
                for i in 0..t.n {
                    z = simd.add_f32s(z, load(t.k.add(i * t.ld + c)));
                }
                t.z.add(c).cast::<S::f32s>().write_unaligned(z);
            }
        }
    }
}
