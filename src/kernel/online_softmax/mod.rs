//! One tile's part of a softmax whose rows come tile by tile, and its end (`docs/spec/softmax.md` 1.2).
//!
//! ```text
//! m' = max(m, max_s X[s, :])      factor = e^{m − m'}
//! X[s, :] = e^{X[s, :] − m'}      l = factor · l + Σ_s X[s, :]      m = m'
//! ```
//!
//! and after the last tile, with a sink's logit `k` where there is one,
//!
//! ```text
//! m' = max(m, k)      l' = l e^{m − m'} + e^{k − m'}      factor = e^{m − m'} / l'      lse = m' + ln l'
//! ```
//!
//! Queries are columns: maxima and sums are those of vectors, without a reduction across lanes.
//!
//! *Shapes*: `X` is `[n][ld]`, of which `w` columns, 4 or a multiple of 16, count. *Numerics*: a column that has seen no key
//! (`m = −inf`) has weights, sum and factor 0; a `NaN` or `+inf` makes its column's sum and weights `NaN`. A weight of a
//! masked key (`X = −inf`) is `−0`, which no visible key has: a reader that must not touch what is masked can tell. The sum is
//! taken in four parts, every fourth key in each, so its rounding grows with `n / 4`. *Cost*: an exponential and 8 bytes per
//! element; on a Zen 4 core a tile of 64 by 32 takes about 0.4 µs. Of 4 columns, those of a decode step, as many keys as fill
//! a vector are taken together, with the same bits.

use super::Kernel;
use crate::simd::math;
use crate::simd::mem::{load, store};
use pulp::Simd;

/// The weight of a masked key, as bits.
pub const MASKED: u32 = 0x8000_0000;

/// One tile. Vectors have `w` elements.
#[derive(Clone, Copy, Debug)]
pub struct Args {
    /// Keys.
    pub n: usize,
    /// Queries, rounded up to 4 where there are as few, else to 16.
    pub w: usize,
    /// Scores, then weights, `[n][ld]`.
    pub x: *mut f32,
    /// Elements between keys.
    pub ld: usize,
    /// Running maximum `m`; `−inf` at first.
    pub max: *mut f32,
    /// Running sum `l`; 0 at first.
    pub sum: *mut f32,
    /// What has been summed up so far has to be multiplied by this.
    pub factor: *mut f32,
    /// Set to whether any factor differs from 1.
    pub changed: *mut bool,
}

/// A tile's part.
pub struct OnlineSoftmax;

impl Kernel for OnlineSoftmax {
    type Args = Args;
    const NAME: &'static str = "online_softmax_f32";

    unsafe fn reference(t: &Args) {
        // SAFETY: s < n, r < w ≤ ld.
        unsafe {
            *t.changed = false;
            for r in 0..t.w {
                let x = |s: usize| t.x.add(s * t.ld + r);
                let old = *t.max.add(r);
                let max = (0..t.n).fold(old, |max, s| f32::max(max, *x(s)));
                let shift = if max == f32::NEG_INFINITY { 0.0 } else { f64::from(max) };
                let factor = (f64::from(old) - shift).exp();
                let mut sum = 0.0;
                for s in 0..t.n {
                    let weight = (f64::from(*x(s)) - shift).exp();
                    sum += weight;
                    *x(s) = if *x(s) == f32::NEG_INFINITY { -0.0 } else { weight as f32 };
                }
                *t.sum.add(r) = (f64::from(*t.sum.add(r)) * factor + sum) as f32;
                (*t.max.add(r), *t.factor.add(r)) = (max, factor as f32);
                *t.changed |= *t.factor.add(r) != 1.0;
            }
        }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(simd: S, t: &Args) {
        if t.w == 4 {
            // SAFETY: the same contract.
            return unsafe { four(simd, t) };
        }
        let lowest = simd.splat_f32s(f32::NEG_INFINITY);
        let (zero, one) = (simd.splat_f32s(0.0), simd.splat_f32s(1.0));
        let mut changed = zero;
        for r in (0..t.w).step_by(S::F32_LANES) {
            // SAFETY: w is a multiple of the lanes; s < n.
            unsafe {
                let x = t.x.add(r);
                let old = load(simd, t.max.add(r));
                let max = maximum(simd, x, t.n, t.ld, old);
                let shift = math::select(simd, simd.equal_f32s(max, lowest), zero, max);
                let factor = math::exp(simd, simd.sub_f32s(old, shift));
                let sum = weights(simd, x, t.n, t.ld, shift);
                store(simd, t.sum.add(r), simd.mul_add_f32s(factor, load(simd, t.sum.add(r)), sum));
                store(simd, t.max.add(r), max);
                store(simd, t.factor.add(r), factor);
                // A NaN counts as a change.
                changed = math::select(simd, simd.equal_f32s(factor, one), changed, one);
            }
        }
        // SAFETY: by contract.
        unsafe { *t.changed = simd.reduce_max_f32s(changed) != 0.0 };
    }
}

/// Maximum of `old` and of `n` vectors.
///
/// # Safety
/// They are readable.
#[inline(always)]
unsafe fn maximum<S: Simd>(simd: S, x: *const f32, n: usize, ld: usize, old: S::f32s) -> S::f32s {
    // A NaN may or may not get into it: the weights are NaN in either case.
    let mut max = [old; 4];
    for s in 0..n {
        // SAFETY: by contract.
        max[s % 4] = simd.max_f32s(unsafe { load(simd, x.add(s * ld)) }, max[s % 4]);
    }
    simd.max_f32s(simd.max_f32s(max[0], max[1]), simd.max_f32s(max[2], max[3]))
}

/// `n` vectors to their weights; returns the sum of those.
///
/// # Safety
/// They are readable and writable.
#[inline(always)]
unsafe fn weights<S: Simd>(simd: S, x: *mut f32, n: usize, ld: usize, shift: S::f32s) -> S::f32s {
    let lowest = simd.splat_f32s(f32::NEG_INFINITY);
    let masked = simd.splat_f32s(-0.0);
    let mut sum = [simd.splat_f32s(0.0); 4];
    for s in 0..n {
        // SAFETY: by contract.
        unsafe {
            let at = x.add(s * ld);
            let x = load(simd, at);
            let weight = math::exp(simd, simd.sub_f32s(x, shift));
            let weight = math::select(simd, simd.equal_f32s(x, lowest), masked, weight);
            store(simd, at, weight);
            sum[s % 4] = simd.add_f32s(sum[s % 4], weight);
        }
    }
    simd.add_f32s(simd.add_f32s(sum[0], sum[1]), simd.add_f32s(sum[2], sum[3]))
}

/// Four columns, with several keys to a vector.
///
/// # Safety
/// The contract of [`Args`]; `w` is 4.
#[inline(always)]
unsafe fn four<S: Simd>(simd: S, t: &Args) {
    let lowest = simd.splat_f32s(f32::NEG_INFINITY);
    let masked = simd.splat_f32s(-0.0);
    let (keys, parts) = (S::F32_LANES / 4, 16 / S::F32_LANES);
    // SAFETY: by contract; pieces beyond the last key are neither read nor written.
    unsafe {
        let rows = |s: usize| Pieces { at: t.x.add(s * t.ld), ld: t.ld, n: keys.min(t.n - s) };
        let mut max = [lowest; 4];
        for (i, s) in (0..t.n).step_by(keys).enumerate() {
            max[i % parts] = simd.max_f32s(rows(s).load(simd), max[i % parts]);
        }
        let old = t.max.cast::<[f32; 4]>().read();
        let mut top = old;
        for part in pieces::<S>(max) {
            top.iter_mut().zip(part).filter(|(top, x)| *x > **top).for_each(|(top, x)| *top = x);
        }
        let shift = top.map(|max| if max == f32::NEG_INFINITY { 0.0 } else { max });
        let each = |x: &[f32; 4]| Pieces { at: x.as_ptr().cast_mut(), ld: 0, n: keys }.load(simd);
        let (old, shift) = (each(&old), each(&shift));
        let mut sum = [simd.splat_f32s(0.0); 4];
        for (i, s) in (0..t.n).step_by(keys).enumerate() {
            let x = rows(s).load(simd);
            let weight = math::exp(simd, simd.sub_f32s(x, shift));
            let weight = math::select(simd, simd.equal_f32s(x, lowest), masked, weight);
            rows(s).store(simd, weight);
            sum[i % parts] = simd.add_f32s(sum[i % parts], weight);
        }
        let [a, b, c, d] = pieces::<S>(sum);
        let sum: [f32; 4] = std::array::from_fn(|r| (a[r] + b[r]) + (c[r] + d[r]));
        let factor = math::exp(simd, simd.sub_f32s(old, shift));
        let total = simd.mul_add_f32s(factor, each(&t.sum.cast::<[f32; 4]>().read()), each(&sum));
        let (factor, total) = (pieces::<S>([factor; 4])[0], pieces::<S>([total; 4])[0]);
        (*t.max.cast(), *t.sum.cast(), *t.factor.cast()) = (top, total, factor);
        *t.changed = factor != [1.0; 4];
    }
}

/// Vectors as pieces of 4 lanes, of which there are 4 at least.
#[inline(always)]
fn pieces<S: Simd>(x: [S::f32s; 4]) -> [[f32; 4]; 4] {
    // SAFETY: as many elements or more, and plain data.
    unsafe { std::mem::transmute_copy(&x) }
}

/// Up to a vector of lanes, from or to `n` places 4 by 4.
#[derive(Clone, Copy)]
struct Pieces {
    at: *mut f32,
    ld: usize,
    n: usize,
}

impl Pieces {
    /// `−inf` where there is no place.
    ///
    /// # Safety
    /// The places are readable.
    #[inline(always)]
    unsafe fn load<S: Simd>(self, simd: S) -> S::f32s {
        let mut x = simd.splat_f32s(f32::NEG_INFINITY);
        let to = (&raw mut x).cast::<[f32; 4]>();
        // SAFETY: by contract; a vector has this many pieces.
        unsafe {
            self.each::<S>(
                #[inline(always)]
                |i, at| to.add(i).write(at.read()),
            );
        }
        x
    }

    /// # Safety
    /// The places are writable.
    #[inline(always)]
    unsafe fn store<S: Simd>(self, _: S, x: S::f32s) {
        let from = (&raw const x).cast::<[f32; 4]>();
        // SAFETY: by contract; a vector has this many pieces.
        unsafe {
            self.each::<S>(
                #[inline(always)]
                |i, at| at.write(from.add(i).read()),
            );
        }
    }

    /// Calls `f` with the number and the place of each piece; of a whole vector without a branch.
    #[inline(always)]
    fn each<S: Simd>(self, f: impl Fn(usize, *mut [f32; 4])) {
        let place = |i: usize| self.at.wrapping_add(i * self.ld).cast();
        if self.n == S::F32_LANES / 4 {
            for i in 0..S::F32_LANES / 4 {
                f(i, place(i));
            }
        } else {
            for i in 0..self.n {
                f(i, place(i));
            }
        }
    }
}

/// The end of `w` rows, a multiple of 16.
#[derive(Clone, Copy, Debug)]
pub struct EndArgs {
    /// Queries, rounded up to 16.
    pub w: usize,
    /// Maximum.
    pub max: *const f32,
    /// Sum.
    pub sum: *const f32,
    /// Logits that count in the sum and have no value; null: none.
    pub sink: *const f32,
    /// What has been summed up has to be multiplied by this; 0 where there is nothing.
    pub factor: *mut f32,
    /// Natural logarithm of the normaliser; `−inf` where there is nothing.
    pub lse: *mut f32,
}

/// The end.
pub struct SoftmaxEnd;

impl Kernel for SoftmaxEnd {
    type Args = EndArgs;
    const NAME: &'static str = "softmax_end_f32";

    unsafe fn reference(t: &EndArgs) {
        for r in 0..t.w {
            // SAFETY: r < w.
            unsafe {
                let (max, sum) = (f64::from(*t.max.add(r)), f64::from(*t.sum.add(r)));
                let sink = if t.sink.is_null() { f64::NEG_INFINITY } else { f64::from(*t.sink.add(r)) };
                let top = max.max(sink);
                let shift = if top == f64::NEG_INFINITY { 0.0 } else { top };
                let weight = (max - shift).exp();
                let total = sum * weight + (sink - shift).exp();
                *t.factor.add(r) = if total == 0.0 { 0.0 } else { (weight / total) as f32 };
                *t.lse.add(r) = (shift + total.ln()) as f32;
            }
        }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(simd: S, t: &EndArgs) {
        let lowest = simd.splat_f32s(f32::NEG_INFINITY);
        let zero = simd.splat_f32s(0.0);
        for r in (0..t.w).step_by(S::F32_LANES) {
            // SAFETY: w is a multiple of the lanes.
            unsafe {
                let (max, sum) = (load(simd, t.max.add(r)), load(simd, t.sum.add(r)));
                let sink = if t.sink.is_null() { lowest } else { load(simd, t.sink.add(r)) };
                let top = simd.max_f32s(sink, max);
                let shift = math::select(simd, simd.equal_f32s(top, lowest), zero, top);
                let weight = math::exp(simd, simd.sub_f32s(max, shift));
                let total = math::exp(simd, simd.sub_f32s(sink, shift));
                let total = simd.mul_add_f32s(sum, weight, total);
                let none = simd.equal_f32s(total, zero);
                let factor = math::select(simd, none, zero, simd.div_f32s(weight, total));
                store(simd, t.factor.add(r), factor);
                store(simd, t.lse.add(r), simd.add_f32s(shift, math::log(simd, total)));
            }
        }
    }
}
