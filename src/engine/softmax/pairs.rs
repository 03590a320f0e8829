//! Products on pairs of `bf16` ([`matmul_bf16`]), where the processor multiplies them.
//!
//! ```text
//! X   = scale · K qᵀ               rows of `bf16` as they came: exact products, `f32` sums
//! acc = acc · factor + ⟨V⟩ᵀ ⟨X⟩    where the description allows it; other types' queries and keys then too
//! ```
//!
//! `⟨·⟩` rounds to `bf16`. Keys are read where they lie: a row of `bf16` is a row of pairs. Queries are made pairs of channels once for a
//! tile, without their scale, which multiplies the sums; values pairs of keys for each tile of keys. The error is in `docs/numerics.md`.
//!
//! Sums of weights are those of the rounded ones: rounding then moves an output between the values that it weighs; `lse` is of the weights
//! before. Few queries are left to `f32`: their products wait for memory.
//!
//! Measured: AVX512_BF16 on one Zen 4 core that others shared, causal, 4096 tokens, ns of CPU time per token and head, best of 5:
//!
//! | | `f32` | `bf16` | flag, `f32` rows | flag, `bf16` rows | `bf16` by way of `f32` |
//! | --- | --- | --- | --- | --- | --- |
//! | `D = E = 128` | 11700 | 9000 | 8400 | 6850 | 12600 |
//! | `D = E = 64` | 6200 | 5380 | 4770 | 4270 | 6960 |
//!
//! What is left is not in products, a third with the flag: exponentials, and values on their way from L2 and L3 to be zipped.

use super::cache::HeadOf;
use super::products::{Buffers, Operand, pitch};
use super::rows::{KEYS, ROWS};
use super::{Attention, Form, Weights};
use crate::engine::Extents;
use crate::engine::linear::Rows as Slice;
use crate::kernel::pair_rows::{self, ZipArgs};
use crate::kernel::{matmul_bf16, products};
use crate::simd::{Isa, has_bf16_dot};
use crate::tensor::{DType, Tensor};
use crate::workspace::Carver;
use half::bf16;
use std::ops::Range;
use std::ptr;

/// Which products are of pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    pub scores: bool,
    pub values: bool,
}

impl Pairs {
    /// Of a plan.
    pub fn new(isa: Isa, settings: &Attention, extents: &Extents) -> Pairs {
        let form = matches!(settings.form, Form::Plain | Form::Difference | Form::Probe);
        let known = form && settings.weights == Weights::Softmax && settings.base.is_none();
        let there = known && has_bf16_dot(isa);
        let exact = extents.dtype_qkv == DType::Bf16;
        Pairs { scores: there && (exact || extents.bf16_dot), values: there && extents.bf16_dot }
    }
}

/// Offsets of a worker's buffers of pairs.
#[derive(Clone, Copy, Debug)]
pub struct Offsets {
    /// Keys, `[64][D]` padded, or queries on their way in.
    k: usize,
    /// Values `[32][E]` padded, weights `[32][32]`.
    v: usize,
    x: usize,
}

impl Offsets {
    /// Those of a plan.
    pub fn new(carver: &mut Carver, pairs: Pairs, d: usize, e: usize) -> Offsets {
        let space = |there: bool| if there { KEYS / 2 } else { 0 };
        Offsets {
            k: carver.take(&[space(pairs.scores), pitch(d)]),
            v: carver.take(&[space(pairs.values), pitch(e)]),
            x: carver.take(&[space(pairs.values), ROWS]),
        }
    }
}

impl Buffers<'_> {
    /// Which products of this tile are of pairs.
    pub fn pairs(&self) -> Pairs {
        let (pairs, wide) = (self.unit.engine.pairs, self.unit.rows.wide);
        let exact = self.unit.call.probe.is_none_or(|probe| probe.dtype == DType::Bf16);
        Pairs { scores: wide && pairs.scores && (exact || pairs.values), values: wide && pairs.values }
    }

    /// Loads the queries of the tile as pairs, `[⌈D / 2⌉][32]`.
    ///
    /// # Safety
    /// As [`Buffers::load_queries`]; the scores are of pairs.
    pub unsafe fn load_query_pairs(&self, tensor: &Tensor, head: impl Fn(usize) -> usize, to: usize) {
        let (engine, rows, s) = (self.unit.engine, &self.unit.rows, &self.unit.sequence);
        let (d, d16) = (engine.d, engine.d.next_multiple_of(16));
        let tiles = &engine.kernels.common;
        let (wide, narrow) = (self.at(engine.at.rows), self.at(engine.at.pairs.k));
        // SAFETY: the tensor has these rows by contract; buffers have 32 rows of `d16`, the second in half the space.
        unsafe {
            for run in rows.runs() {
                let at = [s.batch, head(rows.set[run.start]), s.q0 + rows.token[run.start]];
                let from = Slice::tokens(tensor, &at, (run.len(), d));
                tiles.load(&from, 1.0, ptr::null(), wide.add(run.start * d16), d16);
            }
            tiles.narrow(wide, (rows.n, d16), d16, narrow.cast());
            for i in (0..rows.width).step_by(16) {
                let (n, src) = ((rows.n - i).min(16), narrow.add(i * d16 / 2));
                // Pairs of a row move as one.
                tiles.transpose_to(src, (n, d.div_ceil(2)), d16 / 2, self.at(to + i), ROWS);
            }
        }
    }

    /// A tile of keys as rows of pairs: in place where they are that, else as a copy.
    ///
    /// # Safety
    /// As [`Buffers::rows_of`]; the scores are of pairs.
    pub unsafe fn key_pairs(&self, of: &HeadOf<'_>, keys: &Range<usize>) -> Operand {
        let (engine, tensor, run) = (self.unit.engine, of.tensor, self.unit.run(keys));
        let (d, row, first) = (engine.d, tensor.stride(2), of.row(&run));
        let plain = tensor.dtype == DType::Bf16 && tensor.stride(3) == 1 && row >= 0;
        let whole = row % 2 == 0 && d.is_multiple_of(2) && first.addr().is_multiple_of(4);
        if plain && whole && run.n == keys.len() {
            return Operand::new(first.cast(), row as usize / 2);
        }
        let (to, ld, d16) = (self.at(engine.at.pairs.k), pitch(d), d.next_multiple_of(16));
        // SAFETY: by contract; rows are whole vectors, the buffer has 64 of them.
        unsafe {
            let rows = self.rows_of(of, keys, true);
            engine.kernels.common.narrow_to(rows.at, (keys.len(), d16), rows.ld, to.cast(), ld);
        }
        Operand::new(to, ld / 2)
    }

    /// `X = scale · K qᵀ`.
    ///
    /// # Safety
    /// `k` has `n ≤ 64` rows of pairs; the queries were loaded to `q` as such.
    pub unsafe fn score_pairs(&self, k: Operand, n: usize, q: usize, x: usize, scale: f32) {
        let (engine, width, scale) = (self.unit.engine, self.unit.rows.width, [scale; KEYS]);
        let (pairs, x) = (engine.d.div_ceil(2), self.at(x));
        // SAFETY: by contract; the layout is that of `load_query_pairs`.
        unsafe {
            (engine.kernels.common.matmul_bf16)(&matmul_bf16::Args {
                a: k.at.cast(),
                lda: k.ld,
                b: self.at(q).cast(),
                ldb: ROWS,
                mid: scale.as_ptr(),
                ..matmul_bf16::Args::product(n, width, pairs, x, ROWS as isize)
            });
        }
    }

    /// A tile of values as pairs of keys, and which rows have elements that are not finite, if `guarded`: those are zero.
    ///
    /// # Safety
    /// As [`Buffers::rows_of`]; sums are of pairs.
    pub unsafe fn value_pairs(&self, of: &HeadOf<'_>, keys: &Range<usize>, guarded: bool) -> (Operand, u64) {
        let (engine, tensor, run) = (self.unit.engine, of.tensor, self.unit.run(keys));
        let (n, d, ldd) = (keys.len(), engine.e, pitch(engine.e));
        let (tiles, to) = (&engine.kernels.common, self.at(engine.at.pairs.v));
        let operand = Operand::new(to, ldd);
        let row = tensor.stride(2);
        // SAFETY: by contract; the buffer has 32 rows.
        unsafe {
            let plain = tensor.dtype == DType::Bf16 && tensor.stride(3) == 1 && row >= 0;
            if !guarded && plain && run.n == n {
                let src = of.row(&run).cast();
                (tiles.zip_rows)(&ZipArgs { n, d, src, ld: row as usize, dst: to.cast(), ldd });
                return (operand, 0);
            }
            let (rows, taken) = if guarded {
                let rows = self.copy_of(of, keys);
                (rows, self.take_out_large(rows, n))
            } else {
                (self.rows_of(of, keys, true), 0)
            };
            let (src, ld, factor, sums) = (rows.at, rows.ld, ptr::null(), ptr::null_mut());
            (tiles.pair_rows)(&pair_rows::Args { n, d, src, ld, factor, dst: to.cast(), ldd, sums });
            (operand, taken)
        }
    }

    /// [`Buffers::take_out`] of values that are not finite as `bf16`.
    ///
    /// # Safety
    /// The same.
    unsafe fn take_out_large(&self, rows: Operand, n: usize) -> u64 {
        let (mut sums, mut taken, d) = ([0.0; KEYS], 0, self.unit.engine.e);
        let (a, lda, row, col) = (rows.at, rows.ld, sums.as_mut_ptr(), ptr::null_mut());
        // SAFETY: by contract.
        unsafe {
            // Squares overflow from 1.8e19 on, well before `bf16` does.
            (self.unit.engine.kernels.sums)(&products::Args { n, d, a, lda, b: a, ldb: lda, row, col });
            for (i, _) in sums.iter().enumerate().filter(|(_, sum)| !sum.is_finite()) {
                let row = std::slice::from_raw_parts_mut(a.cast_mut().add(i * lda), d);
                for x in row.iter_mut().filter(|x| !bf16::from_f32(**x).is_finite()) {
                    taken |= 1 << i;
                    *x = 0.0;
                }
            }
        }
        taken
    }

    /// `acc = acc · factor + ⟨V⟩ᵀ ⟨X⟩`; without a factor the sums are kept, and at first there are none. Gives the sums of `⟨X⟩` over the
    /// keys.
    ///
    /// # Safety
    /// `v` has pairs of `n` rows; `factor` is null or has a value for each row.
    pub unsafe fn add_value_pairs(
        &self,
        v: Operand,
        n: usize,
        x: usize,
        acc: usize,
        first: bool,
        factor: *const f32,
    ) -> [f32; ROWS] {
        let (engine, d) = (self.unit.engine, self.unit.rows.width);
        let (tiles, src, acc) = (&engine.kernels.common, self.at(x), self.at(acc));
        let x = self.at(engine.at.pairs.x).cast();
        let c0 = if first { ptr::null() } else { acc.cast_const() };
        let (ld, ldd, mut columns) = (ROWS, ROWS, [0.0; ROWS]);
        let (sums, ones) = (columns.as_mut_ptr(), ptr::null());
        // SAFETY: by contract; sums are `[E][32]`.
        unsafe {
            (tiles.pair_rows)(&pair_rows::Args { n, d, src, ld, factor: ones, dst: x, ldd, sums });
            (tiles.matmul_bf16)(&matmul_bf16::Args {
                a: v.at.cast(),
                lda: v.ld,
                a_by_columns: true,
                b: x,
                ldb: ROWS,
                c0,
                ldc0: ROWS as isize,
                col: factor,
                ..matmul_bf16::Args::product(engine.e, d, n.div_ceil(2), acc, ROWS as isize)
            });
        }
        columns
    }
}
