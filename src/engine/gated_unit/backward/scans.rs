//! Gradients of the linear part: a scan over the blocks with the state, and one in reverse with its gradient.
//!
//! Both keep their matrix twice, `[D, E]` and `[E, D]`, since one product reads its rows and the other its columns.

use super::{TILE, Task};
use crate::catalog::Role;
use crate::engine::gated_unit::with_head;
use crate::engine::linear::Rows;
use crate::kernel::matmul;
use crate::tensor::Tensor;
use std::ops::Range;
use std::ptr;

/// Heads of the linear part.
const QUERY: usize = 1;
const KEY: usize = 3;

impl Task<'_> {
    /// Blocks of the sequence, in order.
    fn blocks(&self) -> impl DoubleEndedIterator<Item = Range<usize>> + use<> {
        let (block, n_k) = (self.shared.unit.unit.blocks.map_or(1, |blocks| blocks.block), self.sequence.n_k);
        (0..n_k.div_ceil(block)).map(move |i| i * block..(i * block).saturating_add(block).min(n_k))
    }

    /// Gradients of the queries; outputs of the linear part where those of the gates are wanted.
    pub fn forward_scan(&self) {
        let all = 0..self.sequence.n_k;
        self.load_maps();
        self.load_state();
        if self.shared.causal {
            for block in self.blocks() {
                self.read(block.clone());
                if Some(block.len()) == self.shared.unit.unit.blocks.map(|blocks| blocks.block) {
                    self.write(block);
                }
            }
        } else {
            self.write(all.clone());
            self.read(all);
        }
    }

    /// Gradients of the keys; what values get from the linear part, where theirs are wanted.
    pub fn reverse_scan(&self) {
        let (at, (d16, e16), all) = (self.shared.at, self.shared.unit.padded(), 0..self.sequence.n_k);
        self.load_maps();
        // SAFETY: matrices are `[D, E]` padded.
        unsafe {
            ptr::write_bytes(self.buffer(at.state), 0, d16 * e16);
            ptr::write_bytes(self.buffer(at.transposed), 0, d16 * e16);
        }
        if self.shared.causal {
            for block in self.blocks().rev() {
                self.read_keys(block.clone());
                self.write_queries(block);
            }
        } else {
            self.write_queries(all.clone());
            self.read_keys(all);
        }
    }

    /// Both forms of the state that is carried in.
    fn load_state(&self) {
        let (unit, at) = (self.shared.unit, self.shared.at);
        let ((d16, e16), tiles) = (unit.padded(), &unit.kernels.tiles);
        let (state, transposed) = (self.buffer(at.state), self.buffer(at.transposed));
        let first = [self.sequence.slot];
        // SAFETY: states are [slots, D, E] (checked), matrices `[D, E]` padded.
        unsafe {
            ptr::write_bytes(state, 0, d16 * e16);
            ptr::write_bytes(transposed, 0, d16 * e16);
            if let Some(from) = &self.shared.call.tensors.get(Role::STATE_IN) {
                let (d, e) = (unit.d, unit.e);
                let rows = Rows { tensor: from, at: &first, rows: 1, columns: 2, n: d, d: e };
                tiles.load(&rows, 1.0, ptr::null(), state, e16);
                let columns = Rows { tensor: from, at: &first, rows: 2, columns: 1, n: e, d };
                tiles.load(&columns, 1.0, ptr::null(), transposed, d16);
            }
        }
    }

    /// Tiles of some tokens.
    fn tiles_of(tokens: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let end = tokens.end;
        tokens.step_by(TILE).map(move |start| start..(start + TILE).min(end))
    }

    fn scale(&self) -> f32 {
        let global = self.shared.unit.global.as_ref();
        global.map_or(1.0, |global| global.scale(self.shared.causal, &self.sequence))
    }

    /// `dlin_q = s · G Sᵀ`, and `s · lin_q S` to the gradient of the gates.
    fn read(&self, tokens: Range<usize>) {
        let (unit, at) = (self.shared.unit, self.shared.at);
        let (_, e16) = unit.padded();
        let to = self.shared.grad(Role::GATE).map(|tensor| with_head(&tensor));
        for rows in Task::tiles_of(self.queries(&tokens)) {
            let n = rows.len();
            // SAFETY: tensors are those of the catalogue (checked); these rows are this task's.
            unsafe {
                self.load_gated(&rows, self.scale());
                self.through(at.g, at.transposed, (unit.e, unit.d), n, self.head(QUERY, rows.start));
                if let Some(to) = &to {
                    let o = self.buffer(at.de);
                    self.load_head(QUERY, &rows, self.buffer(at.q));
                    self.through(at.q, at.state, (unit.d, unit.e), n, o);
                    (0..n * e16).for_each(|i| *o.add(i) *= self.scale());
                    self.store(to, &self.at_queries(&rows), n);
                }
            }
        }
    }

    /// `S = S + Σ lin_k vᵀ`.
    fn write(&self, tokens: Range<usize>) {
        let (unit, at) = (self.shared.unit, self.shared.at);
        for rows in Task::tiles_of(tokens) {
            // SAFETY: tensors are those of the catalogue (checked).
            unsafe {
                self.load_head(KEY, &rows, self.buffer(at.k));
                self.load(&self.shared.v, &rows, unit.e, self.buffer(at.v));
                self.update((at.k, unit.d), (at.v, unit.e), rows.len(), at.state);
                self.update((at.v, unit.e), (at.k, unit.d), rows.len(), at.transposed);
            }
        }
    }

    /// `dlin_k = v dSᵀ`, and `lin_k dS` to the gradient of the values.
    fn read_keys(&self, tokens: Range<usize>) {
        let (unit, at) = (self.shared.unit, self.shared.at);
        let to = self.shared.grad(Role::V).map(|tensor| with_head(&tensor));
        for rows in Task::tiles_of(tokens) {
            let n = rows.len();
            // SAFETY: tensors are those of the catalogue (checked); these rows are this task's.
            unsafe {
                self.load(&self.shared.v, &rows, unit.e, self.buffer(at.v));
                self.through(at.v, at.transposed, (unit.e, unit.d), n, self.head(KEY, rows.start));
                if let Some(to) = &to {
                    self.load_head(KEY, &rows, self.buffer(at.k));
                    self.through(at.k, at.state, (unit.d, unit.e), n, self.buffer(at.de));
                    self.store(to, &[self.sequence.batch, 0, self.sequence.k0 + rows.start], n);
                }
            }
        }
    }

    /// `dS = dS + Σ s · lin_q Gᵀ`.
    fn write_queries(&self, tokens: Range<usize>) {
        let (unit, at) = (self.shared.unit, self.shared.at);
        for rows in Task::tiles_of(self.queries(&tokens)) {
            // SAFETY: tensors are those of the catalogue (checked).
            unsafe {
                self.load_head(QUERY, &rows, self.buffer(at.q));
                self.load_gated(&rows, self.scale());
                self.update((at.q, unit.d), (at.g, unit.e), rows.len(), at.state);
                self.update((at.g, unit.e), (at.q, unit.d), rows.len(), at.transposed);
            }
        }
    }

    /// `n` rows through a matrix.
    ///
    /// # Safety
    /// The buffers hold `[n, from]` and `[from, to]`, padded; so has what is written.
    unsafe fn through(&self, a: usize, b: usize, (from, to): (usize, usize), n: usize, c: *mut f32) {
        let ld = to.next_multiple_of(16);
        let product = matmul::Args::product(n, to, from, c, ld as isize);
        let (a, lda, b) = (self.buffer(a), from.next_multiple_of(16), self.buffer(b));
        // SAFETY: by contract.
        unsafe { (self.shared.unit.kernels.tiles.matmul)(&matmul::Args { a, lda, b, ldb: ld, ..product }) };
    }

    /// `C = C + Aᵀ B` of `n` rows.
    ///
    /// # Safety
    /// The buffers hold `[n, rows]`, `[n, columns]` and `[rows, columns]`, padded.
    unsafe fn update(&self, (a, rows): (usize, usize), (b, columns): (usize, usize), n: usize, to: usize) {
        let (c, ld) = (self.buffer(to), columns.next_multiple_of(16));
        let product = matmul::Args::product(rows, columns, n, c, ld as isize);
        // SAFETY: by contract.
        unsafe {
            (self.shared.unit.kernels.tiles.matmul)(&matmul::Args {
                a: self.buffer(a),
                lda: rows.next_multiple_of(16),
                a_by_columns: true,
                b: self.buffer(b),
                ldb: ld,
                c0: c,
                ldc0: ld as isize,
                ..product
            });
        }
    }

    /// Rows of buffer `de` to a tensor.
    ///
    /// # Safety
    /// The tensor has `n ≤ 64` rows of `E` there, which are this task's.
    unsafe fn store(&self, to: &Tensor, first: &[usize], n: usize) {
        let unit = self.shared.unit;
        let (_, e16) = unit.padded();
        let rows = Rows::tokens(to, first, (n, unit.e));
        // SAFETY: by contract.
        unsafe { unit.kernels.tiles.store(self.buffer(self.shared.at.de), e16, &rows) };
    }
}
