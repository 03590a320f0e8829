//! The gradient of a bias: that of the softmax's input itself, summed over batch entries and heads that share it.

use super::Run;
use super::tile::Tile;
use crate::engine::softmax::rows::ROWS;
use crate::error::Result;
use crate::parallel::{self, Runner};
use std::ops::Range;

impl Run<'_> {
    /// In how many groups sequences and key heads fall of which each has elements of a bias to itself.
    pub fn groups(&self) -> (usize, usize) {
        let (n, heads) = (self.call.sequences.len(), self.engine.heads.1);
        // Packed sequences share none: they lie on the diagonal.
        let packed = self.call.sequences.offsets_q.is_some();
        match &self.grads.bias {
            Some(bias) => {
                let by_sequence = packed || bias.extent(0) == n;
                (if by_sequence { n } else { n.min(1) }, if bias.extent(1) == 1 { 1 } else { heads })
            }
            None => (n, heads),
        }
    }

    /// Zeros: tiles that no query sees are not visited.
    pub fn clear_bias(&self, runner: &dyn Runner) -> Result<()> {
        let Some(bias) = &self.grads.bias else { return Ok(()) };
        let heads = bias.extent(1);
        parallel::run(runner, bias.extent(0) * heads, &|task, _| {
            for row in 0..bias.extent(2) {
                let at = bias.f32_at(&[task / heads, task % heads, row]);
                for key in 0..bias.extent(3) {
                    // SAFETY: elements of the tensor, and of this task alone.
                    unsafe { *at.offset(key as isize * bias.stride(3)) = 0.0 };
                }
            }
        })
    }
}

impl Tile<'_> {
    /// Adds the gradients of a tile of scores.
    ///
    /// # Safety
    /// `dx` is that tile; the bias's gradient has the shape of the catalogue.
    pub unsafe fn add_bias(&self, map: usize, maps: usize, keys: &Range<usize>, dx: *const f32) {
        let (unit, s) = (self.unit, &self.unit.sequence);
        let Some(bias) = &self.run.grads.bias else { return };
        let head = unit.query_head(unit.rows.set[0]) * maps + map;
        for r in 0..unit.rows.n {
            let at = [
                s.batch.min(bias.extent(0) - 1),
                head.min(bias.extent(1) - 1),
                s.q0 + unit.rows.token[r],
                s.k0 + keys.start,
            ];
            let row = bias.f32_at(&at);
            for i in 0..keys.len() {
                // SAFETY: by contract; no other task has elements of this row.
                unsafe { *row.offset(i as isize * bias.stride(3)) += *dx.add(i * ROWS + r) };
            }
        }
    }
}
