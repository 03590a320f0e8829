//! The queries of a tile: which they are, and which keys each of them sees.

use super::call::Call;
use super::products::WIDE;
use super::{Form, Reach, SPLIT_KEYS, SPLITS, Softmax};
use super::{decay, prune};
use crate::engine::call::Sequence;
use crate::tensor::Tensor;
use std::ops::Range;

/// Queries of a tile: two vectors of AVX-512, four of AVX2. The 16 KiB of sums and of queries that they take at
/// `D = E = 128` are read from L1, 64 keys by 64 queries would no longer fit beside them.
pub const ROWS: usize = 32;
/// Keys of a tile: 8 KiB of scores, and a hundred products for each time that sums are rescaled.
pub const KEYS: usize = 64;

/// How a call is cut.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Most tiles of queries of one sequence and key head.
    pub tiles: usize,
    /// Sequences, key heads.
    n: usize,
    heads: usize,
    /// Most runs that the keys of a tile are cut into.
    pub splits: usize,
}

impl Grid {
    /// By the lengths of the call alone.
    pub fn new(engine: &Softmax, call: &Call) -> Grid {
        let (n_q, n_k) = call.sequences.longest();
        let n_q = call.queries(n_q);
        let (n, heads, sets) = (call.sequences.len(), engine.heads.1, engine.sets());
        // As many as either way of cutting takes.
        let tiles = sets * n_q.div_ceil(ROWS);
        // Queries are few in some sequence, perhaps.
        let few = n_q < WIDE || call.sequences.offsets_q.is_some();
        let splits = if few { splits(engine, call, n_k) } else { 1 };
        Grid { tiles, n, heads, splits }
    }

    /// Tiles of one sequence and query head, where they do not cross heads.
    pub fn tiles_of_head(&self, engine: &Softmax) -> usize {
        self.tiles / engine.sets()
    }

    /// Units: sequence × key head × tile of queries.
    pub fn units(&self) -> usize {
        self.n * self.heads * self.tiles
    }
}

/// Runs that the keys of few queries are cut into. By the number of keys alone, whatever else is in the batch.
fn splits(engine: &Softmax, call: &Call, keys: usize) -> usize {
    let whole = matches!(engine.settings.form, Form::Best { .. } | Form::Local(_));
    // Sums of gates go through all keys.
    if call.g.is_some() || call.has_columns() || whole {
        1
    } else {
        keys.div_ceil(SPLIT_KEYS).clamp(1, SPLITS)
    }
}

/// Tiles of keys: they end at multiples of [`KEYS`].
pub fn tiles_of(keys: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut at = keys.start;
    std::iter::from_fn(move || {
        let tile = at..((at / KEYS + 1) * KEYS).min(keys.end);
        at = tile.end;
        (!tile.is_empty()).then_some(tile)
    })
}

/// The sequence with the queries that the call asks; the memory's see no key before the block of its own.
fn asked(call: &Call, s: Sequence) -> (Sequence, Option<usize>) {
    match call.asks_memory {
        true => (Sequence { q0: 0, n_q: call.queries(0), ..s }, Some(s.n_k - s.n_q.min(s.n_k))),
        false => (s, None),
    }
}

/// A tile of queries with what it needs.
pub struct Unit<'a> {
    pub engine: &'a Softmax,
    pub call: &'a Call,
    pub sequence: Sequence,
    /// The number of the sequence.
    pub index: usize,
    /// Key head.
    pub head: usize,
    pub splits: usize,
    pub rows: Rows,
}

impl<'a> Unit<'a> {
    /// Unit `index`, or `None` if the sequence is shorter than the longest one and has no such tile.
    pub fn new(engine: &'a Softmax, call: &'a Call, grid: &Grid, index: usize) -> Option<Unit<'a>> {
        let (outer, tile) = (index / grid.tiles, index % grid.tiles);
        let (index, head) = (outer / grid.heads, outer % grid.heads);
        let (sequence, block) = asked(call, call.sequence(index)?);
        let (n_q, sets) = (sequence.n_q, engine.sets());
        let wide = n_q >= WIDE;
        // Sums over the queries belong to heads.
        let of_head = if call.has_columns() { grid.tiles_of_head(engine) } else { n_q.div_ceil(ROWS) };
        let by_head = wide || call.has_columns();
        let (set, at) = if by_head { (tile / of_head, tile % of_head) } else { (0, tile) };
        let end = if by_head { n_q } else { sets * n_q };
        let (first, end) = (set * n_q + at * ROWS, set * n_q + ((at + 1) * ROWS).min(end));
        if set >= sets || first >= end {
            return None;
        }
        let lanes = wide || engine.settings.local().is_some();
        let mut rows = Rows::of(engine, call, (index, &sequence), first..end, lanes);
        if let Some(block) = block {
            rows.first[..rows.n].fill(block);
        }
        if let Some(queries) = call.query_len {
            rows.end_after(queries.get(index) as usize);
        }
        let splits = if by_head { 1 } else { splits(engine, call, sequence.n_k) };
        Some(Unit { engine, call, sequence, index, head, splits, rows }.gated())
    }

    /// The same, without the keys before a gate of −inf, and those that rows do without.
    fn gated(mut self) -> Unit<'a> {
        if let Some(g) = &self.call.g {
            // SAFETY: tensors have the shapes that `plan::check` made sure of.
            unsafe {
                let limits = prune::limits(&self);
                decay::hide(&mut self, g, &limits);
            }
        }
        self
    }

    /// A tensor of queries: the memory's have a batch entry for each sequence.
    pub fn queries(&self, tensor: &Tensor) -> Tensor {
        let skip = if self.call.asks_memory { self.index - self.sequence.batch } else { 0 };
        tensor.from(0, skip)
    }

    /// The memory's keys or values, addressed as if they lay where the sequence's own begin.
    pub fn as_keys(&self, memory: &Tensor) -> Tensor {
        memory.from(0, self.index - self.sequence.batch).from(2, self.sequence.k0.wrapping_neg())
    }

    /// Number of a row's query head among those of all sequences.
    pub fn head_of_all(&self, row: usize) -> usize {
        self.index * self.engine.heads.0 + self.query_head(self.rows.set[row])
    }

    /// Queries from token `first` on of one of the heads that share a key head, across the lanes however few they are.
    pub fn of_head(
        engine: &'a Softmax,
        call: &'a Call,
        (index, sequence): (usize, Sequence),
        (head, set): (usize, usize),
        first: usize,
    ) -> Unit<'a> {
        let (sequence, block) = asked(call, sequence);
        let n_q = sequence.n_q;
        let range = set * n_q + first..set * n_q + (first + ROWS).min(n_q);
        let mut rows = Rows::of(engine, call, (index, &sequence), range, true);
        if let Some(block) = block {
            rows.first[..rows.n].fill(block);
        }
        if let Some(queries) = call.query_len {
            rows.end_after(queries.get(index) as usize);
        }
        Unit { engine, call, sequence, index, head, splits: 1, rows }.gated()
    }

    /// Factor of the scores of a set.
    ///
    /// # Safety
    /// The tensors of the call have the shapes of the catalogue.
    pub unsafe fn scale(&self, set: usize) -> f32 {
        match &self.call.scale_bh {
            // SAFETY: a scale for each sequence and head.
            Some(scale) => unsafe {
                self.engine.kernels.common.value(scale, &[self.index, self.query_head(set)])
            },
            // It is folded into the maps.
            None if self.call.base.is_some() => 1.0,
            None => self.engine.settings.scale,
        }
    }

    /// Query head of a set.
    pub fn query_head(&self, set: usize) -> usize {
        self.head * self.engine.sets() + set
    }
}

/// Queries of one sequence and key head, and the keys that each sees. A row is a query of one of the query heads that
/// share the key head; the rows of a head follow each other.
pub struct Rows {
    /// How many, and rounded up to 16.
    pub n: usize,
    pub width: usize,
    /// Lanes are queries; else channels.
    pub wide: bool,
    /// Which of the heads, which token of the sequence.
    pub set: [usize; ROWS],
    pub token: [usize; ROWS],
    /// Position of each among the keys; negative where there are more queries than keys.
    pub position: [i64; ROWS],
    /// First key that each sees, and one past the last.
    pub first: [usize; ROWS],
    pub end: [usize; ROWS],
}

impl Rows {
    /// These rows of a sequence, by its number.
    fn of(
        engine: &Softmax,
        call: &Call,
        (index, s): (usize, &Sequence),
        range: Range<usize>,
        wide: bool,
    ) -> Rows {
        let keys = call.key_len.map_or(s.n_k, |len| len.get(index) as usize);
        Rows::new(&engine.settings.reach, call.causal, s, keys, range, wide)
    }

    pub fn new(
        reach: &Reach,
        causal: bool,
        s: &Sequence,
        keys: usize,
        range: Range<usize>,
        wide: bool,
    ) -> Rows {
        let n = range.len();
        let mut rows = Rows {
            n,
            width: n.next_multiple_of(16),
            wide,
            set: [0; ROWS],
            token: [0; ROWS],
            position: [0; ROWS],
            first: [0; ROWS],
            end: [0; ROWS],
        };
        for (i, row) in range.enumerate() {
            let (set, token) = (row / s.n_q, row % s.n_q);
            let position = s.n_k as i64 - s.n_q as i64 + token as i64;
            let last = if causal { position } else { i64::MAX - 1 };
            let (first, last) = match *reach {
                Reach::Window { left, right } => (
                    left.map_or(0, |left| position.saturating_sub_unsigned(left as u64)),
                    right.map_or(last, |right| last.min(position.saturating_add_unsigned(right as u64))),
                ),
                Reach::Blocks { block, memory } => {
                    let block_of = position.max(0) as usize / block;
                    let end = (block_of + 1).saturating_mul(block).min(i64::MAX as usize) as i64;
                    ((block_of.saturating_sub(memory) * block) as i64, last.min(end - 1))
                }
            };
            let end = (last + 1).clamp(0, keys as i64) as usize;
            (rows.set[i], rows.token[i], rows.position[i]) = (set, token, position);
            (rows.first[i], rows.end[i]) = (first.clamp(0, end as i64) as usize, end);
        }
        rows
    }

    /// Queries from this token on see nothing.
    fn end_after(&mut self, queries: usize) {
        for i in (0..self.n).filter(|&i| self.token[i] >= queries) {
            (self.first[i], self.end[i]) = (0, 0);
        }
    }

    /// Keys that some row sees, from a multiple of 4 on: as [`tiles_of`] cuts them, what a row sums up does not depend
    /// on the rows beside it.
    pub fn keys(&self) -> Range<usize> {
        let seen = || (0..self.n).filter(|&i| self.first[i] < self.end[i]);
        let first = seen().map(|i| self.first[i]).min().unwrap_or(0) / 4 * 4;
        first..seen().map(|i| self.end[i]).max().unwrap_or(first)
    }

    /// Whether every row sees all of these keys.
    pub fn see_all(&self, keys: &Range<usize>) -> bool {
        (0..self.n).all(|i| self.first[i] <= keys.start && keys.end <= self.end[i])
    }

    /// Runs of rows of one head.
    pub fn runs(&self) -> impl Iterator<Item = Range<usize>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let first = at;
            let set = *self.set[..self.n].get(first)?;
            at += self.set[first..self.n].iter().take_while(|&&other| other == set).count();
            Some(first..at)
        })
    }
}
