//! The products of a tile of weights and gradients, and what is left out of them.
//!
//! A product over queries takes in rows that do not see the key, with weights of 0, and one over keys likewise: a row or
//! key that is not finite would make `NaN` of what does not see it. Such rows are zero in the operand and added pair by pair.

use super::sweep::Source;
use super::tile::Tile;
use crate::engine::softmax::Form;
use crate::engine::softmax::products::{Buffers, Operand, pitch};
use crate::engine::softmax::rows::ROWS;
use crate::engine::softmax::terms::Terms;
use crate::kernel::matmul;
use crate::kernel::online_softmax::MASKED;
use crate::tensor::Tensor;
use std::ops::Range;

/// Products of the values of a tile with gradients of outputs `[E][32]`: gradients of weights `[64][32]`.
///
/// # Safety
/// Tensors and buffers are those of the call; queries are across the lanes.
pub unsafe fn along_outputs(
    buffers: &Buffers<'_>,
    v: &Tensor,
    keys: &Range<usize>,
    (dout_t, dp): (usize, usize),
) {
    let (unit, engine) = (buffers.unit, buffers.unit.engine);
    // SAFETY: by contract.
    unsafe {
        let values = buffers.rows_of(&unit.values_of(v), keys, false);
        (engine.kernels.common.matmul)(&matmul::Args {
            a: values.at,
            lda: values.ld,
            b: buffers.at(dout_t),
            ldb: ROWS,
            ..matmul::Args::product(keys.len(), unit.rows.width, engine.e, buffers.at(dp), ROWS as isize)
        });
    }
}

impl Tile<'_> {
    /// Products of a tile's weights and gradients with rows of queries, of gradients of outputs, and of keys.
    ///
    /// # Safety
    /// As [`super::tile::run`]; the tiles are there, `rows` are those of the keys.
    pub unsafe fn products(
        &self,
        map: usize,
        source: &Source,
        keys: &Range<usize>,
        rows: Operand,
        masked: bool,
        dy: usize,
    ) {
        let (engine, grads, at) = (self.unit.engine, self.run.grads, self.at);
        let (d, e, n, k) = (engine.d, engine.e, self.unit.rows.n, &source.k);
        let (x, seen) = (engine.at.x[map], engine.at.x[map]);
        let probe = engine.settings.form == Form::Probe;
        // SAFETY: by contract.
        unsafe {
            if source.wanted[1] {
                let dv = self.buffer(at.dv + (source.first + keys.start) * pitch(e));
                self.over_queries(keys.len(), x, at.dout, e, dv);
                self.over_taken_queries(keys.len(), self.taken[2], (x, seen), at.dout_t, e, dv);
            }
            // Scores that have gradients, the rows they came with, and the same with queries last.
            let second = (engine.at.x[1], at.q[1], engine.at.q[1], self.taken[1], at.dq[1]);
            let first = (dy, at.q[map], engine.at.q[map], self.taken[map], at.dq[map]);
            let pairs = [Some(first), probe.then_some(second)];
            for (dy, q, q_t, taken, _) in pairs.into_iter().flatten().filter(|_| source.wanted[0]) {
                let dk = self.buffer(at.dk[map] + (source.first + keys.start) * pitch(d));
                self.over_queries(keys.len(), dy, q, d, dk);
                self.over_taken_queries(keys.len(), taken, (dy, seen), q_t, d, dk);
            }
            let guarded = masked || Terms::may_mask(&self.buffers);
            let head = self.unit.head * self.heads + map;
            let (rows, taken) = match guarded {
                true => self.buffers.finite_copy_of(&self.unit.keys_of(k, head), keys),
                false => (rows, 0),
            };
            let wanted = [grads.q.is_some() || grads.scale_bh.is_some(), grads.probe.is_some()];
            for ((dy, .., dq), _) in pairs.into_iter().flatten().zip(wanted).filter(|(_, wanted)| *wanted) {
                let dq = self.buffer(dq);
                (engine.kernels.common.matmul)(&matmul::Args {
                    a: rows.at,
                    lda: rows.ld,
                    a_by_columns: true,
                    b: self.buffer(dy),
                    ldb: ROWS,
                    c0: dq,
                    ldc0: ROWS as isize,
                    ..matmul::Args::product(d, self.unit.rows.width, keys.len(), dq, ROWS as isize)
                });
                for i in (0..keys.len()).filter(|i| taken & 1 << i != 0) {
                    for r in (0..n).filter(|r| self.sees(seen, i, *r)) {
                        let gradient = *self.buffer(dy).add(i * ROWS + r);
                        for c in 0..d {
                            let at =
                                [self.unit.sequence.batch, head, self.unit.sequence.k0 + keys.start + i, c];
                            let value = engine.kernels.common.value(k, &at);
                            if !value.is_finite() {
                                *dq.add(c * ROWS + r) += gradient * value;
                            }
                        }
                    }
                }
            }
        }
    }

    /// Whether a row sees a key, by the weights of a tile.
    ///
    /// # Safety
    /// They are there.
    unsafe fn sees(&self, weights: usize, key: usize, row: usize) -> bool {
        // SAFETY: by contract.
        unsafe { (*self.buffer(weights).add(key * ROWS + row)).to_bits() != MASKED }
    }

    /// `sum += X rows`, `[keys][channels]` padded.
    ///
    /// # Safety
    /// The tile and the rows are there, and sums for these keys.
    pub unsafe fn over_queries(&self, n: usize, x: usize, rows: usize, channels: usize, sum: *mut f32) {
        let ld = pitch(channels) as isize;
        // SAFETY: by contract.
        unsafe {
            (self.unit.engine.kernels.common.matmul)(&matmul::Args {
                a: self.buffer(x),
                lda: ROWS,
                b: self.buffer(rows),
                ldb: channels.next_multiple_of(16),
                c0: sum,
                ldc0: ld,
                ..matmul::Args::product(n, channels, self.unit.rows.n, sum, ld)
            });
        }
    }

    /// The same for what was taken out of rows, for keys that they see; `turned` has them, queries last.
    ///
    /// # Safety
    /// As [`Tile::over_queries`].
    pub unsafe fn over_taken_queries(
        &self,
        n: usize,
        taken: u64,
        (x, seen): (usize, usize),
        turned: usize,
        channels: usize,
        sum: *mut f32,
    ) {
        for r in (0..self.unit.rows.n).filter(|r| taken & 1 << r != 0) {
            // SAFETY: by contract.
            unsafe {
                for i in (0..n).filter(|i| self.sees(seen, *i, r)) {
                    let weight = *self.buffer(x).add(i * ROWS + r);
                    for c in 0..channels {
                        let value = *self.buffer(turned).add(c * ROWS + r);
                        if !value.is_finite() {
                            *sum.add(i * pitch(channels) + c) += weight * value;
                        }
                    }
                }
            }
        }
    }
}
