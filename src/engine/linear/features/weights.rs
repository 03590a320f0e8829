//! What the maps share between tokens: weights, biases, factors; packed once per task.

use super::{FeatureMap, Features, Projection, Side};
use crate::CHUNK;
use crate::catalog::Role;
use crate::engine::linear::Unit;
use crate::engine::linear::tiles::Rows;
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use crate::workspace::Carver;
use std::f64::consts::PI;
use std::ptr;
use std::sync::Arc;

/// Largest `D` of a cosine transform, whose matrix a plan holds.
const MAX_DCT: usize = 4096;

/// Tensors that maps read beside `q` and `k`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given {
    pub w: Option<Tensor>,
    pub sigma: Option<Tensor>,
    pub w_q: Option<Tensor>,
    pub w_k: Option<Tensor>,
    pub b_q: Option<Tensor>,
    pub b_k: Option<Tensor>,
    pub w_diag: Option<Tensor>,
    pub temperature: Option<Tensor>,
}

impl Given {
    /// By what each role is bound to. Gates and weights for both sides take the places of weights per side.
    pub fn of(get: impl Fn(Role) -> Option<Tensor>) -> Given {
        let side = |own: Role, gate: Role| get(own).or_else(|| get(gate));
        Given {
            w: get(Role::W),
            sigma: get(Role::SIGMA),
            w_q: side(Role::W_Q, Role::W_GATE).or_else(|| get(Role::W_QK)),
            w_k: side(Role::W_K, Role::W_GATE_K),
            b_q: side(Role::B_Q, Role::B_GATE).or_else(|| get(Role::B_QK)),
            b_k: side(Role::B_K, Role::B_GATE_K),
            w_diag: get(Role::W_DIAG),
            temperature: get(Role::TEMPERATURE),
        }
    }
}

/// Buffers of the maps in a worker's memory: offsets in elements. Nothing where maps work in place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layout {
    /// Elements between rows as they are loaded.
    pub ldd: usize,
    /// Elements between rows of weights, and of projections.
    pub ldw: usize,
    /// Rows of weights.
    pub depth: usize,
    /// Rows as loaded `[16, ldd]`; three times that for a gate.
    pub rows: usize,
    /// Rows after the projection `[16, ldw]`.
    pub projected: usize,
    /// Weights `[sets + 1, depth, ldw]`, those of the keys last; of all in the first place if they are shared.
    pub weights: usize,
    /// Biases `[sets + 1, ldw]`.
    pub bias: usize,
    /// Factors of channels `[sets + 1, ldd]`.
    pub factors: usize,
}

impl Layout {
    /// The buffers for rows of `d` channels and this many sets of queries.
    pub fn carve(carver: &mut Carver, features: &Features, d: usize, n_sets: usize) -> Layout {
        if features.in_place() {
            return Layout::default();
        }
        let gated = matches!(features.map, FeatureMap::Gated { .. });
        let ldd = d.next_multiple_of(16);
        let ldw = match features.map {
            // Both halves of `r`.
            FeatureMap::Rolled { .. } => 2 * ldd,
            _ => features.projection.width(d).next_multiple_of(16),
        };
        let depth = if gated { 3 * d } else { d };
        let packed = match features.projection {
            Projection::None if gated => n_sets + 1,
            Projection::None | Projection::Cosine => 0,
            Projection::Rows { .. } | Projection::Shared { .. } => 1,
            Projection::PerHead { .. } => n_sets + 1,
        };
        Layout {
            ldd,
            ldw,
            depth,
            rows: carver.take(&[if gated { 3 } else { 1 }, CHUNK, ldd]),
            projected: carver.take(&[CHUNK, ldw]),
            weights: carver.take(&[packed, depth, ldw]),
            bias: carver.take(&[packed, ldw]),
            factors: carver.take(&[n_sets + 1, ldd]),
        }
    }
}

/// The orthonormal DCT-III as a matrix `[d, ld]` that rows are multiplied with from the left, `ld` the next
/// multiple of 16: `c_k cos(π (2n + 1) k / 2d)`, `c_0 = d^{−1/2}`, else `(2/d)^{1/2}`.
///
/// # Errors
/// More than 4096 channels: the matrix would be too large.
pub fn dct(d: usize) -> Result<Arc<[f32]>> {
    if d > MAX_DCT {
        let what = format!("a cosine transform of desc.dim_qk = {d}");
        return Err(Error::Unsupported { what, why: format!("it is a matrix, of at most {MAX_DCT} rows") });
    }
    let ld = d.next_multiple_of(16);
    let mut matrix = vec![0.0; d * ld];
    for (k, row) in matrix.chunks_exact_mut(ld).enumerate() {
        let c = (if k == 0 { 1.0 } else { 2.0 } / d as f64).sqrt();
        for (n, x) in row[..d].iter_mut().enumerate() {
            // The period is 4d.
            let turn = (2 * n + 1) * k % (4 * d);
            *x = (c * (PI * turn as f64 / (2 * d) as f64).cos()) as f32;
        }
    }
    Ok(matrix.into())
}

impl Unit<'_> {
    /// Where a side's weights, bias and factors begin.
    pub fn packed(&self, side: Side) -> [*mut f32; 3] {
        let (at, shared) = (&self.geometry().at.features, self.shares_weights());
        let own = if let Side::Query(set) = side { set } else { self.geometry().n_sets };
        let slot = if shared { 0 } else { own };
        [
            self.buffer(at.weights + slot * at.depth * at.ldw),
            self.buffer(at.bias + slot * at.ldw),
            self.buffer(at.factors + own * at.ldd),
        ]
    }

    /// Whether all sides have the same weights.
    fn shares_weights(&self) -> bool {
        matches!(self.recurrence().features.projection, Projection::Rows { .. } | Projection::Shared { .. })
    }

    /// Packs what the maps of this unit read for every token.
    pub fn prepare_features(&self) {
        let (g, features, given) = (self.geometry(), &self.recurrence().features, &self.call.tensors.given);
        if features.in_place() {
            return;
        }
        let key = self.shared_head(self.engine.heads.k);
        let sides =
            (0..g.n_sets).map(|set| (Side::Query(set), self.query_head(set))).chain([(Side::Key, key)]);
        for (side, head) in sides {
            match (features.projection, features.map) {
                (Projection::Rows { .. }, _) => {
                    if side == Side::Key {
                        self.pack_rows(&self.tensor(given.w), key);
                    }
                    self.pack_factors(side, &given.sigma, &[head, 0], 1);
                }
                (Projection::Cosine, _) => self.pack_factors(side, &given.w_diag, &[0], 0),
                (Projection::PerHead { .. }, _) => {
                    let (w, b) =
                        if side == Side::Key { (given.w_k, given.b_k) } else { (given.w_q, given.b_q) };
                    self.pack_weights(side, &self.tensor(w), (&[head, 0, 0], 1, 2));
                    self.pack_bias(side, &b, &[head, 0], 1);
                }
                (Projection::Shared { .. }, _) if side == Side::Key => {
                    self.pack_weights(side, &self.tensor(given.w_q), (&[0, 0], 0, 1));
                    self.pack_bias(side, &given.b_q, &[0], 0);
                }
                (Projection::None, FeatureMap::Gated { .. }) => {
                    let own = if side == Side::Key { (given.w_k, given.b_k) } else { (given.w_q, given.b_q) };
                    if let (Some(w), b) = own {
                        self.pack_weights(side, &w, (&[0, 0], 1, 0));
                        self.pack_bias(side, &b, &[0], 0);
                    }
                }
                _ => {}
            }
        }
    }

    /// `w`: one matrix `[P, D]`, or one for each key head or for all.
    fn pack_rows(&self, w: &Tensor, head: usize) {
        let head = if w.extent(0) == 1 { 0 } else { head };
        match w.layout.rank {
            2 => self.pack_weights(Side::Key, w, (&[0, 0], 1, 0)),
            _ => self.pack_weights(Side::Key, w, (&[head, 0, 0], 2, 1)),
        }
    }

    /// A matrix from `at` on, its axes of depth and of width.
    fn pack_weights(&self, side: Side, w: &Tensor, (at, rows, columns): (&[usize], usize, usize)) {
        let layout = &self.geometry().at.features;
        let (n, d) = (layout.depth, w.extent(columns));
        let from = Rows { tensor: w, at, rows, columns, n, d };
        // SAFETY: `plan::check` bound the tensor with this depth and width; the buffer is [depth, ldw].
        unsafe { self.tiles().load(&from, 1.0, ptr::null(), self.packed(side)[0], layout.ldw) }
    }

    /// A bias, or zeros.
    fn pack_bias(&self, side: Side, bias: &Option<Tensor>, at: &[usize], axis: usize) {
        let ldw = self.geometry().at.features.ldw;
        let dst = self.packed(side)[1];
        // SAFETY: the buffer is [ldw], and the tensor has at most as many values (checked).
        unsafe {
            ptr::write_bytes(dst, 0, ldw);
            if let Some(bias) = bias {
                self.tiles().gather(bias, at, axis, bias.extent(axis), dst);
            }
        }
    }

    /// Factors of the channels, or ones.
    fn pack_factors(&self, side: Side, factors: &Option<Tensor>, at: &[usize], axis: usize) {
        let (d, ldd) = (self.geometry().d, self.geometry().at.features.ldd);
        let dst = self.packed(side)[2];
        // SAFETY: the buffer is [ldd], the tensor's axis [D] (checked).
        unsafe {
            std::slice::from_raw_parts_mut(dst, ldd).fill(1.0);
            if let Some(factors) = factors {
                self.tiles().gather(factors, at, axis, d, dst);
            }
        }
    }
}
