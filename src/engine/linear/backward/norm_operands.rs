//! Gradients of what a norm of the output is made with: its weights, and the gate behind it.
//!
//! ```text
//! o = y ρ w act(gate)      dw = Σ do ∘ y ρ act(gate)      dgate = do ∘ y ρ w act'(gate)
//! ```
//!
//! Sums over the tokens of a unit are `f64`; units are added up in order when all tasks are done.

use super::{Reverse, Run};
use crate::CHUNK;
use crate::engine::linear::prepare::Chunk;
use crate::engine::linear::recurrence::Normaliser;
use crate::engine::linear::tiles::Rows;
use crate::kernel::{elementwise, map_grad, products};
use crate::tensor::Tensor;
use std::ptr;

impl Reverse<'_> {
    /// What a chunk's rows give, where it is wanted. The outputs of the set before the norm are in `y`.
    pub fn norm_operands(&self, panel: usize, set: usize, chunk: &Chunk) {
        if self.grads.gate.is_none() && self.grads.out_norm_weight.is_none() {
            return;
        }
        let (g, at, unit) = (self.unit.geometry(), self.at(), &self.unit);
        let (n, columns) = (chunk.n, g.columns(panel));
        let (rows, gates, factors) = (self.buffer(at.rows), self.buffer(at.more_rows), self.buffer(at.du));
        let from = [unit.sequence.batch, unit.output_head(set), chunk.q0, panel * g.panel];
        let sigmoid = match unit.recurrence().normaliser {
            Normaliser::RmsGate { sigmoid, .. } => Some(sigmoid),
            _ => None,
        };
        // SAFETY: `dout`, `gate` and its gradient are [B, Ho, T, E] (checked); all buffers are [16, panel], with zeros past
        // the last column, and free before a chunk's way back.
        unsafe {
            let load = |tensor: Tensor, to| {
                unit.tiles().load(&Rows::tokens(&tensor, &from, (n, columns)), 1.0, ptr::null(), to, g.panel);
            };
            load(self.given(self.grads.out), rows);
            for i in 0..n {
                let [rho, _] = self.slopes(set, chunk, i);
                let y = self.buffer(at.y + (set * CHUNK + i) * g.panel);
                (0..g.panel).for_each(|e| *rows.add(i * g.panel + e) *= rho * *y.add(e));
            }
            if let Some(sigmoid) = sigmoid {
                load(self.given(unit.call.tensors.gate), gates);
                let act = if sigmoid { self.tiles().sigmoid } else { self.tiles().silu };
                act(&elementwise::Args { n: n * g.panel, src: gates, dst: factors });
            }
            if self.grads.out_norm_weight.is_some() {
                self.add_norm_weights(panel, set, n, (rows, sigmoid.map_or(ptr::null_mut(), |_| factors)));
            }
            let (Some(to), Some(sigmoid)) = (&self.grads.gate, sigmoid) else { return };
            self.times_weight(panel, set, n, rows);
            if sigmoid {
                for i in 0..n * g.panel {
                    *rows.add(i) *= *factors.add(i) * (1.0 - *factors.add(i));
                }
            } else {
                (self.tiles().silu_grad)(&map_grad::Args { n: n * g.panel, x: gates, dy: rows });
            }
            unit.tiles().store(rows, g.panel, &Rows::tokens(to, &from, (n, columns)));
        }
    }

    /// Adds a chunk's rows to the sums of this unit.
    ///
    /// # Safety
    /// Both blocks are `[16, panel]`, or the second is null.
    unsafe fn add_norm_weights(
        &self,
        panel: usize,
        set: usize,
        n: usize,
        (rows, factors): (*mut f32, *mut f32),
    ) {
        let (g, sums) = (self.unit.geometry(), self.buffer(self.at().weight));
        let d = g.columns(panel);
        // SAFETY: the caller's contract; `weight` is [panel] and free, the unit's own sums are [sets, E].
        unsafe {
            ptr::write_bytes(sums, 0, g.panel);
            let (row, ld) = (ptr::null_mut(), g.panel);
            (self.tiles().products)(&products::Args {
                n,
                d,
                a: rows,
                lda: ld,
                b: factors,
                ldb: ld,
                row,
                col: sums,
            });
            for e in 0..d {
                *self.norm_sums.add(set * g.e + panel * g.panel + e) += f64::from(*sums.add(e));
            }
        }
    }
}

impl Run<'_> {
    /// Sums of a unit for the weights of the norm.
    pub fn norm_sums(&self, sequence: usize, head: usize) -> *mut f64 {
        self.parameters(sequence, head).wrapping_add(self.regions.norm).cast()
    }

    /// The gradient of the norm's weights, which all sequences share, and heads unless it spans them.
    pub fn store_norm_weights(&self) {
        let Some(tensor) = self.grads.out_norm_weight else { return };
        let (heads, e, cyclic) =
            (&self.engine.heads, self.engine.geometry.e, self.engine.recurrence.cyclic_heads);
        let all = matches!(self.engine.recurrence.normaliser, Normaliser::SrmsAll { .. });
        for w in 0..tensor.extent(0) {
            let mut total = 0.0;
            for head in 0..heads.state {
                for set in 0..heads.sets() {
                    if all && heads.output(head, set, cyclic) != w / e {
                        continue;
                    }
                    // SAFETY: every unit has its sums, and no task runs any more.
                    let own = |i| unsafe { *self.norm_sums(i, head).add(set * e + w % e) };
                    total += (0..self.call.n_sequences()).map(own).sum::<f64>();
                }
            }
            // SAFETY: weights are [E] or [Ho·E] (checked).
            unsafe { self.engine.tiles.set(&tensor, &[w], total as f32) };
        }
    }
}
