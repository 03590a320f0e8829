//! Features under a gate of the same token, in reverse (`docs/spec/sparse.md` 10).
//!
//! ```text
//! dγ = dq' ∘ φ(q) + dk' ∘ φ(k)      du = dγ ∘ γ (1 − γ)      dw_gate = Σ duᵀ [φ(q); φ(k); v]      db_gate = Σ du
//! [dφ(q); dφ(k); dv] += du w_gate,  dφ(q) += γ ∘ dq',  dφ(k) += γ ∘ dk'                    dx = dφ where x > 0
//! ```
//!
//! A gate of the keys' own takes the terms of `k'`. Where queries and keys come in passes of their own, each adds
//! its part to all three gradients, the queries' first.

use super::Reverse;
use crate::CHUNK;
use crate::engine::linear::features::{FeatureMap, Operand, Side, rows};
use crate::engine::linear::prepare::Chunk;

impl Reverse<'_> {
    /// Whether gradients of `v` have a part from the queries' pass already when the keys' begins.
    pub fn gates_before_values(&self) -> bool {
        let gated = matches!(self.unit.recurrence().features.map, FeatureMap::Gated { .. });
        gated && !self.unit.call.causal
    }

    /// From gradients of a chunk's features to the caller's gradients.
    ///
    /// # Safety
    /// `dq_rows` and `dk_rows` hold the former, as far as the chunk reads and writes.
    pub unsafe fn gated_backward(&self, chunk: &Chunk, eps: f32) {
        let (g, at, unit, n) = (self.unit.geometry(), self.at(), &self.unit, chunk.n);
        let ldd = g.at.features.ldd;
        let two = unit.call.tensors.given.w_k.is_some();
        let dx = self.buffer(at.maps.dx);
        unit.load_pieces(chunk, eps);
        // SAFETY: buffers have the extents that `Offsets` and `Maps` name; gradients have the shapes of `q`, `k`
        // and `v` (checked), which have the same heads, tokens and channels.
        unsafe {
            std::ptr::write_bytes(dx, 0, 3 * CHUNK * ldd);
            let queries = (0, chunk.read, self.buffer(at.dq_rows));
            let keys = (1, chunk.write, self.buffer(at.dk_rows));
            if two {
                for (side, part) in [(Side::Query(0), queries), (Side::Key, keys)] {
                    if part.1 {
                        self.gate_backward(side, n, &[part]);
                    }
                }
            } else {
                self.gate_backward(Side::Query(0), n, &[queries, keys]);
            }
            let sides = [Side::Query(0), Side::Key];
            let grads = [&self.grads.q, &self.grads.k, &self.grads.v];
            for (piece, to) in grads.into_iter().enumerate() {
                let Some(to) = to else { continue };
                // Values have the heads and tokens of the keys.
                let source = unit.source(sides[piece.min(1)], chunk);
                let dx = dx.add(piece * CHUNK * ldd);
                if piece < 2 {
                    let x = unit.load_rows(&source, source.head);
                    for (x, dx) in rows(x.y, (n, g.d), x.ld).zip(rows(dx, (n, g.d), ldd)) {
                        dx.iter_mut().zip(x).filter(|(_, x)| **x <= 0.0).for_each(|(dx, _)| *dx = 0.0);
                    }
                }
                let first = if piece == 2 { !chunk.write } else { unit.call.causal || chunk.read };
                let place = [unit.sequence.batch, source.head, source.first];
                self.store_sum(dx, ldd, to, &place, (n, g.d), first);
            }
        }
    }

    /// One gate: parts are a piece, whether it has a gradient, and that of its gated features.
    unsafe fn gate_backward(&self, side: Side, n: usize, parts: &[(usize, bool, *mut f32)]) {
        let (g, unit) = (self.unit.geometry(), &self.unit);
        let layout = &g.at.features;
        let maps = &self.at().maps;
        let du = Operand { y: self.buffer(maps.dy), ld: layout.ldw, width: g.d };
        let piece = |piece| Operand { y: unit.piece(piece), ld: layout.ldd, width: g.d };
        let dx = |piece| Operand {
            y: self.buffer(maps.dx + piece * CHUNK * layout.ldd),
            ..piece_of(layout.ldd, g.d)
        };
        let through = Operand { y: self.buffer(maps.phi), ..piece_of(layout.ldd, g.d) };
        unit.gate(side, n);
        // SAFETY: as in `gated_backward`; the gate is in `projected`, `phi` has rows of `ldm = ldd`.
        unsafe {
            std::ptr::write_bytes(du.y, 0, CHUNK * du.ld);
            for i in 0..n {
                let row = |o: Operand| std::slice::from_raw_parts_mut(o.y.add(i * o.ld), g.d);
                let gate = std::slice::from_raw_parts(self.buffer(layout.projected + i * layout.ldw), g.d);
                let du = row(du);
                for &(which, on, dphi) in parts {
                    if !on {
                        continue;
                    }
                    let dphi = std::slice::from_raw_parts(dphi.add(i * g.ldm), g.d);
                    let (x, dx) = (row(piece(which)), row(dx(which)));
                    for c in 0..g.d {
                        du[c] += dphi[c] * x[c];
                        dx[c] += dphi[c] * gate[c];
                    }
                }
                du.iter_mut().zip(gate).for_each(|(du, gate)| *du *= gate * (1.0 - gate));
            }
            let slot = self.slot_of(side);
            let [weights, ..] = unit.packed(side);
            for which in 0..3 {
                let first = which * g.d;
                self.add_weights(slot, first, n, piece(which), du);
                self.through(n, du, (weights.add(first * layout.ldw), layout.ldw), through);
                let pairs =
                    rows(through.y, (n, g.d), through.ld).zip(rows(dx(which).y, (n, g.d), layout.ldd));
                for (through, dx) in pairs {
                    dx.iter_mut().zip(through).for_each(|(dx, x)| *dx += *x);
                }
            }
            self.add_bias(slot, n, du);
        }
    }
}

/// Rows of `width`, `ld` apart, nowhere yet.
fn piece_of(ld: usize, width: usize) -> Operand {
    Operand { y: std::ptr::null_mut(), ld, width }
}
