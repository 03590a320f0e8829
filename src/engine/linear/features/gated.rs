//! Features that a gate of the same token multiplies (`docs/spec/sparse.md` 10).
//!
//! ```text
//! φ(x) = max(x, 0) + ε        γ = σ([φ(q); φ(k); v] w_gateᵀ + b_gate)        q' = γ ⊙ φ(q)   k' = γ ⊙ φ(k)
//! ```
//!
//! With `w_gate_k` and `b_gate_k`, keys have a gate of their own.

use super::maps::relu;
use super::{FeatureMap, Side, Source};
use crate::CHUNK;
use crate::engine::linear::Unit;
use crate::engine::linear::prepare::{Chunk, Prepared};
use crate::engine::linear::tiles::Rows;
use crate::kernel::{elementwise, matmul};
use std::ptr;

impl Unit<'_> {
    /// Gated features of a chunk's keys and queries, as far as it writes and reads.
    pub(super) fn gated(&self, p: &Prepared, chunk: &Chunk, eps: f32) {
        let two = self.call.tensors.given.w_k.is_some();
        debug_assert!(matches!(self.recurrence().features.map, FeatureMap::Gated { .. }));
        self.load_pieces(chunk, eps);
        if chunk.read || !two {
            self.gate(Side::Query(0), chunk.n);
        }
        if chunk.read {
            self.multiply(0, chunk.n, p.q);
        }
        if chunk.write {
            if two {
                self.gate(Side::Key, chunk.n);
            }
            self.multiply(1, chunk.n, p.k);
        }
    }

    /// What a gate reads of a chunk.
    pub fn load_pieces(&self, chunk: &Chunk, eps: f32) {
        let (query, key) = (self.source(Side::Query(0), chunk), self.source(Side::Key, chunk));
        let value = Source { tensor: self.tensor(self.call.tensors.v), ..key };
        let loaded = [(query, true), (key, true), (value, false)];
        for (piece, (source, positive)) in loaded.into_iter().enumerate() {
            self.load_piece(piece, &source, positive.then_some(eps));
        }
    }

    /// Rows of `q`, `k` or `v`, as features where there is an ε.
    pub fn piece(&self, piece: usize) -> *mut f32 {
        let at = &self.geometry().at.features;
        self.buffer(at.rows + piece * CHUNK * at.ldd)
    }

    fn load_piece(&self, piece: usize, source: &Source, eps: Option<f32>) {
        let (d, ldd) = (self.geometry().d, self.geometry().at.features.ldd);
        let dst = self.piece(piece);
        // SAFETY: the tensor is [B, H, T, D] (checked) with as many heads and tokens as the others; the buffer
        // is [16, ldd].
        unsafe {
            let at = [self.sequence.batch, source.head, source.first];
            self.tiles().load(&Rows::tokens(&source.tensor, &at, (source.n, d)), 1.0, ptr::null(), dst, ldd);
            if let Some(eps) = eps {
                let rows = std::slice::from_raw_parts_mut(dst, source.n * ldd);
                rows.iter_mut().for_each(|x| *x = relu(*x) + eps);
            }
        }
    }

    /// `γ`, to the buffer of projections.
    pub fn gate(&self, side: Side, n: usize) {
        let (d, at) = (self.geometry().d, &self.geometry().at.features);
        let [weights, bias, _] = self.packed(side);
        let gate = self.buffer(at.projected);
        // SAFETY: buffers have the extents that `Layout` names: three pieces [16, ldd], weights [3 d, ldw].
        unsafe {
            for piece in 0..3 {
                let mut product = matmul::Args::product(n, d, d, gate, at.ldw as isize);
                (product.a, product.lda) = (self.piece(piece), at.ldd);
                (product.b, product.ldb) = (weights.add(piece * d * at.ldw), at.ldw);
                (product.c0, product.ldc0) =
                    if piece == 0 { (bias.cast_const(), 0) } else { (gate.cast_const(), at.ldw as isize) };
                (self.tiles().matmul)(&product);
            }
            for i in 0..n {
                let row = gate.add(i * at.ldw);
                (self.tiles().sigmoid)(&elementwise::Args { n: d, src: row, dst: row });
            }
        }
    }

    /// The gate times the features of a piece.
    fn multiply(&self, piece: usize, n: usize, dst: *mut f32) {
        let (d, ldm, at) = (self.geometry().d, self.geometry().ldm, &self.geometry().at.features);
        // SAFETY: buffers have the extents that `Layout` names; `dst` is [16, ldm].
        unsafe {
            for i in 0..n {
                let row = std::slice::from_raw_parts_mut(dst.add(i * ldm), ldm);
                let gate = std::slice::from_raw_parts(self.buffer(at.projected + i * at.ldw), d);
                let x = std::slice::from_raw_parts(self.piece(piece).add(i * at.ldd), d);
                row[..d].iter_mut().zip(gate).zip(x).for_each(|((y, g), x)| *y = g * x);
                row[d..].fill(0.0);
            }
        }
    }
}
