//! Pieces of a sequence that is cut into segments (`docs/spec/linear.md` 10).

use super::tiles::Rows;
use super::{Call, Linear, scan};
use crate::kernel::matmul;
use crate::tensor::Tensor;
use std::ptr;

/// What a segment does to an incoming state of one head.
pub enum Carry<'a> {
    /// A factor.
    Factor(f32),
    /// A matrix in front of it: `[B, H, D, D]`.
    Matrix(&'a Tensor),
}

impl Linear {
    /// All panels of state head `unit % Hs` of sequence `unit / Hs`. Without a tensor for the output, only the
    /// state is computed.
    pub fn run_unit(&self, call: &Call, unit: usize, memory: *mut f32) {
        if let Some(unit) = self.unit(call, unit, 0..self.geometry.n_panels, memory) {
            scan::scan(&unit);
        }
    }

    /// Elements of workspace that [`Linear::combine`] needs.
    pub fn combine_len(&self) -> usize {
        let (g, e16) = (&self.geometry, self.geometry.e.next_multiple_of(16));
        g.m * (g.ldm + 2 * e16)
    }

    /// `S_out = M S_in + S⁰` of head `at = [b, h]`; no `S_in` is zero. `local` and `out` may be the same.
    ///
    /// *Cost*: `2·D·D·E` FLOPs with a matrix.
    pub fn combine(
        &self,
        at: [usize; 2],
        carry: Carry<'_>,
        state_in: Option<&Tensor>,
        local: &Tensor,
        out: &Tensor,
        memory: *mut f32,
    ) {
        let (g, tiles) = (&self.geometry, &self.tiles);
        let e16 = g.e.next_multiple_of(16);
        let (sum, state) = (memory, memory.wrapping_add(g.m * e16));
        let matrix = state.wrapping_add(g.m * e16);
        let rows = |tensor, d| Rows { tensor, at: &at, rows: 2, columns: 3, n: g.m, d };
        // SAFETY: states are [B, H, M, E] and a matrix [B, H, M, M] (checked); `memory` has `combine_len` elements,
        // cut into `[M, e16]` twice and `[M, ldm]`.
        unsafe {
            ptr::write_bytes(memory, 0, self.combine_len());
            tiles.load(&rows(local, g.e), 1.0, ptr::null(), sum, e16);
            if let Some(tensor) = state_in {
                tiles.load(&rows(tensor, g.e), 1.0, ptr::null(), state, e16);
                let mut product = matmul::Args::product(g.m, g.e, 0, sum, e16 as isize);
                (product.c0, product.ldc0) = (sum, e16 as isize);
                (product.b, product.ldb) = (state, e16);
                match carry {
                    Carry::Factor(factor) => {
                        for (sum, &state) in std::slice::from_raw_parts_mut(sum, g.m * e16)
                            .iter_mut()
                            .zip(std::slice::from_raw_parts(state, g.m * e16))
                        {
                            *sum += factor * state;
                        }
                    }
                    Carry::Matrix(tensor) => {
                        tiles.load(&rows(tensor, g.m), 1.0, ptr::null(), matrix, g.ldm);
                        (product.a, product.lda, product.k) = (matrix, g.ldm, g.m);
                        (tiles.matmul)(&product);
                    }
                }
            }
            tiles.store(sum, e16, &rows(out, g.e));
        }
    }
}
