//! Where the keys of a sequence lie in the tensors of keys and values (`docs/spec/softmax.md` 1.8).
//!
//! The loop knows keys by number, 0 the oldest: tiles, masks, terms and runs of a split go by it. Only what reads rows of
//! keys and values asks here for the rows, so that a result has the same bits wherever they lie.

use super::rows::{KEYS, Unit};
use crate::engine::call::Sequence;
use crate::simd::prefetch::{Ahead, prefetch};
use crate::tensor::{Index, Table, Tensor};
use std::ops::Range;

/// The order of the rows of a cache.
#[derive(Clone, Copy, Debug)]
pub enum Keys {
    /// One key after the other, from the sequence's first.
    Rows,
    /// Key `s` is row `s % page` of entry `table[b, s / page]`.
    Pages { table: Table, page: usize },
    /// Key `s` is row `(start[b] + s) % rows` of entry `b`.
    Ring { start: Index, rows: usize },
}

/// Rows that follow each other in a tensor of keys or of values: from row `row` of entry `entry` of the first axis on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub entry: usize,
    pub row: usize,
    pub n: usize,
}

impl Keys {
    /// Of a checked call.
    pub fn new(k: Option<&Tensor>, page_table: Option<Tensor>, key_start: Option<Tensor>) -> Keys {
        match (k, page_table, key_start) {
            (Some(k), Some(table), _) => Keys::Pages { table: Table(table), page: k.extent(2) },
            (Some(k), None, Some(start)) => Keys::Ring { start: Index(start), rows: k.extent(2) },
            _ => Keys::Rows,
        }
    }

    /// Whether `key_len` says how many keys there are, and not just how many of them are seen.
    pub fn are_counted(&self) -> bool {
        !matches!(self, Keys::Rows)
    }

    /// Rows of the first of these keys, and of those after it that follow it in memory.
    pub fn run(&self, s: &Sequence, keys: &Range<usize>) -> Run {
        match self {
            Keys::Rows => Run { entry: s.batch, row: s.k0.wrapping_add(keys.start), n: keys.len() },
            Keys::Pages { table, page } => {
                let (number, row) = (keys.start / page, keys.start % page);
                let entry = table.get(s.index, number) as usize;
                Run { entry, row, n: keys.len().min(page - row) }
            }
            Keys::Ring { start, rows } => {
                // Both are less than `rows`.
                let row = start.get(s.index) as usize + keys.start;
                let row = if row < *rows { row } else { row - rows };
                Run { entry: s.batch, row, n: keys.len().min(rows - row) }
            }
        }
    }
}

/// One head of the keys or of the values, and the buffer for copies of its rows.
#[derive(Clone, Copy)]
pub struct HeadOf<'t> {
    pub tensor: &'t Tensor,
    pub head: usize,
    pub channels: usize,
    pub buffer: usize,
}

impl HeadOf<'_> {
    /// The first row of a run.
    pub fn row(&self, run: &Run) -> *const u8 {
        self.tensor.at(&[run.entry, self.head, run.row]).cast_const()
    }

    /// Fetches the rows of a run.
    fn fetch(&self, run: &Run) {
        let (at, size) = (self.row(run), self.tensor.dtype.size());
        let (stride, len) = (self.tensor.stride(2) * size as isize, self.channels * size);
        (0..run.n as isize).for_each(|row| prefetch(at.wrapping_offset(row * stride), len));
    }
}

impl<'a> Unit<'a> {
    /// A head of keys.
    pub fn keys_of<'t>(&self, tensor: &'t Tensor, head: usize) -> HeadOf<'t> {
        HeadOf { tensor, head, channels: self.engine.d, buffer: self.engine.at.k }
    }

    /// The unit's head of values.
    pub fn values_of<'t>(&self, tensor: &'t Tensor) -> HeadOf<'t> {
        HeadOf { tensor, head: self.head, channels: self.engine.e, buffer: self.engine.at.v }
    }

    /// Rows of the first of these keys.
    pub fn run(&self, keys: &Range<usize>) -> Run {
        self.call.keys.run(&self.sequence, keys)
    }

    /// Rows of these keys of the sequence, run by run.
    pub fn runs(&self, keys: Range<usize>) -> impl Iterator<Item = Run> + use<'_, 'a> {
        let mut rest = keys;
        std::iter::from_fn(move || {
            let run = (!rest.is_empty()).then(|| self.run(&rest))?;
            rest.start += run.n;
            Some(run)
        })
    }

    /// Keys after these that few queries read next. After the last row mostly comes the next head.
    pub fn after(&self, keys: &Range<usize>) -> Range<usize> {
        let last = if self.call.keys.are_counted() { self.sequence.n_k } else { usize::MAX };
        let n = if self.rows.wide { 0 } else { KEYS };
        keys.end..(keys.end + n).min(last).max(keys.end)
    }

    /// Where, seen from the row `at` of the first of these keys, the keys after them lie.
    pub fn ahead(&self, of: &HeadOf<'_>, at: *const u8, keys: &Range<usize>) -> Ahead {
        let after = self.after(keys);
        if after.is_empty() {
            return Ahead::default();
        }
        let bytes = of.row(&self.run(&after)).addr().wrapping_sub(at.addr()) as isize;
        let row = of.tensor.stride(2) * of.tensor.dtype.size() as isize;
        Ahead { bytes, follows: bytes == row * keys.len() as isize }
    }

    /// Asks for the rows of these keys.
    pub fn fetch(&self, of: &HeadOf<'_>, keys: &Range<usize>) {
        self.runs(keys.clone()).for_each(|run| of.fetch(&run));
    }
}
