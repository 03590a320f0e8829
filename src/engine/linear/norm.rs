//! Norms of the output (`docs/spec/linear.md` 1.10): a last pass over what the scan wrote.
//!
//! A norm mixes all value columns of a row, and `srms_all` all heads of a token, so it cannot be part of a
//! panel. The rows are `f32`: the output itself, or rows that `normed.rs` keeps until they are rounded. *Cost*: one
//! read and one write of the output, and of the gate.

use super::recurrence::{Normaliser, Recurrence};
use super::tiles::Rows;
use super::{Call, Linear};
use crate::kernel::row_rms;
use crate::tensor::Tensor;
use std::ops::Range;
use std::ptr;

/// Rows of one task.
const ROWS: usize = 64;

/// Whether there is anything to do.
pub fn wanted(recurrence: &Recurrence) -> bool {
    !matches!(recurrence.normaliser, Normaliser::None | Normaliser::Denominator { .. })
}

/// The pass cut into runs of tokens of a sequence.
pub struct Tasks<'a> {
    engine: &'a Linear,
    call: &'a Call,
    runs: usize,
}

impl<'a> Tasks<'a> {
    /// The tasks of a call. Runs past the end of a short sequence are empty.
    pub fn new(engine: &'a Linear, call: &'a Call) -> Tasks<'a> {
        Tasks { engine, call, runs: call.sequences.n_q.div_ceil(ROWS) }
    }

    /// Number of tasks.
    pub fn len(&self) -> usize {
        self.call.n_sequences() * self.runs
    }

    /// Normalises one run of tokens of one sequence, all heads.
    pub fn run(&self, task: usize, memory: *mut f32) {
        let first = task % self.runs * ROWS;
        let Some(s) = self.call.sequence(task / self.runs) else { return };
        let Some(out) = self.call.tensors.out else { return };
        let norm = Norm::new(self.engine, self.call, memory);
        for t in first..s.n_q.min(first + ROWS) {
            norm.token(&out, (s.batch, s.q0 + t), 0..self.engine.heads.out);
        }
    }
}

/// The norm with the buffers of one worker.
pub struct Norm<'a> {
    engine: &'a Linear,
    call: &'a Call,
    memory: *mut f32,
}

impl<'a> Norm<'a> {
    /// Loads the weights.
    pub fn new(engine: &'a Linear, call: &'a Call, memory: *mut f32) -> Norm<'a> {
        let norm = Norm { engine, call, memory };
        norm.load_weights();
        norm
    }

    /// One token `(batch, t)`: the rows of these heads in `from`, which are indexed as those of the output.
    pub fn token(&self, from: &Tensor, (b, t): (usize, usize), heads: Range<usize>) {
        if matches!(self.engine.recurrence.normaliser, Normaliser::SrmsAll { .. }) {
            self.row(from, (b, t), heads);
        } else {
            heads.for_each(|head| self.row(from, (b, t), head..head + 1));
        }
    }

    fn e16(&self) -> usize {
        self.engine.geometry.e.next_multiple_of(16)
    }

    /// Addresses of the row of outputs, of gates and of weights.
    fn rows(&self) -> [*mut f32; 3] {
        let len = self.engine.heads.out * self.e16();
        let first = self.memory.wrapping_add(self.engine.geometry.at.norm);
        [first, first.wrapping_add(len), first.wrapping_add(2 * len)]
    }

    fn load_weights(&self) {
        if let Some(weight) = &self.call.tensors.out_norm_weight {
            let [_, _, packed] = self.rows();
            // SAFETY: the weight is [E] or [Ho·E] (checked), at most the row that `Offsets` names.
            unsafe {
                self.engine.tiles.gather(weight, &[0], 0, weight.extent(0), packed);
            }
        }
    }

    /// One token of some heads: a row in as many pieces.
    fn row(&self, from: &Tensor, (b, t): (usize, usize), heads: Range<usize>) {
        let (tiles, e, e16) = (&self.engine.tiles, self.engine.geometry.e, self.e16());
        let Some(out) = self.call.tensors.out else { return };
        let [y, gates, weights] = self.rows();
        let at = [b, heads.start, t];
        let rows = |tensor| Rows { tensor, at: &at, rows: 1, columns: 3, n: heads.len(), d: e };
        let (eps, activation) = match self.engine.recurrence.normaliser {
            Normaliser::RmsGate { eps, sigmoid: true } => (eps, row_rms::Activation::Sigmoid),
            Normaliser::RmsGate { eps, .. } | Normaliser::RmsHead { eps } | Normaliser::SrmsAll { eps } => {
                (eps, row_rms::Activation::Silu)
            }
            Normaliser::None | Normaliser::Denominator { .. } => return,
        };
        // SAFETY: `out` and `gate` are [B, Ho, T, E] (checked), `from` has these rows too; rows have the extents that `Offsets` names.
        unsafe {
            tiles.load(&rows(from), 1.0, ptr::null(), y, e16);
            if let Some(gate) = &self.call.tensors.gate {
                tiles.load(&rows(gate), 1.0, ptr::null(), gates, e16);
            }
            let given = |tensor: Option<Tensor>, p: *mut f32| tensor.map_or(ptr::null(), |_| p.cast_const());
            (tiles.rms)(&row_rms::Args {
                n: 1,
                n_pieces: heads.len(),
                piece_len: e,
                y,
                ld: 0,
                piece_stride: e16 as isize,
                eps,
                weight: given(self.call.tensors.out_norm_weight, weights),
                gate: given(self.call.tensors.gate, gates),
                gate_ld: 0,
                gate_piece_stride: e16 as isize,
                activation,
            });
            tiles.store(y, e16, &rows(&out));
        }
    }
}
