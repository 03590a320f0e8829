//! Feature maps: rows of `q` and `k` to rows of features (`docs/spec/linear.md` 2,
//! `docs/spec/random_features.md` 4 and 9, `docs/spec/sparse.md` 10).
//!
//! ```text
//! x = row_scale · row, or normalised        y = x, or (σ ⊙ x) W + b        φ = map(y)
//! ```
//!
//! A map of single channels, or of a row that keeps its width, works where the row was loaded. Others
//! (`maps.rs`, `gated.rs`) load it elsewhere. What all tokens of a head share, the packed weights, is prepared
//! once per task (`weights.rs`). *Cost*: `2·D` FLOPs per token and column of a projection, some operations
//! per feature.

mod gated;
mod maps;
mod weights;

pub use maps::{Operand, Span, raise, relu, rows};
pub use weights::{Given, Layout, dct};

use super::Unit;
use super::prepare::{Chunk, Prepared};
use super::recurrence::Recurrence;
use super::tiles::{Rows, Tiles};
use crate::CHUNK;
use crate::kernel::{elementwise, row_l2norm, row_softmax};
use crate::tensor::Tensor;
use std::ptr;

/// Map of the rows of `q` and `k`; `y` is the row, or its projection.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
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
    /// `[relu(x) sin θ_i | relu(x) cos θ_i]`, `θ_i = π i/(2 period)`, `i` from `position0`.
    Cosine { period: f64, position0: i64 },
    /// `r ⊙ roll(r, j)` for `j = 1 … nu`, `r = [relu(x) | relu(−x)]`.
    Rolled { nu: usize },
    /// `y^p ‖y‖/‖y^p‖`, `y = (relu(x) + eps)/temperature`, norms over all heads of the token if `joint`.
    Power { degree: u32, eps: f32, joint: bool },
    /// `[softmax(y) | softmax(−y)]` floored, or if `joint` one softmax over `[2y | −2y]`.
    Mirrored { joint: bool, floor: f32 },
    /// `scale · [sin y | cos y]`, or if `relu` `scale · relu(y)`.
    Fourier { relu: bool, scale: f32 },
    /// `γ ⊙ φ(x)`, `φ(x) = relu(x) + eps`, `γ = σ([φ(q); φ(k); v] w_gateᵀ + b_gate)` of the same token.
    Gated { eps: f32 },
}

/// A matrix that rows are multiplied with before the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Projection {
    /// None.
    #[default]
    None,
    /// The orthonormal DCT-III, then a factor per channel (role `w_diag`).
    Cosine,
    /// Weights of this width: `w [P, D]` of a key head or of all, after `sigma` if that may be bound.
    Rows { width: usize, sigma: bool },
    /// Weights of this width: `w_q`, `w_k [H, D, F]` with biases.
    PerHead { width: usize },
    /// Weights of this width: `w_qk [D, F]` with a bias, for both sides and all heads.
    Shared { width: usize },
}

impl Projection {
    /// Channels after the projection of `d`.
    pub fn width(self, d: usize) -> usize {
        match self {
            Projection::None | Projection::Cosine => d,
            Projection::Rows { width, .. } | Projection::PerHead { width } | Projection::Shared { width } => {
                width
            }
        }
    }
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

impl From<L2Mode> for row_l2norm::Mode {
    fn from(mode: L2Mode) -> row_l2norm::Mode {
        match mode {
            L2Mode::SquareAdd => row_l2norm::Mode::SquareAdd,
            L2Mode::Floor => row_l2norm::Mode::Floor,
            L2Mode::Add => row_l2norm::Mode::Add,
        }
    }
}

/// L2 normalisation of rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct L2Norm {
    pub eps: f32,
    pub mode: L2Mode,
}

/// From a row of `q` or `k` to its features.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Features {
    pub map: FeatureMap,
    pub l2norm: Option<L2Norm>,
    /// `(c, s)`: features are `[c, s·x]`.
    pub constant: Option<(f32, f32)>,
    /// Factors of the rows of `q` and of `k`, after the norm if there is one.
    pub row_scale: [f32; 2],
    pub projection: Projection,
    /// Factor of the features of `k`.
    pub key_scale: f32,
}

impl Default for Features {
    fn default() -> Features {
        Features {
            map: FeatureMap::Identity,
            l2norm: None,
            constant: None,
            row_scale: [1.0; 2],
            projection: Projection::None,
            key_scale: 1.0,
        }
    }
}

impl Features {
    /// Whether a factor of the row is a factor of its features.
    pub fn is_linear(&self) -> bool {
        self.map == FeatureMap::Identity && self.l2norm.is_none() && self.constant.is_none()
    }

    /// Features of a row of `d` channels.
    pub fn count(&self, d: usize) -> usize {
        let y = self.projection.width(d);
        match self.map {
            FeatureMap::Cosine { .. } => 2 * d,
            FeatureMap::Rolled { nu } => 2 * d * nu,
            FeatureMap::Mirrored { .. } | FeatureMap::Fourier { relu: false, .. } => 2 * y,
            _ => y + usize::from(self.constant.is_some()),
        }
    }

    /// Where positions count: that of a sequence's first row, and the largest that there may be.
    pub fn positions(&self) -> Option<(i64, f64)> {
        match self.map {
            FeatureMap::Cosine { period, position0 } => Some((position0, period)),
            _ => None,
        }
    }

    /// Whether features are made in place of the row.
    pub fn in_place(&self) -> bool {
        let own = matches!(
            self.map,
            FeatureMap::Cosine { .. }
                | FeatureMap::Rolled { .. }
                | FeatureMap::Power { .. }
                | FeatureMap::Mirrored { .. }
                | FeatureMap::Fourier { .. }
                | FeatureMap::Gated { .. }
        );
        !own && self.projection == Projection::None
    }
}

/// Whose rows: of which set of queries, or the keys'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Query(usize),
    Key,
}

/// Rows of one side and head in a chunk.
#[derive(Clone, Copy)]
pub struct Source {
    pub side: Side,
    pub tensor: Tensor,
    pub head: usize,
    /// First token, of the tensor.
    pub first: usize,
    /// First token, of the sequence.
    pub index: usize,
    pub n: usize,
}

impl Unit<'_> {
    /// A side's rows in a chunk.
    pub fn source(&self, side: Side, chunk: &Chunk) -> Source {
        let (tensors, s, n) = (&self.call.tensors, &self.sequence, chunk.n);
        match side {
            Side::Query(set) => {
                let (tensor, head, first) = (self.tensor(tensors.q), self.query_head(set), chunk.q0);
                Source { side, tensor, head, first, index: first - s.q0, n }
            }
            Side::Key => {
                let head = self.shared_head(self.engine.heads.k);
                let (tensor, first) = (self.tensor(tensors.k), chunk.k0);
                Source { side, tensor, head, first, index: first - s.k0, n }
            }
        }
    }

    /// Features of a chunk's keys and queries, as far as it writes and reads.
    pub fn load_features(&self, p: &Prepared, chunk: &Chunk) {
        if let FeatureMap::Gated { eps } = self.recurrence().features.map {
            return self.gated(p, chunk, eps);
        }
        if chunk.write {
            self.load_side(&self.source(Side::Key, chunk), p.k);
        }
        for set in 0..if chunk.read { self.geometry().n_sets } else { 0 } {
            let dst = p.q.wrapping_add(set * CHUNK * self.geometry().ldm);
            self.load_side(&self.source(Side::Query(set), chunk), dst);
        }
    }

    fn load_side(&self, source: &Source, dst: *mut f32) {
        let (g, tiles, features) = (self.geometry(), self.tiles(), &self.recurrence().features);
        if !features.in_place() {
            return self.mapped(source, dst);
        }
        let rows = (source.n, g.d);
        let (row_scale, scale) = match source.side {
            Side::Query(_) => (features.row_scale[0], self.recurrence().scale),
            Side::Key => (features.row_scale[1], 1.0),
        };
        let (early, late) = match features.map {
            _ if features.is_linear() => (row_scale * scale, 1.0),
            // `shift.rs` makes the features, and scales them.
            FeatureMap::Exp => (row_scale, 1.0),
            _ => (row_scale, scale),
        };
        // SAFETY: the tensor is [B, H, T, D] (checked) and the chunk lies in the sequence; `dst` is [16, ldm].
        unsafe {
            let at = [self.sequence.batch, source.head, source.first];
            tiles.load(&Rows::tokens(&source.tensor, &at, rows), early, ptr::null(), dst, g.ldm);
            tiles.features(self.recurrence(), dst, rows, g.ldm, late);
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
                let mode = norm.mode.into();
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
