//! From gradients of features to those of rows of `q` or `k` (`docs/spec/linear.md` 2).
//!
//! ```text
//! constant:   φ = [s·x, c]                       dx = s · dφ
//! softmax:    φ = p                              dx = p ∘ (dφ − p·dφ)
//! l2norm:     φ = x r,  r = (Σx² + ε)^{-1/2}     dx = r dφ − r³ (x·dφ) x
//!             φ = x / max(‖x‖, ε)                the same with r = 1/‖x‖; r dφ below ε
//!             φ = x r,  r = 1/(‖x‖ + ε)          dx = r dφ − r² (x·dφ) x / ‖x‖
//! ```

use super::Reverse;
use crate::engine::linear::features::{FeatureMap, L2Mode, L2Norm};
use crate::engine::linear::tiles::Rows;
use crate::kernel::{map_grad, row_l2norm, row_softmax};
use crate::tensor::Tensor;
use std::ptr;

impl Reverse<'_> {
    /// Gradients of `n` rows in place: of features times `scale` on entry, of the rows of `tensor` at `at` on return.
    ///
    /// # Safety
    /// The tensor has these rows; `dx` is `[n, ldm]`.
    pub unsafe fn features_backward(
        &self,
        tensor: &Tensor,
        at: &[usize],
        n: usize,
        dx: *mut f32,
        scale: f32,
    ) {
        let g = self.unit.geometry();
        let features = &self.unit.recurrence().features;
        let factor = features.constant.map_or(scale, |(_, factor)| factor * scale);
        let (raw, unit) = (self.buffer(self.at().raw), self.buffer(self.at().unit));
        // SAFETY: the caller's contract; `raw` and `unit` are [16, ldm].
        unsafe {
            self.scale(dx, n, factor);
            if features.map == FeatureMap::Identity && features.l2norm.is_none() {
                return;
            }
            let rows = Rows::tokens(tensor, at, (n, g.d));
            self.unit.tiles().load(&rows, 1.0, ptr::null(), raw, g.ldm);
            // Rows of different buffers, one at a time.
            let row = |p: *mut f32, i: usize| std::slice::from_raw_parts_mut(p.add(i * g.ldm), g.d);
            let mut x = raw;
            if let (Some(norm), true) = (features.l2norm, features.map != FeatureMap::Identity) {
                ptr::copy_nonoverlapping(raw, unit, n * g.ldm);
                self.normalise(norm, unit, n);
                x = unit;
            }
            if let Some(map) = self.tiles().map_grad {
                for i in 0..n {
                    map(&map_grad::Args { n: g.d, x: x.add(i * g.ldm), dy: dx.add(i * g.ldm) });
                }
            }
            if features.map == FeatureMap::Softmax {
                (self.tiles().softmax)(&row_softmax::Args { n, d: g.d, x, ld: g.ldm });
                for i in 0..n {
                    softmax_gradient(row(x, i), row(dx, i));
                }
            }
            if let Some(norm) = features.l2norm {
                for i in 0..n {
                    let (x, dx) = (row(raw, i), row(dx, i));
                    normalised(norm, x, dx);
                }
            }
        }
    }

    unsafe fn normalise(&self, norm: L2Norm, x: *mut f32, n: usize) {
        let g = self.unit.geometry();
        let mode = match norm.mode {
            L2Mode::SquareAdd => row_l2norm::Mode::SquareAdd,
            L2Mode::Floor => row_l2norm::Mode::Floor,
            L2Mode::Add => row_l2norm::Mode::Add,
        };
        let args = row_l2norm::Args { n, d: g.d, x, ld: g.ldm, mode, eps: norm.eps, scale: 1.0 };
        // SAFETY: `x` is [n, ldm].
        unsafe { (self.tiles().l2norm)(&args) }
    }
}

/// Gradient of a softmax in place, by its values: `dx = p ∘ (dp − p·dp)`.
pub fn softmax_gradient(p: &[f32], dx: &mut [f32]) {
    let dot = dot(p, dx);
    dx.iter_mut().zip(p).for_each(|(dx, p)| *dx = p * (*dx - dot));
}

/// Gradient of an L2 norm in place. The row is brought to length 1 first, so that no sum of squares leaves the range.
pub fn normalised(norm: L2Norm, x: &mut [f32], dx: &mut [f32]) {
    let sum: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let (length, eps) = (sum.sqrt(), f64::from(norm.eps));
    // φ = x·r; dx = r (dφ − share · u (u·dφ)), where u = x / ‖x‖.
    let (r, share) = match norm.mode {
        L2Mode::SquareAdd => (1.0 / (sum + eps).sqrt(), sum / (sum + eps)),
        L2Mode::Floor if length < eps => (1.0 / eps, 0.0),
        L2Mode::Floor => (1.0 / length, 1.0),
        L2Mode::Add => (1.0 / (length + eps), length / (length + eps)),
    };
    let inverse = if length > 0.0 { (1.0 / length) as f32 } else { 0.0 };
    x.iter_mut().for_each(|x| *x *= inverse);
    let along = share as f32 * dot(x, dx);
    dx.iter_mut().zip(x).for_each(|(dx, u)| *dx = r as f32 * (*dx - along * *u));
}

/// Sum of products in eight lanes.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let (a, b) = (a.chunks(8), b.chunks(8));
    for (a, b) in a.zip(b) {
        a.iter().zip(b).zip(&mut lanes).for_each(|((a, b), lane)| *lane += a * b);
    }
    lanes.iter().sum()
}
