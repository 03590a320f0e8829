//! The two products of a tile, and what brings their operands in and out, for both layouts: queries across the lanes,
//! or channels.

use super::cache::HeadOf;
use super::rows::{KEYS, ROWS, Unit};
use crate::engine::linear::Rows as Slice;
use crate::kernel::{dots, elementwise, matmul, products, weigh};
use crate::simd::prefetch::Ahead;
use crate::tensor::{DType, Tensor};
use std::ops::Range;
use std::ptr;

/// Queries of a head from which lanes are queries: half a vector of AVX-512 is better used so than by the reductions of
/// dot products.
pub const WIDE: usize = 16;

/// Elements between rows of a packed tile of keys or values: whole vectors, and no power of two, whose rows would share
/// few sets of the cache.
pub fn pitch(channels: usize) -> usize {
    channels.next_multiple_of(16) + 16
}

/// Rows of a tensor as a product reads them.
#[derive(Clone, Copy)]
pub struct Operand {
    pub at: *const f32,
    pub ld: usize,
    /// Where the next tile lies, if the products are to ask for it.
    pub ahead: Ahead,
    /// What the rows consist of: of 16-bit floats only where few queries read them, and then `at` is none of `f32`.
    pub dtype: DType,
}

impl Operand {
    /// Rows that are there.
    pub fn new(at: *const f32, ld: usize) -> Operand {
        Operand { at, ld, ahead: Ahead::default(), dtype: DType::F32 }
    }
}

/// Rows that are copied at a time while rows of the next tile are asked for.
const TURN: usize = 4;

/// Where a tile is on its way through the keys.
#[derive(Clone, Copy)]
pub struct Buffers<'a> {
    pub unit: &'a Unit<'a>,
    pub base: *mut f32,
}

impl Buffers<'_> {
    /// Buffer at an offset of the worker's memory.
    pub fn at(&self, offset: usize) -> *mut f32 {
        self.base.wrapping_add(offset)
    }

    /// Loads the queries of the tile times `scale`, by query head, as the products read them.
    ///
    /// # Safety
    /// `tensor` has the heads and tokens of the unit; `head` names one of its heads for each set.
    pub unsafe fn load_queries(
        &self,
        tensor: &Tensor,
        head: impl Fn(usize) -> usize,
        scale: impl Fn(usize) -> f32,
        to: usize,
    ) {
        let (engine, rows, s) = (self.unit.engine, &self.unit.rows, &self.unit.sequence);
        let (d, d16) = (engine.d, engine.d.next_multiple_of(16));
        let tiles = &engine.kernels.common;
        let staging = self.at(if rows.wide { engine.at.rows } else { to });
        // SAFETY: the tensor has these rows by contract; buffers have 32 rows of `d16`.
        unsafe {
            for run in rows.runs() {
                let set = rows.set[run.start];
                let at = [s.batch, head(set), s.q0 + rows.token[run.start]];
                let from = Slice::tokens(tensor, &at, (run.len(), d));
                tiles.load(&from, scale(set), ptr::null(), staging.add(run.start * d16), d16);
            }
            if let Some(base) = &self.unit.call.base {
                self.queries_of(base, staging);
            }
            if rows.wide {
                for i in (0..rows.width).step_by(16) {
                    let n = (rows.n - i).min(16);
                    let (src, dst) = (staging.add(i * d16), self.at(to + i));
                    tiles.transpose_to(src, (n, d), d16, dst, ROWS);
                }
            }
        }
    }

    /// A tile of keys or values: in place where they are one run of rows that the products can read, else as a copy.
    ///
    /// # Safety
    /// The tensor has the head, and rows for these keys, at most 64.
    pub unsafe fn rows_of(&self, of: &HeadOf<'_>, keys: &Range<usize>, whole_vectors: bool) -> Operand {
        let (tensor, row) = (of.tensor, of.tensor.stride(2));
        let known = tensor.dtype == DType::F32 || !self.unit.rows.wide;
        let plain = known && tensor.stride(3) == 1 && row >= 0;
        if plain && (!whole_vectors || of.channels.is_multiple_of(16)) {
            let run = self.unit.run(keys);
            if run.n == keys.len() {
                let at = of.row(&run);
                let ahead = self.unit.ahead(of, at, keys);
                return Operand { at: at.cast(), ld: row as usize, ahead, dtype: tensor.dtype };
            }
        }
        // SAFETY: by contract.
        unsafe { self.copy_of(of, keys) }
    }

    /// A tile of keys or values as a copy, zero to whole vectors.
    ///
    /// # Safety
    /// As [`Buffers::rows_of`].
    pub unsafe fn copy_of(&self, of: &HeadOf<'_>, keys: &Range<usize>) -> Operand {
        let (copy, ld) = (self.at(of.buffer), pitch(of.channels));
        let (mut to, mut next) = (copy, self.unit.after(keys));
        // Few rows at a time, and as many of the next tile asked for: more requests than a core keeps would stall it.
        let turn = if next.is_empty() { KEYS } else { TURN };
        for run in self.unit.runs(keys.clone()) {
            for first in (0..run.n).step_by(turn) {
                let n = (run.n - first).min(turn);
                let ahead = next.start..(next.start + n).min(next.end);
                self.unit.fetch(of, &ahead);
                next.start = ahead.end;
                let at = [run.entry, of.head, run.row + first];
                let from = Slice::tokens(of.tensor, &at, (n, of.channels));
                // SAFETY: at most 64 rows in all, as many as the buffer has.
                unsafe { self.unit.engine.kernels.common.load(&from, 1.0, ptr::null(), to, ld) };
                to = to.wrapping_add(n * ld);
            }
        }
        Operand::new(copy, ld)
    }

    /// The same, with zeros in place of what is not finite; says which rows have such elements.
    ///
    /// # Safety
    /// As [`Buffers::rows_of`].
    pub unsafe fn finite_copy_of(&self, of: &HeadOf<'_>, keys: &Range<usize>) -> (Operand, u64) {
        // SAFETY: by contract; the copy has this many rows.
        unsafe {
            let operand = self.copy_of(of, keys);
            (operand, self.take_out(operand, keys.len(), of.channels))
        }
    }

    /// Zeros in place of what is not finite in up to 64 rows; says which rows have such elements.
    ///
    /// # Safety
    /// The rows are those of a buffer, zero to whole vectors.
    pub unsafe fn take_out(&self, rows: Operand, n: usize, channels: usize) -> u64 {
        let (mut sums, mut taken) = ([0.0; KEYS], 0);
        let (a, lda, row) = (rows.at, rows.ld, sums.as_mut_ptr());
        let (b, col) = (ptr::null(), ptr::null_mut());
        // SAFETY: by contract.
        unsafe {
            (self.unit.engine.kernels.sums)(&products::Args { n, d: channels, a, lda, b, ldb: 0, row, col });
            // A sum of finite values that overflows is taken for one that is not: slower, no different.
            for (i, _) in sums.iter().enumerate().filter(|(_, sum)| !sum.is_finite()) {
                taken |= 1 << i;
                let row = std::slice::from_raw_parts_mut(a.cast_mut().add(i * lda), channels);
                row.iter_mut().filter(|x| !x.is_finite()).for_each(|x| *x = 0.0);
            }
        }
        taken
    }

    /// `X = K qᵀ`.
    ///
    /// # Safety
    /// `k` has `n ≤ 64` rows; the queries were loaded to `q`.
    pub unsafe fn scores(&self, k: Operand, n: usize, q: usize, x: usize) {
        let (engine, rows) = (self.unit.engine, &self.unit.rows);
        let (d, x, q) = (engine.d, self.at(x), self.at(q).cast_const());
        debug_assert!(n <= KEYS);
        // SAFETY: by contract; the layouts are those of `load_queries`.
        unsafe {
            if rows.wide {
                (engine.kernels.common.matmul)(&matmul::Args {
                    a: k.at,
                    lda: k.ld,
                    b: q,
                    ldb: ROWS,
                    ..matmul::Args::product(n, rows.width, d, x, ROWS as isize)
                });
            } else {
                let (a, lda, b, ldb, ahead) = (q, d.next_multiple_of(16), k.at, k.ld, k.ahead);
                let (m, c, ldc) = (rows.n, x, ROWS);
                let args = dots::Args { m, n, k: d, a, lda, b, ldb, ahead, c, ldc };
                engine.kernels.few.dots(args, k.dtype);
            }
        }
    }

    /// `acc = acc · factor + Vᵀ X`; without a factor the sums are kept, and at first there are none.
    ///
    /// # Safety
    /// `v` has `n` rows, in whole vectors unless the tile is wide; `factor` is null or has a value for each row.
    pub unsafe fn add_values(
        &self,
        v: Operand,
        n: usize,
        x: usize,
        acc: usize,
        first: bool,
        factor: *const f32,
    ) {
        let (engine, rows) = (self.unit.engine, &self.unit.rows);
        let (x, acc) = (self.at(x).cast_const(), self.at(acc));
        // SAFETY: by contract; sums are `[E][32]` or `[32][E]`.
        unsafe {
            if rows.wide {
                let product = self.sums(acc, n);
                (engine.kernels.common.matmul)(&matmul::Args {
                    a: v.at,
                    lda: v.ld,
                    a_by_columns: true,
                    b: x,
                    ldb: ROWS,
                    c0: if first { ptr::null() } else { acc },
                    ldc0: product.ldc,
                    col: factor,
                    ..product
                });
            } else {
                let e = engine.e;
                let ldc = e.next_multiple_of(16);
                let (b, ldb, ahead, m) = (v.at, v.ld, v.ahead, rows.n);
                let (a, lda, c, pre) = (x, ROWS, acc, factor);
                let args = weigh::Args { m, n, e, a, lda, b, ldb, ahead, c, ldc, first, pre };
                engine.kernels.few.weigh(args, v.dtype);
            }
        }
    }

    /// The product of the sums' shape.
    fn sums(&self, acc: *mut f32, n: usize) -> matmul::Args {
        let (e, rows) = (self.unit.engine.e, &self.unit.rows);
        if rows.wide {
            matmul::Args::product(e, rows.width, n, acc, ROWS as isize)
        } else {
            matmul::Args::product(rows.n, e, n, acc, e.next_multiple_of(16) as isize)
        }
    }

    /// `acc = acc · factor`.
    ///
    /// # Safety
    /// There are sums, and a factor for each row.
    pub unsafe fn scale_sums(&self, acc: usize, factor: *const f32) {
        let acc = self.at(acc);
        let product = self.sums(acc, 0);
        let with = matmul::Args { c0: acc, ldc0: product.ldc, ..product };
        let wide = self.unit.rows.wide;
        let with =
            if wide { matmul::Args { col: factor, ..with } } else { matmul::Args { pre: factor, ..with } };
        // SAFETY: by contract.
        unsafe { (self.unit.engine.kernels.common.matmul)(&with) };
    }

    /// All sums are zero.
    ///
    /// # Safety
    /// Nothing else uses them.
    pub unsafe fn clear_sums(&self, acc: usize) {
        let len = ROWS * self.unit.engine.e.next_multiple_of(16);
        // SAFETY: sums have this many elements.
        unsafe { ptr::write_bytes(self.at(acc), 0, len) };
    }

    /// The sum of a row and a channel.
    pub fn sum(&self, acc: usize, row: usize, channel: usize) -> *mut f32 {
        let e16 = self.unit.engine.e.next_multiple_of(16);
        let wide = self.unit.rows.wide;
        self.at(acc + if wide { channel * ROWS + row } else { row * e16 + channel })
    }

    /// Rows of sums, a first part from the tensor added where there is one, times their gates.
    ///
    /// # Safety
    /// The tensor has these rows; the buffer of values has room for them.
    unsafe fn gate(&self, sums: *mut f32, rows: &Slice<'_>) {
        let (engine, call, e16) = (self.unit.engine, self.unit.call, rows.d.next_multiple_of(16));
        let (tiles, other, len) = (&engine.kernels.common, self.at(engine.at.v), rows.n * e16);
        // SAFETY: by contract; columns past the channels are computed with, and never stored.
        unsafe {
            if call.begun {
                tiles.load(rows, 1.0, ptr::null(), other, e16);
                (0..len).for_each(|i| *sums.add(i) += *other.add(i));
            }
            if let Some(tensor) = &call.gate {
                tiles.load(&Slice { tensor, ..*rows }, 1.0, ptr::null(), other, e16);
                (tiles.product)(&elementwise::Args { n: len, src: other, dst: sums });
            }
        }
    }

    /// Sums to the rows of a tensor.
    ///
    /// # Safety
    /// The tensor has the heads and tokens of the unit, which no other task writes.
    pub unsafe fn store_sums(&self, acc: usize, tensor: &Tensor) {
        let (engine, rows, s) = (self.unit.engine, &self.unit.rows, &self.unit.sequence);
        let (e, e16) = (engine.e, engine.e.next_multiple_of(16));
        let tiles = &engine.kernels.common;
        let staging = self.at(if rows.wide { engine.at.rows } else { acc });
        // SAFETY: buffers have 32 rows of `e16`; the tensor's rows are there by contract.
        unsafe {
            if rows.wide {
                for i in (0..e).step_by(16) {
                    let n = (e - i).min(16);
                    tiles.transpose_to(self.at(acc + i * ROWS), (n, rows.n), ROWS, staging.add(i), e16);
                }
            }
            for run in rows.runs() {
                let head = self.unit.query_head(rows.set[run.start]);
                let at = [s.batch, head, s.q0 + rows.token[run.start]];
                self.gate(staging.add(run.start * e16), &Slice::tokens(tensor, &at, (run.len(), e)));
                tiles.store(staging.add(run.start * e16), e16, &Slice::tokens(tensor, &at, (run.len(), e)));
            }
        }
    }
}
