//! Tiles of scores: gradients of queries and gates by rows, of keys and values by columns, and of the bias.

use super::{Shared, TILE, Task};
use crate::catalog::Role;
use crate::engine::gated_unit::{square, with_head};
use crate::engine::linear::{Rows, Tiles};
use crate::engine::softmax::Weights;
use crate::error::Result;
use crate::kernel::{elementwise, matmul};
use crate::parallel::{self, Runner};
use crate::tensor::Tensor;
use std::f64::consts;
use std::ops::Range;
use std::ptr;

impl Task<'_> {
    /// Weights of queries `rows` and keys `columns`, and the gradient of their scores.
    ///
    /// # Safety
    /// Buffers `q`, `g` hold the queries, `k`, `v` the keys, at most 64 of each, both of one block.
    unsafe fn pair(&self, block: &Range<usize>, rows: &Range<usize>, columns: &Range<usize>) {
        let (unit, at) = (self.shared.unit, self.shared.at);
        let (n, m, kernels) = (rows.len(), columns.len(), &unit.kernels);
        let [x, a, dx] = [at.x, at.a, at.dx].map(|offset| self.buffer(offset));
        let tile = |src, dst| elementwise::Args { n: n * TILE, src, dst };
        // SAFETY: by contract; tiles are `[64, 64]`.
        unsafe {
            let scores = self.product(at.q, at.k, (n, m, unit.d), unit.unit.scale);
            ptr::copy_nonoverlapping(scores, x, n * TILE);
            if self.load_bias(block, rows, columns) {
                let bias = self.buffer(at.bias);
                (0..n * TILE).for_each(|i| *x.add(i) += *bias.add(i));
            }
            for (i, row) in rows.clone().enumerate().filter(|_| self.shared.causal) {
                let hidden = (row + 1).saturating_sub(columns.start).min(m);
                std::slice::from_raw_parts_mut(x.add(i * TILE), m)[hidden..].fill(f32::NEG_INFINITY);
            }
            (kernels.weights)(&tile(x.cast_const(), a));
            self.product(at.g, at.v, (n, m, unit.e), 1.0);
            slopes(&kernels.tiles, unit.unit.weights, x, n * TILE);
            (kernels.tiles.product)(&tile(x.cast_const(), dx));
        }
    }

    /// Products of rows, `n` of one buffer with `m` of another, times a factor: to buffer `dx`.
    ///
    /// # Safety
    /// The buffers hold rows of so many channels, padded.
    unsafe fn product(
        &self,
        a: usize,
        b: usize,
        (n, m, d): (usize, usize, usize),
        factor: f32,
    ) -> *const f32 {
        let (to, factors) = (self.buffer(self.shared.at.dx), [factor; TILE]);
        // SAFETY: by contract.
        unsafe {
            ptr::write_bytes(to, 0, TILE * TILE);
            let product = matmul::Args::product(n, m, d, to, TILE as isize);
            (self.shared.unit.kernels.tiles.matmul)(&matmul::Args {
                a: self.buffer(a),
                lda: d.next_multiple_of(16),
                b: self.turn(self.buffer(b), m, d),
                ldb: TILE,
                post: factors.as_ptr(),
                ..product
            });
        }
        to
    }

    /// The bias of a tile, if there is one.
    ///
    /// # Safety
    /// As [`Task::pair`].
    unsafe fn load_bias(&self, block: &Range<usize>, rows: &Range<usize>, columns: &Range<usize>) -> bool {
        let Some(bias) = self.shared.call.tensors.get(Role::BIAS) else { return false };
        let (bias, first) = (square(&bias), self.bias_at(block, rows.start, columns.start));
        let from = Rows::tokens(&bias, &first, (rows.len(), columns.len()));
        let to = self.buffer(self.shared.at.bias);
        // SAFETY: by contract.
        unsafe { self.shared.unit.kernels.tiles.load(&from, 1.0, ptr::null(), to, TILE) };
        true
    }

    /// Where the bias of a query and a key is.
    fn bias_at(&self, block: &Range<usize>, query: usize, key: usize) -> [usize; 4] {
        match self.shared.unit.unit.blocks {
            Some(_) => [0, 0, query - block.start, key - block.start],
            None => [0, 0, self.sequence.k0 + query, self.sequence.k0 + key],
        }
    }

    /// Tiles of keys that some of these queries see.
    fn keys_of(
        &self,
        block: &Range<usize>,
        rows: &Range<usize>,
    ) -> impl Iterator<Item = Range<usize>> + use<> {
        let end = if self.shared.causal { rows.end } else { block.end };
        (block.start..end).step_by(TILE).map(move |start| start..(start + TILE).min(end))
    }

    /// Loads queries and their gradients.
    ///
    /// # Safety
    /// They are queries, at most 64.
    unsafe fn load_rows(&self, rows: &Range<usize>) {
        // SAFETY: by contract.
        unsafe {
            self.load_head(0, rows, self.buffer(self.shared.at.q));
            self.load_gated(rows, 1.0);
        }
    }

    /// Loads keys and their values.
    ///
    /// # Safety
    /// They are tokens, at most 64.
    unsafe fn load_columns(&self, columns: &Range<usize>) {
        let (unit, at) = (self.shared.unit, self.shared.at);
        // SAFETY: by contract.
        unsafe {
            self.load_head(unit.unit.heads()[1], columns, self.buffer(at.k));
            self.load(&self.shared.v, columns, unit.e, self.buffer(at.v));
        }
    }

    /// Gradients of the queries of a tile, and of their gates.
    pub fn rows(&self, tile: usize) {
        let (block, tokens) = self.tile(tile);
        let rows = self.queries(&tokens);
        if rows.is_empty() {
            return;
        }
        let (unit, at) = (self.shared.unit, self.shared.at);
        let ((d16, e16), n) = (unit.padded(), rows.len());
        let to = self.shared.grad(Role::GATE).map(|tensor| with_head(&tensor));
        let first = self.at_queries(&rows);
        // SAFETY: tensors are those of the catalogue (checked); these rows are this task's.
        unsafe {
            self.load_maps();
            self.load_rows(&rows);
            self.begin(&to, &first, n);
            for columns in self.keys_of(&block, &rows) {
                self.load_columns(&columns);
                self.pair(&block, &rows, &columns);
                self.add((n, unit.d, columns.len()), (at.dx, false), (at.k, d16), at.dh);
                if to.is_some() {
                    self.add((n, unit.e, columns.len()), (at.a, false), (at.v, e16), at.de);
                }
            }
            self.store_head(0, &rows);
            if let Some(to) = &to {
                let (dout, o, tiles) = (self.buffer(at.g), self.buffer(at.de), &unit.kernels.tiles);
                let rows = |tensor| Rows::tokens(tensor, &first, (n, unit.e));
                tiles.load(&rows(&self.shared.dout), 1.0, ptr::null(), dout, e16);
                (tiles.product)(&elementwise::Args { n: n * e16, src: dout, dst: o });
                tiles.store(o, e16, &rows(to));
            }
        }
    }

    /// Gradients of the keys of a tile, and of their values.
    pub fn columns(&self, tile: usize) {
        let (block, columns) = self.tile(tile);
        if columns.is_empty() {
            return;
        }
        let (unit, at) = (self.shared.unit, self.shared.at);
        let ((d16, e16), n) = (unit.padded(), columns.len());
        let to = self.shared.grad(Role::V).map(|tensor| with_head(&tensor));
        let first = [self.sequence.batch, 0, self.sequence.k0 + columns.start];
        let start = if self.shared.causal { columns.start } else { block.start };
        // SAFETY: tensors are those of the catalogue (checked); these rows are this task's.
        unsafe {
            self.load_maps();
            self.load_columns(&columns);
            self.begin(&to, &first, n);
            for from in (start..block.end).step_by(TILE) {
                let rows = self.queries(&(from..(from + TILE).min(block.end)));
                if rows.is_empty() {
                    continue;
                }
                self.load_rows(&rows);
                self.pair(&block, &rows, &columns);
                self.add((n, unit.d, rows.len()), (at.dx, true), (at.q, d16), at.dh);
                if to.is_some() {
                    self.add((n, unit.e, rows.len()), (at.a, true), (at.g, e16), at.de);
                }
            }
            self.store_head(unit.unit.heads()[1], &columns);
            if let Some(to) = &to {
                let rows = Rows::tokens(to, &first, (n, unit.e));
                unit.kernels.tiles.store(self.buffer(at.de), e16, &rows);
            }
        }
    }

    /// Sums at their start: those of `E` hold what the linear part wrote.
    ///
    /// # Safety
    /// The tensor has `n ≤ 64` rows there.
    unsafe fn begin(&self, tensor: &Option<Tensor>, first: &[usize], n: usize) {
        let (unit, at) = (self.shared.unit, self.shared.at);
        let (d16, e16) = unit.padded();
        let sums = self.buffer(at.de);
        // SAFETY: by contract.
        unsafe {
            ptr::write_bytes(self.buffer(at.dh), 0, TILE * d16);
            ptr::write_bytes(sums, 0, TILE * e16);
            if let (Some(tensor), Some(_)) = (tensor, &unit.global) {
                let rows = Rows::tokens(tensor, first, (n, unit.e));
                unit.kernels.tiles.load(&rows, 1.0, ptr::null(), sums, e16);
            }
        }
    }

    /// `C = C + A B` of a tile of scores, turned or not, and rows.
    ///
    /// # Safety
    /// The buffers hold `[n, d]` of sums, `[n, k]` or `[k, n]` of a tile, `[k, d]` of rows.
    unsafe fn add(
        &self,
        (n, d, k): (usize, usize, usize),
        (a, turned): (usize, bool),
        (b, ld): (usize, usize),
        c: usize,
    ) {
        let c = self.buffer(c);
        let product = matmul::Args::product(n, d, k, c, ld as isize);
        // SAFETY: by contract.
        unsafe {
            (self.shared.unit.kernels.tiles.matmul)(&matmul::Args {
                a: self.buffer(a),
                lda: TILE,
                a_by_columns: turned,
                b: self.buffer(b),
                ldb: ld,
                c0: c,
                ldc0: ld as isize,
                ..product
            });
        }
    }

    /// The sum of a head's gradient to where it is kept, times the factor of the scores.
    ///
    /// # Safety
    /// Buffer `dh` holds the rows of these tokens, which are this task's.
    unsafe fn store_head(&self, head: usize, tokens: &Range<usize>) {
        let (unit, from) = (self.shared.unit, self.buffer(self.shared.at.dh));
        let (d16, _) = unit.padded();
        let to = self.head(head, tokens.start);
        // SAFETY: by contract.
        unsafe { (0..tokens.len() * d16).for_each(|i| *to.add(i) = unit.unit.scale * *from.add(i)) };
    }

    /// Adds the gradients of a tile's scores to those of the bias.
    fn add_bias(&self, tile: usize, to: &Tensor) {
        let (block, tokens) = self.tile(tile);
        let rows = self.queries(&tokens);
        if rows.is_empty() {
            return;
        }
        // SAFETY: tensors are those of the catalogue (checked), and no other task has these rows of the bias.
        unsafe {
            self.load_rows(&rows);
            for columns in self.keys_of(&block, &rows) {
                self.load_columns(&columns);
                self.pair(&block, &rows, &columns);
                let dx = self.buffer(self.shared.at.dx);
                for (i, row) in rows.clone().enumerate() {
                    for (j, column) in columns.clone().enumerate() {
                        *to.f32_at(&self.bias_at(&block, row, column)) += *dx.add(i * TILE + j);
                    }
                }
            }
        }
    }
}

impl Shared<'_> {
    /// The gradient of the bias. A task has a tile of its rows in all sequences and blocks; diagonals have one task.
    pub fn bias(&self, runner: &dyn Runner) -> Result<()> {
        let Some(tensor) = self.grad(Role::BIAS) else { return Ok(()) };
        let to = square(&tensor);
        for row in 0..to.extent(2) {
            // SAFETY: elements of the gradient, which no task uses yet.
            (0..to.extent(3)).for_each(|column| unsafe { *to.f32_at(&[0, 0, row, column]) = 0.0 });
        }
        let (n_k, sequences) = (self.call.sequences.longest().1, self.call.sequences.len());
        let tiles = self.tiles(n_k);
        let tasks = if tensor.layout.rank == 1 { 1 } else { self.block(n_k).div_ceil(TILE) };
        parallel::run(runner, tasks, &|own, worker| {
            for index in 0..sequences {
                let Some(task) = self.task(index, worker) else { continue };
                task.load_maps();
                (own..tiles).step_by(tasks).for_each(|tile| task.add_bias(tile, &to));
            }
        })
    }
}

/// Derivatives of the weights in place of scores.
///
/// # Safety
/// `x` has `n` elements.
unsafe fn slopes(tiles: &Tiles, weights: Weights, x: *mut f32, n: usize) {
    let args = elementwise::Args { n, src: x, dst: x };
    // SAFETY: by contract.
    unsafe {
        let scores = std::slice::from_raw_parts_mut(x, n);
        if weights == Weights::Laplace {
            // √2 e^{−2π (x − √½)²}
            let (mean, factor) = (consts::FRAC_1_SQRT_2 as f32, -consts::TAU as f32);
            scores.iter_mut().for_each(|x| *x = factor * (*x - mean) * (*x - mean));
            (tiles.exp)(&args);
            let scores = std::slice::from_raw_parts_mut(x, n);
            scores.iter_mut().for_each(|x| *x *= consts::SQRT_2 as f32);
        } else {
            (tiles.relu)(&args);
            let scores = std::slice::from_raw_parts_mut(x, n);
            scores.iter_mut().for_each(|x| *x *= 2.0);
        }
    }
}
