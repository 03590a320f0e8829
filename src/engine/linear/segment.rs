//! Pieces of a sequence that is cut into segments (`docs/spec/linear.md` 10).

use super::prepare::Prepared;
use super::tiles::Rows;
use super::{Call, Linear, Recurrence, Unit, scan};
use crate::kernel::matmul;
use crate::tensor::Tensor;
use std::ptr;

/// What a segment does to an incoming state.
#[derive(Clone, Copy)]
pub enum Carry<'a> {
    /// Nothing.
    Same,
    /// This factor.
    Value(f32),
    /// A factor for each head: `[B, Hs]`.
    Factor(&'a Tensor),
    /// A factor for each row: `[B, Hs, M]`.
    Diagonal(&'a Tensor),
    /// A matrix in front of it: `[B, Hs, M, M]`.
    Matrix(&'a Tensor),
}

impl Linear {
    /// The settings.
    pub fn recurrence(&self) -> &Recurrence {
        &self.recurrence
    }

    /// One value of a tensor.
    ///
    /// # Safety
    /// The tensor has this element.
    pub unsafe fn value(&self, tensor: &Tensor, at: &[usize]) -> f32 {
        // SAFETY: the caller's contract.
        unsafe { self.tiles.value(tensor, at) }
    }

    /// Sets one value of a tensor.
    ///
    /// # Safety
    /// The tensor has this element, and no other task touches it.
    pub unsafe fn set(&self, tensor: &Tensor, at: &[usize], value: f32) {
        // SAFETY: the caller's contract.
        unsafe { self.tiles.set(tensor, at, value) }
    }

    /// All panels of state head `unit % Hs` of sequence `unit / Hs`.
    pub fn run_unit(&self, call: &Call, unit: usize, memory: *mut f32) {
        if let Some(unit) = self.unit(call, unit, 0..self.geometry.n_panels, memory) {
            scan::scan(&unit);
        }
    }

    /// Elements of workspace that [`Linear::combine`] needs.
    pub fn combine_len(&self) -> usize {
        let (g, e16) = (&self.geometry, self.geometry.e.next_multiple_of(16));
        2 * g.m * e16 + g.m * g.ldm
    }

    /// `S_out = M S_in + S⁰` of head `at = [b, h]`; no `S_in` is zero. `local`, `state_in` and `out` may be the same.
    ///
    /// *Cost*: `2·M·M·E` FLOPs with a matrix.
    pub fn combine(
        &self,
        at: [usize; 2],
        carry: Carry<'_>,
        state_in: Option<&Tensor>,
        local: &Tensor,
        out: &Tensor,
        memory: *mut f32,
    ) {
        self.combine_columns(self.geometry.e, at, carry, state_in, local, out, memory);
    }

    /// [`Linear::combine`] of states with at most `E` columns.
    #[allow(clippy::too_many_arguments, reason = "three states and where they are")]
    pub fn combine_columns(
        &self,
        columns: usize,
        at: [usize; 2],
        carry: Carry<'_>,
        state_in: Option<&Tensor>,
        local: &Tensor,
        out: &Tensor,
        memory: *mut f32,
    ) {
        let (g, tiles) = (&self.geometry, &self.tiles);
        let ld = columns.next_multiple_of(16);
        let (sum, state) = (memory, memory.wrapping_add(g.m * ld));
        let matrix = state.wrapping_add(g.m * ld);
        let rows = |tensor, d| Rows { tensor, at: &at, rows: 2, columns: 3, n: g.m, d };
        // SAFETY: states are [B, Hs, M, columns], transitions as `Carry` says (checked); `memory` has `combine_len`
        // elements, cut into `[M, ld]` twice and `[M, ldm]`.
        unsafe {
            ptr::write_bytes(memory, 0, 2 * g.m * ld + g.m * g.ldm);
            tiles.load(&rows(local, columns), 1.0, ptr::null(), sum, ld);
            if let Some(tensor) = state_in {
                tiles.load(&rows(tensor, columns), 1.0, ptr::null(), state, ld);
                let factor = match carry {
                    Carry::Same | Carry::Matrix(_) | Carry::Diagonal(_) => 1.0,
                    Carry::Value(factor) => factor,
                    Carry::Factor(tensor) => tiles.value(tensor, &at),
                };
                if let Carry::Matrix(tensor) = carry {
                    tiles.load(&rows(tensor, g.m), 1.0, ptr::null(), matrix, g.ldm);
                    let mut product = matmul::Args::product(g.m, columns, g.m, sum, ld as isize);
                    (product.a, product.lda) = (matrix, g.ldm);
                    (product.b, product.ldb) = (state, ld);
                    (product.c0, product.ldc0) = (sum, ld as isize);
                    (tiles.matmul)(&product);
                } else {
                    for row in 0..g.m {
                        let factor = match carry {
                            Carry::Diagonal(tensor) => tiles.value(tensor, &[at[0], at[1], row]),
                            _ => factor,
                        };
                        let sum = std::slice::from_raw_parts_mut(sum.add(row * ld), ld);
                        let state = std::slice::from_raw_parts(state.add(row * ld), ld);
                        sum.iter_mut().zip(state).for_each(|(sum, state)| *sum += factor * state);
                    }
                }
            }
            tiles.store(sum, ld, &rows(out, columns));
        }
    }
}

impl Unit<'_> {
    /// Starts the product of the decay over all chunks.
    pub fn start_transition(&self) {
        let g = self.geometry();
        // SAFETY: the buffer is [ldm] and this worker's.
        unsafe { std::slice::from_raw_parts_mut(self.buffer(g.at.transition), g.ldm).fill(1.0) }
    }

    /// Takes in the decay of a chunk.
    pub fn add_transition(&self, p: &Prepared) {
        let g = self.geometry();
        if !self.decays() {
            return;
        }
        // SAFETY: both buffers are [ldm] and this worker's.
        unsafe {
            let product = std::slice::from_raw_parts_mut(self.buffer(g.at.transition), g.ldm);
            let chunk = std::slice::from_raw_parts(p.end, g.m);
            product.iter_mut().zip(chunk).for_each(|(product, end)| *product *= end);
        }
    }

    /// Stores the product: one factor, or one for each channel, as the tensor's rank says.
    pub fn store_transition(&self) {
        let Some(tensor) = &self.call.tensors.transition else { return };
        let (g, slot) = (self.geometry(), self.sequence.slot);
        let n = if tensor.layout.rank == 2 { 1 } else { g.m };
        for row in 0..n {
            // SAFETY: the tensor is [slots, Hs] or [slots, Hs, M] (checked), and this head's task alone writes it.
            unsafe {
                *tensor.f32_at(&[slot, self.head, row][..tensor.layout.rank]) =
                    *self.buffer(g.at.transition + row)
            };
        }
    }
}
