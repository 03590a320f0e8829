//! Feature maps: rows of `q` and `k` to rows of features (`docs/spec/linear.md` 2).

use super::Unit;
use super::prepare::{Chunk, Prepared};
use super::recurrence::Recurrence;
use super::tiles::{Rows, Tiles};
use crate::CHUNK;
use crate::kernel::{elementwise, row_l2norm, row_softmax};
use std::ptr;

/// Map of the rows of `q` and `k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FeatureMap {
    /// The row itself.
    #[default]
    Identity,
    /// `x + 1` above zero, `eˣ` below.
    Elu1,
    /// `elu1(−x)`.
    Elu1Neg,
    /// `tanh x + 1`.
    Tanh1,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`.
    Relu2,
    /// `x σ(x)`.
    Silu,
    /// Softmax over the channels.
    Softmax,
    /// `eˣ`, with a running maximum per channel.
    Exp,
}

/// Where the epsilon of an L2 norm sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L2Mode {
    /// `x (Σx² + ε)^{-1/2}`.
    SquareAdd,
    /// `x / max(‖x‖, ε)`.
    Floor,
    /// `x / (‖x‖ + ε)`.
    Add,
}

/// L2 normalisation of rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct L2Norm {
    pub eps: f32,
    pub mode: L2Mode,
}

/// From a row of `q` or `k` to its features.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Features {
    pub map: FeatureMap,
    pub l2norm: Option<L2Norm>,
    /// `(c, s)`: features are `[c, s·x]`.
    pub constant: Option<(f32, f32)>,
}

impl Features {
    /// Whether a factor of the row is a factor of its features.
    pub fn is_linear(&self) -> bool {
        self.map == FeatureMap::Identity && self.l2norm.is_none() && self.constant.is_none()
    }
}

impl Unit<'_> {
    pub fn load_keys(&self, p: &Prepared, chunk: &Chunk) {
        let (g, tiles) = (self.geometry(), self.tiles());
        let k = self.tensor(self.call.tensors.k);
        let head = self.shared_head(self.engine.heads.k);
        let rows = (chunk.n, g.d);
        // SAFETY: `plan::check` bound `k` as [B, Hk, S, D]; the chunk lies in the sequence. `p.k` is [16, ldm].
        unsafe {
            let at = [self.sequence.batch, head, chunk.k0];
            tiles.load(&Rows::tokens(&k, &at, rows), 1.0, ptr::null(), p.k, g.ldm);
            tiles.features(self.recurrence(), p.k, rows, g.ldm, 1.0);
        }
    }

    pub fn load_queries(&self, p: &Prepared, chunk: &Chunk) {
        let (g, tiles) = (self.geometry(), self.tiles());
        let q = self.tensor(self.call.tensors.q);
        let rows = (chunk.n, g.d);
        for set in 0..g.n_sets {
            let head = self.query_head(set);
            let dst = p.q.wrapping_add(set * CHUNK * g.ldm);
            // SAFETY: as in `load_keys`, with `q` [B, Hq, T, D] and `p.q` [sets, 16, ldm].
            unsafe {
                let at = [self.sequence.batch, head, chunk.q0];
                let (scale, features) = (self.recurrence().scale, &self.recurrence().features);
                let (early, late) = match features.map {
                    _ if features.is_linear() => (scale, 1.0),
                    // `shift.rs` makes the features, and scales them.
                    FeatureMap::Exp => (1.0, 1.0),
                    _ => (1.0, scale),
                };
                tiles.load(&Rows::tokens(&q, &at, rows), early, ptr::null(), dst, g.ldm);
                tiles.features(self.recurrence(), dst, rows, g.ldm, late);
            }
        }
    }
}

impl Tiles {
    /// Packed rows `[n, ld]` of `d` channels to their features, times `scale`. The map `exp` is not done
    /// here: it needs the shift (`shift.rs`).
    ///
    /// # Safety
    /// `x` has `n · ld` elements; columns past `d` are zero, and `ld > d` if there is a constant feature.
    pub unsafe fn features(
        &self,
        recurrence: &Recurrence,
        x: *mut f32,
        (n, d): (usize, usize),
        ld: usize,
        scale: f32,
    ) {
        let features = &recurrence.features;
        let rows = if d == ld { (1, n * d) } else { (n, d) };
        let mut scale = scale;
        // SAFETY: the caller's contract.
        unsafe {
            if let Some(norm) = features.l2norm {
                let mode = match norm.mode {
                    L2Mode::SquareAdd => row_l2norm::Mode::SquareAdd,
                    L2Mode::Floor => row_l2norm::Mode::Floor,
                    L2Mode::Add => row_l2norm::Mode::Add,
                };
                (self.l2norm)(&row_l2norm::Args { n, d, x, ld, mode, eps: norm.eps, scale });
                scale = 1.0;
            }
            if let Some(map) = self.feature {
                for row in 0..rows.0 {
                    let x = x.add(row * ld);
                    map(&elementwise::Args { n: rows.1, src: x, dst: x });
                }
            }
            if features.map == FeatureMap::Softmax {
                (self.softmax)(&row_softmax::Args { n, d, x, ld });
            }
            if let Some((constant, factor)) = features.constant {
                for row in 0..n {
                    let x = std::slice::from_raw_parts_mut(x.add(row * ld), d + 1);
                    x[..d].iter_mut().for_each(|x| *x *= factor * scale);
                    x[d] = constant * scale;
                }
            } else if scale != 1.0 {
                for row in 0..rows.0 {
                    let x = std::slice::from_raw_parts_mut(x.add(row * ld), rows.1);
                    x.iter_mut().for_each(|x| *x *= scale);
                }
            }
        }
    }
}
