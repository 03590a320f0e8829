//! Gradients of the base and of the maps, from those of the heads.

use super::{Shared, TILE, Task};
use crate::catalog::Role;
use crate::engine::gated_unit::with_head;
use crate::engine::linear::Rows;
use crate::error::Result;
use crate::kernel::products;
use crate::parallel::{self, Runner};
use crate::tensor::Tensor;
use std::ptr;

impl Shared<'_> {
    /// Both.
    pub fn finish(&self, runner: &dyn Runner) -> Result<()> {
        let (sequences, tiles) = (self.call.sequences.len(), self.call.sequences.longest().1.div_ceil(TILE));
        if let Some(to) = self.grad(Role::QK).map(|tensor| with_head(&tensor)) {
            parallel::run(runner, sequences * tiles, &|index, worker| {
                let Some(task) = self.task(index / tiles, worker) else { return };
                task.base(index % tiles * TILE, &to);
            })?;
        }
        let to = [self.grad(Role::AFFINE_WEIGHT), self.grad(Role::AFFINE_BIAS)];
        if to.iter().all(Option::is_none) {
            return Ok(());
        }
        parallel::run(runner, self.unit.n_maps(), &|head, worker| {
            let (unit, memory) =
                (self.unit, self.memory.wrapping_add(self.at.workers + worker * self.at.len));
            let d16 = unit.padded().0;
            let sums = memory.wrapping_add(self.at.maps);
            // SAFETY: the buffer of the maps, two vectors of `d16` at the least, is this worker's.
            unsafe { ptr::write_bytes(sums, 0, 2 * d16) };
            for task in (0..sequences).filter_map(|index| self.task(index, worker)) {
                task.add_map(head, sums);
            }
            for (part, tensor) in to.iter().enumerate() {
                let Some(tensor) = tensor else { continue };
                // SAFETY: gradients are [n, D] (checked), and a row of them is this task's.
                unsafe {
                    let at = [head];
                    let row = Rows::one(tensor, &at, 1, unit.d);
                    unit.kernels.tiles.store(sums.wrapping_add(part * d16), d16, &row);
                }
            }
        })
    }
}

impl Task<'_> {
    /// `dz = Σ γ ⊙ dh` of a tile.
    fn base(&self, start: usize, to: &Tensor) {
        let (unit, at, s) = (self.shared.unit, self.shared.at, self.sequence);
        let (d16, n) = (unit.padded().0, TILE.min(s.n_k.saturating_sub(start)));
        if n == 0 {
            return;
        }
        self.load_maps();
        let dz = self.buffer(at.q);
        // SAFETY: gradients of the heads are there for every token; the rows of `dz` are this task's.
        unsafe {
            ptr::write_bytes(dz, 0, TILE * d16);
            for head in 0..unit.n_maps() {
                let weight = std::slice::from_raw_parts(self.buffer(at.maps + 2 * head * d16), unit.d);
                for i in 0..n {
                    let dz = std::slice::from_raw_parts_mut(dz.add(i * d16), unit.d);
                    let dh = std::slice::from_raw_parts(self.head(head, start + i), unit.d);
                    dz.iter_mut().zip(weight).zip(dh).for_each(|((dz, w), dh)| *dz += w * dh);
                }
            }
            let first = [s.batch, 0, s.k0 + start];
            unit.kernels.tiles.store(dz, d16, &Rows::tokens(to, &first, (n, unit.d)));
        }
    }

    /// Adds `Σ z ⊙ dh` and `Σ dh` of a sequence to the sums.
    fn add_map(&self, head: usize, sums: *mut f32) {
        let (unit, at, n_k) = (self.shared.unit, self.shared.at, self.sequence.n_k);
        let d16 = unit.padded().0;
        for start in (0..n_k).step_by(TILE) {
            let tokens = start..(start + TILE).min(n_k);
            let (z, dh) = (self.buffer(at.q), self.head(head, start).cast_const());
            // SAFETY: gradients of the heads are there for every token.
            unsafe {
                self.load(&self.shared.base, &tokens, unit.d, z);
                let (n, d, lda, ldb) = (tokens.len(), unit.d, d16, d16);
                let args = |b, col| products::Args { n, d, a: dh, lda, b, ldb, row: ptr::null_mut(), col };
                (unit.kernels.products)(&args(z.cast_const(), sums));
                (unit.kernels.products)(&args(ptr::null(), sums.add(d16)));
            }
        }
    }
}
