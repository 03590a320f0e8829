//! From scores to weights and the gradients of scores, a tile of attention in reverse (`docs/spec/softmax.md` 1.6, 11).
//!
//! ```text
//! P[s, r] = factor[r] · e^{X[s, r] − shift[r]}                                  0 where X[s, r] = −∞
//! W[s, r] = P                     dX[s, r] = P (dP[s, r] − delta[r])
//! ```
//!
//! and with a second score `t` that weighs the values (a probe),
//!
//! ```text
//! W[s, r] = P (1 + mean[r] − t)   dX[s, r] = P (dP − delta[r] + (mean[r] − t)(dP − along[r]))
//! dt[s, r] = −P (dP − along[r])
//! ```
//!
//! With a soft cap `Y = cap · tanh(·/cap)` the gradient before it is `dY = dX (1 − (Y / cap)²)`. Sums of
//! `dX |position[r] − s|` are the gradient of a slope over distances.
//!
//! Queries are columns, as in [`super::score_terms`]. *Shapes*: tiles are `[n][ld]`, of which `w` columns, a multiple of
//! 16, are computed. *Numerics*: `W` replaces `X`, and is `−0` where a key is masked, which tells a reader that must not
//! touch it; gradients there are 0 whatever the tiles hold. A column with `shift = f32::MAX` has weights of 0.
//! *Cost*: an exponential and 16 bytes per element.

use super::Kernel;
use super::online_softmax::MASKED;
use crate::simd::math;
use crate::simd::mem::{load, store};
use pulp::Simd;
use std::ptr;

/// One tile. Vectors have `w` elements.
#[derive(Clone, Copy, Debug)]
pub struct Args {
    /// Keys.
    pub n: usize,
    /// Queries, rounded up to 16.
    pub w: usize,
    /// Elements between keys of every tile.
    pub ld: usize,
    /// Scores `X`, then weights `W`.
    pub x: *mut f32,
    /// Gradient `dP` of the weights.
    pub dp: *const f32,
    /// Gradient `dX`; may be `dp`.
    pub dx: *mut f32,
    /// What is subtracted from scores.
    pub shift: *const f32,
    /// Factor of the weights.
    pub factor: *const f32,
    /// `Σ_s P dP`, or what stands in its place with a probe.
    pub delta: *const f32,
    /// Soft cap; 0: none.
    pub cap: f32,
    /// Capped scores `Y`, then `dY`; read with `cap`.
    pub y: *mut f32,
    /// Scores `t` of the probe, then their gradient; null: none.
    pub t: *mut f32,
    /// Mean of `t`; read with `t`.
    pub mean: *const f32,
    /// `dP` averaged; read with `t`.
    pub along: *const f32,
    /// Position of each query, counted from the first key of the tile; null: no sums over distances.
    pub position: *const f32,
    /// Those sums, added to; written with `position`.
    pub distance: *mut f32,
}

impl Args {
    /// A tile without cap, probe and distances, whose gradients replace `dp`.
    pub fn plain(n: usize, w: usize, ld: usize, x: *mut f32, dp: *mut f32) -> Args {
        let (none, nowhere) = (ptr::null(), ptr::null_mut());
        Args {
            n,
            w,
            ld,
            x,
            dp,
            dx: dp,
            shift: none,
            factor: none,
            delta: none,
            cap: 0.0,
            y: nowhere,
            t: nowhere,
            mean: none,
            along: none,
            position: none,
            distance: nowhere,
        }
    }
}

/// The kernel.
pub struct ScoreGrad;

impl Kernel for ScoreGrad {
    type Args = Args;
    const NAME: &'static str = "score_grad_f32";

    unsafe fn reference(a: &Args) {
        for r in 0..a.w {
            // SAFETY: s < n, r < w ≤ ld; what is not null has these elements.
            unsafe {
                let vector = |p: *const f32| if p.is_null() { 0.0 } else { f64::from(*p.add(r)) };
                let (mean, along, mut distance) = (vector(a.mean), vector(a.along), 0.0);
                for s in 0..a.n {
                    let at = s * a.ld + r;
                    let (x, dp) = (*a.x.add(at), f64::from(*a.dp.add(at)));
                    let seen = x != f32::NEG_INFINITY;
                    let p = vector(a.factor) * (f64::from(x) - vector(a.shift)).exp();
                    let (mut weight, mut dx) = (p, p * (dp - vector(a.delta)));
                    if !a.t.is_null() {
                        let t = a.t.add(at);
                        let apart = mean - f64::from(*t);
                        weight = p * (1.0 + apart);
                        dx = p * (dp - vector(a.delta) + apart * (dp - along));
                        *t = if seen { (p * (along - dp)) as f32 } else { 0.0 };
                    }
                    dx = if seen { dx } else { 0.0 };
                    *a.x.add(at) = if seen { weight as f32 } else { f32::from_bits(MASKED) };
                    *a.dx.add(at) = dx as f32;
                    if a.cap > 0.0 {
                        let share = f64::from(*a.y.add(at)) / f64::from(a.cap);
                        let dy = dx * (1.0 - share * share);
                        *a.y.add(at) = if dx == 0.0 { 0.0 } else { dy as f32 };
                    }
                    if !a.position.is_null() {
                        distance += dx * (vector(a.position) - s as f64).abs();
                    }
                }
                if !a.position.is_null() {
                    *a.distance.add(r) = (f64::from(*a.distance.add(r)) + distance) as f32;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(simd: S, a: &Args) {
        // SAFETY: the caller's contract.
        unsafe {
            if a.t.is_null() {
                gradients::<S, false>(simd, a);
            } else {
                gradients::<S, true>(simd, a);
            }
            if !a.position.is_null() {
                distances(simd, a);
            }
            if a.cap > 0.0 {
                before_cap(simd, a);
            }
        }
    }
}

/// Weights and gradients at the softmax's input.
///
/// # Safety
/// The contract of [`Args`]; with `PROBE` there is a second score.
#[inline(always)]
unsafe fn gradients<S: Simd, const PROBE: bool>(simd: S, a: &Args) {
    let lowest = simd.splat_f32s(f32::NEG_INFINITY);
    let (zero, one) = (simd.splat_f32s(0.0), simd.splat_f32s(1.0));
    let masked = simd.splat_f32s(f32::from_bits(MASKED));
    for r in (0..a.w).step_by(S::F32_LANES) {
        // SAFETY: w is a multiple of the lanes.
        unsafe {
            let [shift, factor, delta] = [a.shift, a.factor, a.delta].map(|p| load(simd, p.add(r)));
            let [mean, along] = [a.mean, a.along].map(|p| if PROBE { load(simd, p.add(r)) } else { zero });
            for s in 0..a.n {
                let at = s * a.ld + r;
                let (x, dp) = (load(simd, a.x.add(at)), load(simd, a.dp.add(at)));
                let unseen = simd.equal_f32s(x, lowest);
                let p = simd.mul_f32s(factor, math::exp(simd, simd.sub_f32s(x, shift)));
                let mut weight = p;
                let mut inner = simd.sub_f32s(dp, delta);
                if PROBE {
                    let t = a.t.add(at);
                    let apart = simd.sub_f32s(mean, load(simd, t));
                    let of_probe = simd.sub_f32s(along, dp);
                    weight = simd.mul_f32s(p, simd.add_f32s(one, apart));
                    inner = simd.negate_mul_add_f32s(apart, of_probe, inner);
                    store(simd, t, math::select(simd, unseen, zero, simd.mul_f32s(p, of_probe)));
                }
                store(simd, a.x.add(at), math::select(simd, unseen, masked, weight));
                store(simd, a.dx.add(at), math::select(simd, unseen, zero, simd.mul_f32s(p, inner)));
            }
        }
    }
}

/// Sums over distances.
///
/// # Safety
/// The contract of [`Args`]; `dx` is there, and so are positions.
#[inline(always)]
unsafe fn distances<S: Simd>(simd: S, a: &Args) {
    for r in (0..a.w).step_by(S::F32_LANES) {
        // SAFETY: w is a multiple of the lanes.
        unsafe {
            let position = load(simd, a.position.add(r));
            let mut sum = simd.splat_f32s(0.0);
            for s in 0..a.n {
                let distance = math::abs(simd, simd.sub_f32s(position, simd.splat_f32s(s as f32)));
                sum = simd.mul_add_f32s(load(simd, a.dx.add(s * a.ld + r)), distance, sum);
            }
            let to = a.distance.add(r);
            store(simd, to, simd.add_f32s(load(simd, to), sum));
        }
    }
}

/// Gradients before the cap.
///
/// # Safety
/// The contract of [`Args`]; `dx` is there, and so is `y`.
#[inline(always)]
unsafe fn before_cap<S: Simd>(simd: S, a: &Args) {
    let (one, inverse) = (simd.splat_f32s(1.0), simd.splat_f32s(1.0 / a.cap));
    let zero = simd.splat_f32s(0.0);
    for r in (0..a.w).step_by(S::F32_LANES) {
        for s in 0..a.n {
            // SAFETY: w is a multiple of the lanes.
            unsafe {
                let at = s * a.ld + r;
                let share = simd.mul_f32s(load(simd, a.y.add(at)), inverse);
                let slope = simd.negate_mul_add_f32s(share, share, one);
                let dx = load(simd, a.dx.add(at));
                // What is masked has a gradient of 0, though its score may be no number.
                let dy = math::select(simd, simd.equal_f32s(dx, zero), zero, simd.mul_f32s(dx, slope));
                store(simd, a.y.add(at), dy);
            }
        }
    }
}
