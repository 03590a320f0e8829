//! Segmented recurrent attention (`docs/spec/softmax.md` 6): a softmax over the keys of the query's own segment, and a
//! thresholded memory of the other keys.
//!
//! ```text
//! j   = min(m − 1, ⌊t m / gen_len⌋)            m = ⌈S / block⌉
//! X   = (clamp(Kᵀ V) − clamp(K_jᵀ V_j)) wᵀ      once for each segment that a query is in, in order
//! Vm  = λ Vm + X      P = max(Vm / θ − 1, 0)      Vm = Vm − θ [P > 0]
//! o_t = softmax_j(scale q_t·k_s) v + scale q_t P / n      n_e = ‖k_{·e}‖
//! ```
//!
//! The queries of a sequence may come in pieces, down to single ones ([`Carried`]). A row has lanes of its own however few
//! there are, so its bits are those of the whole call.
//!
//! *Tasks*: sequence × head, whose segments follow each other. *Cost*: `2 (D + E) block + 2 D E` FLOPs per query (a call of
//! fewer than 16 takes as long as one of 16), `2 S D E` for all keys, and for each segment that is entered `2 block D E` and `2 D E²`.
//! A call that enters none reads nothing of the state but `P`, and in place where it can. *Workspace*: five matrices `[D, E]` per worker.

use super::Softmax;
use super::call::Call;
use super::products::{Buffers, Operand};
use super::rows::{KEYS, ROWS, Rows, Unit};
use super::tile::{Beside, Tile};
use crate::catalog::Role;
use crate::engine::call::{Bindings, Sequence};
use crate::engine::linear::Rows as Slice;
use crate::error::Result;
use crate::kernel::{matmul, products};
use crate::parallel::{self, Runner};
use crate::tensor::{DType, Index, Tensor};
use crate::workspace::{Carver, Workspace};
use std::ops::Range;
use std::{ptr, slice};

/// Parameters of the mechanism.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segments {
    /// Keys of a segment.
    pub block: usize,
    pub threshold: f32,
    pub leak: f32,
    /// Bound of the entries of `Kᵀ V`; 0: none.
    pub limit: f32,
    /// Keys that the last segment lacks count with score 0 and value 0.
    pub zero_keys: bool,
    /// Whether the memory's part is divided by the norms of the keys' channels.
    pub normed: bool,
    /// Queries of a whole sequence, where it is not the call's number.
    pub gen_len: Option<usize>,
}

impl Segments {
    /// How many segments there are.
    pub fn count(&self, s: &Sequence) -> usize {
        s.n_k.div_ceil(self.block)
    }

    /// Keys of a segment.
    pub fn keys(&self, s: &Sequence, segment: usize) -> Range<usize> {
        let first = (segment * self.block).min(s.n_k);
        first..(first + self.block).min(s.n_k)
    }

    /// The segment of a query, by its number in the sequence.
    fn of(&self, s: &Sequence, query: usize) -> usize {
        query.saturating_mul(self.count(s)) / self.length(s)
    }

    /// Number of the first query of a segment: the first `t` with `⌊t m / gen_len⌋ ≥ segment`.
    fn first(&self, s: &Sequence, segment: usize) -> usize {
        segment.saturating_mul(self.length(s)).div_ceil(self.count(s))
    }

    fn length(&self, s: &Sequence) -> usize {
        self.gen_len.unwrap_or(s.n_q).max(1)
    }

    /// Queries of a segment among those of the call, whose first is number `start` of its sequence.
    pub fn queries(&self, s: &Sequence, start: usize, segment: usize) -> Range<usize> {
        let first = |segment: usize| self.first(s, segment).saturating_sub(start).min(s.n_q);
        first(segment)..if segment + 1 < self.count(s) { first(segment + 1) } else { s.n_q }
    }

    /// Segments that a query of the call is in, in order.
    pub fn visited(&self, s: &Sequence, start: usize) -> impl DoubleEndedIterator<Item = usize> {
        let end = if s.n_q > 0 { self.count(s).min(self.of(s, start + s.n_q - 1) + 1) } else { 0 };
        let first = self.of(s, start).min(end.saturating_sub(1));
        (first..end).filter(move |&segment| !self.queries(s, start, segment).is_empty())
    }

    /// The logarithm of how many keys a segment lacks that count.
    pub fn missing(&self, keys: &Range<usize>) -> f32 {
        let missing = if self.zero_keys { self.block - keys.len() } else { 0 };
        (missing as f32).ln()
    }

    /// Queries of a tile, which see the keys of their segment.
    pub fn rows(&self, engine: &Softmax, s: &Sequence, queries: Range<usize>, keys: &Range<usize>) -> Rows {
        let mut rows = Rows::new(&engine.settings.reach, false, s, s.n_k, queries, true);
        let n = rows.n;
        rows.first[..n].fill(keys.start);
        rows.end[..n].fill(keys.end);
        rows
    }
}

/// Offsets of a worker's matrices, `[D, D]` padded; the norms are one row.
#[derive(Clone, Copy, Debug)]
pub struct Matrices {
    pub all: usize,
    pub part: usize,
    pub weight: usize,
    pub membrane: usize,
    pub memory: usize,
    pub norms: usize,
}

impl Matrices {
    /// Of `d` channels; none without segments.
    pub fn new(carver: &mut Carver, d: usize, there: bool) -> Matrices {
        let (rows, ld) = if there { (d, d.next_multiple_of(16)) } else { (0, 0) };
        let mut matrix = || carver.take(&[rows, ld]);
        let (all, part, weight, membrane, memory) = (matrix(), matrix(), matrix(), matrix(), matrix());
        Matrices { all, part, weight, membrane, memory, norms: carver.take(&[ld]) }
    }
}

/// A part of the state: what the call before has left, and where it goes.
#[derive(Clone, Copy, Debug)]
struct Part {
    from: Option<Tensor>,
    to: Option<Tensor>,
}

/// What calls of one sequence of queries hand on, each of them absent where nothing is.
#[derive(Clone, Copy, Debug)]
pub struct Carried {
    /// Numbers of the calls' first queries; 0 without them.
    starts: Option<Index>,
    /// `Vm`.
    membrane: Part,
    /// `P`, or `P / n`.
    memory: Part,
    /// `clamp(Kᵀ V)`, and `n`.
    total: Part,
    norms: Part,
}

impl Carried {
    /// Nothing.
    pub const NONE: Carried = {
        let part = Part { from: None, to: None };
        Carried { starts: None, membrane: part, memory: part, total: part, norms: part }
    };

    /// Of a checked call.
    pub fn new(tensors: &Bindings) -> Carried {
        let part = |from, to| Part { from: tensors.get(from), to: tensors.get(to) };
        Carried {
            starts: tensors.get(Role::QUERY_START).map(Index),
            membrane: part(Role::STATE_IN, Role::STATE_OUT),
            memory: part(Role::MEMORY_IN, Role::MEMORY_OUT),
            total: part(Role::TOTAL_IN, Role::TOTAL_OUT),
            norms: part(Role::Z_IN, Role::Z_OUT),
        }
    }
}

/// Runs a call.
pub fn run(
    engine: &Softmax,
    settings: &Segments,
    runner: &dyn Runner,
    (call, carried): (&Call, &Carried),
    workspace: &Workspace,
) -> Result<()> {
    let heads = engine.heads.0;
    parallel::run(runner, call.sequences.len() * heads, &|task, worker| {
        let (index, head) = (task / heads, task % heads);
        let Some(sequence) = call.sequences.get(index) else { return };
        let rows = settings.rows(engine, &sequence, 0..0, &(0..0));
        let unit = Unit { engine, call, sequence, index, head, splits: 1, rows };
        // SAFETY: tensors have the shapes that `plan::check` made sure of; buffers those that `Matrices` names.
        unsafe { Head::new(&unit, settings, carried, workspace.worker(worker)).run() }
    })
}

/// One head of a sequence.
pub struct Head<'a> {
    buffers: Buffers<'a>,
    settings: &'a Segments,
    carried: &'a Carried,
    /// Number of the call's first query.
    start: usize,
}

impl<'a> Head<'a> {
    /// The head of a unit without rows.
    pub fn new(unit: &'a Unit<'a>, settings: &'a Segments, carried: &'a Carried, base: *mut f32) -> Head<'a> {
        let start = carried.starts.map_or(0, |starts| starts.get(unit.index) as usize);
        Head { buffers: Buffers { unit, base }, settings, carried, start }
    }

    /// Elements between rows of the matrices.
    pub fn ld(&self) -> usize {
        self.buffers.unit.engine.d.next_multiple_of(16)
    }

    /// A matrix.
    ///
    /// # Safety
    /// Nothing else uses it as long as the borrow is.
    pub unsafe fn matrix<'m>(&self, at: usize) -> &'m mut [f32] {
        let len = self.buffers.unit.engine.d * self.ld();
        // SAFETY: buffers of a worker have this many elements.
        unsafe { slice::from_raw_parts_mut(self.buffers.at(at), len) }
    }

    /// # Safety
    /// Tensors and buffers are those of the call.
    unsafe fn run(&self) {
        let unit = self.buffers.unit;
        let (at, s, carried) = (&unit.engine.at.matrices, &unit.sequence, self.carried);
        let visited = || self.settings.visited(s, self.start);
        let enters = visited().any(|segment| !self.is_in(segment));
        // SAFETY: by contract.
        unsafe {
            if enters {
                self.begin();
            } else if !self.stays(&carried.total) || !self.stays(&carried.norms) {
                self.total();
            }
            for segment in visited() {
                let keys = self.settings.keys(s, segment);
                let memory = if self.is_in(segment) { self.memory_in() } else { self.visit(&keys) };
                self.queries(self.settings.queries(s, self.start, segment), &keys, Some(memory));
            }
            if s.n_k == 0 {
                self.queries(0..s.n_q, &(0..0), None);
            }
            for (part, at) in [(&carried.membrane, at.membrane), (&carried.memory, at.memory)] {
                if enters {
                    self.store(part, at);
                } else if !self.stays(part) {
                    self.load(part, at);
                    self.store(part, at);
                }
            }
        }
    }

    /// Whether the memory is that of a segment since before the call.
    fn is_in(&self, segment: usize) -> bool {
        self.settings.first(&self.buffers.unit.sequence, segment) < self.start
    }

    /// Whether nothing has to be done for a part that the call does not change.
    fn stays(&self, part: &Part) -> bool {
        part.to.is_none() || (self.start > 0 && part.from == part.to)
    }

    /// Loads a matrix of the state; zeros where there is none, and before the first query.
    ///
    /// # Safety
    /// As [`Head::run`].
    unsafe fn load(&self, part: &Part, to: usize) {
        let (unit, d) = (self.buffers.unit, self.buffers.unit.engine.d);
        // SAFETY: by contract.
        unsafe {
            let Some(from) = part.from.as_ref().filter(|_| self.start > 0) else {
                return self.matrix(to).fill(0.0);
            };
            let head = [unit.sequence.slot, unit.head];
            let from = Slice::tokens(from, &head, (d, d));
            unit.engine.kernels.common.load(&from, 1.0, ptr::null(), self.buffers.at(to), self.ld());
        }
    }

    /// Stores a matrix of the state, if it is wanted.
    ///
    /// # Safety
    /// As [`Head::run`].
    unsafe fn store(&self, part: &Part, from: usize) {
        let (unit, d) = (self.buffers.unit, self.buffers.unit.engine.d);
        if let Some(to) = &part.to {
            let head = [unit.sequence.slot, unit.head];
            let to = Slice::tokens(to, &head, (d, d));
            // SAFETY: by contract; the slot and head are this task's.
            unsafe { unit.engine.kernels.common.store(self.buffers.at(from), self.ld(), &to) };
        }
    }

    /// The memory as the call before has left it: where it lies, if products can read it there.
    ///
    /// # Safety
    /// As [`Head::run`].
    unsafe fn memory_in(&self) -> Operand {
        let (unit, part) = (self.buffers.unit, &self.carried.memory);
        if let Some(from) = &part.from
            && from.dtype == DType::F32
            && from.stride(3) == 1
            && from.stride(2) >= 0
        {
            return Operand::new(from.f32_at(&[unit.sequence.slot, unit.head]), from.stride(2) as usize);
        }
        // SAFETY: by contract.
        unsafe { self.load(part, unit.engine.at.matrices.memory) };
        self.memory()
    }

    fn memory(&self) -> Operand {
        Operand::new(self.buffers.at(self.buffers.unit.engine.at.matrices.memory), self.ld())
    }

    /// What the memory moves on from, and what that takes.
    ///
    /// # Safety
    /// As [`Head::run`].
    pub unsafe fn begin(&self) {
        let at = &self.buffers.unit.engine.at.matrices;
        // SAFETY: by contract.
        unsafe {
            self.load(&self.carried.membrane, at.membrane);
            self.load_weight(true);
            self.total();
        }
    }

    /// Products and inverse norms of all keys, carried in or computed; they are stored where they are wanted.
    ///
    /// # Safety
    /// As [`Head::run`].
    unsafe fn total(&self) {
        let (unit, Carried { total, norms, .. }) = (self.buffers.unit, self.carried);
        let (engine, d, ld) = (unit.engine, unit.engine.d, self.ld());
        let (tiles, at, head) =
            (&engine.kernels.common, &engine.at.matrices, [unit.sequence.slot, unit.head]);
        let norm = self.buffers.at(at.norms);
        // SAFETY: by contract; norms are a row of a matrix.
        unsafe {
            if self.start > 0 && total.from.is_some() {
                self.load(total, at.all);
                if let Some(from) = &norms.from {
                    tiles.load(&Slice::one(from, &head, 2, d), 1.0, ptr::null(), norm, ld);
                }
            } else {
                self.products(0..unit.sequence.n_k, at.all, true);
                self.clamp(at.all);
            }
            if !self.stays(total) {
                self.store(total, at.all);
            }
            if let Some(to) = norms.to.as_ref().filter(|_| !self.stays(norms)) {
                tiles.store(norm, ld, &Slice::one(to, &head, 2, d));
            }
            // A channel that is zero in all keys has no part in the memory.
            let norm = slice::from_raw_parts_mut(norm, ld);
            norm.iter_mut().for_each(|x| *x = if *x == 0.0 { 0.0 } else { x.recip() });
        }
    }

    /// `w_mem`, or its transpose.
    ///
    /// # Safety
    /// As [`Head::run`].
    pub unsafe fn load_weight(&self, transposed: bool) {
        let (unit, at) = (self.buffers.unit, &self.buffers.unit.engine.at.matrices);
        let (d, Some(w)) = (unit.engine.d, &unit.call.w_mem) else { return };
        let rows = usize::from(transposed);
        let from = Slice { tensor: w, at: &[0, 0], rows, columns: 1 - rows, n: d, d };
        // SAFETY: by contract.
        unsafe {
            let to = self.buffers.at(at.weight);
            unit.engine.kernels.common.load(&from, 1.0, ptr::null(), to, self.ld());
        }
    }

    /// Entries within the limit.
    ///
    /// # Safety
    /// The matrix is there.
    pub unsafe fn clamp(&self, at: usize) {
        let limit = self.settings.limit;
        if limit > 0.0 {
            // SAFETY: by contract.
            unsafe { self.matrix(at) }.iter_mut().for_each(|x| *x = x.clamp(-limit, limit));
        }
    }

    /// `Kᵀ V` of some keys, and the norms of the channels of the keys if they are wanted.
    ///
    /// # Safety
    /// As [`Head::run`].
    pub unsafe fn products(&self, keys: Range<usize>, to: usize, norms: bool) {
        let (unit, buffers) = (self.buffers.unit, self.buffers);
        let (engine, d, ld) = (unit.engine, unit.engine.d, self.ld());
        let norm = self.buffers.at(engine.at.matrices.norms);
        // SAFETY: by contract; tiles have at most 64 rows, padded with zeros.
        unsafe {
            self.matrix(to).fill(0.0);
            let norm = slice::from_raw_parts_mut(norm, ld);
            if norms {
                norm.fill(0.0);
            }
            let (Some(k), Some(v)) = (&unit.call.k, &unit.call.v) else { return };
            for start in keys.clone().step_by(KEYS) {
                let keys = start..(start + KEYS).min(keys.end);
                let k = buffers.copy_of(&unit.keys_of(k, unit.head), &keys);
                let v = buffers.copy_of(&unit.values_of(v), &keys);
                let c = buffers.at(to);
                (engine.kernels.common.matmul)(&matmul::Args {
                    a: k.at,
                    lda: k.ld,
                    a_by_columns: true,
                    b: v.at,
                    ldb: v.ld,
                    c0: c,
                    ldc0: ld as isize,
                    ..matmul::Args::product(d, d, keys.len(), c, ld as isize)
                });
                if norms {
                    let (row, col) = (ptr::null_mut(), norm.as_mut_ptr());
                    let (a, lda, b, ldb) = (k.at, k.ld, k.at, k.ld);
                    (engine.kernels.sums)(&products::Args { n: keys.len(), d, a, lda, b, ldb, row, col });
                }
            }
            if norms {
                norm.iter_mut().for_each(|x| *x = x.sqrt());
            }
        }
    }

    /// The memory moves on to a segment; as it is then.
    ///
    /// # Safety
    /// As [`Head::run`]; the products of all keys are there.
    pub unsafe fn visit(&self, keys: &Range<usize>) -> Operand {
        let unit = self.buffers.unit;
        let (at, d, ld) = (&unit.engine.at.matrices, unit.engine.d, self.ld());
        let Segments { threshold, leak, normed, .. } = *self.settings;
        // SAFETY: by contract; the matrices differ.
        unsafe {
            self.products(keys.clone(), at.part, false);
            self.clamp(at.part);
            for (part, all) in self.matrix(at.part).iter_mut().zip(self.matrix(at.all)) {
                *part = *all - *part;
            }
            let (c, b) = (self.buffers.at(at.membrane), self.buffers.at(at.weight));
            let pre = [leak; ROWS];
            for row in (0..d).step_by(ROWS) {
                let (n, c) = ((d - row).min(ROWS), c.add(row * ld));
                (unit.engine.kernels.common.matmul)(&matmul::Args {
                    a: self.buffers.at(at.part + row * ld),
                    lda: ld,
                    b,
                    ldb: ld,
                    c0: c,
                    ldc0: ld as isize,
                    pre: pre.as_ptr(),
                    ..matmul::Args::product(n, d, d, c, ld as isize)
                });
            }
            let norms = slice::from_raw_parts(self.buffers.at(at.norms), ld);
            let (membrane, memory) = (self.matrix(at.membrane), self.matrix(at.memory));
            for (membrane, memory) in membrane.chunks_exact_mut(ld).zip(memory.chunks_exact_mut(ld)) {
                for ((x, to), norm) in membrane[..d].iter_mut().zip(memory).zip(norms) {
                    let above = *x / threshold - 1.0;
                    // A NaN is neither, and stays.
                    *to = if above <= 0.0 { 0.0 } else { above } * if normed { *norm } else { 1.0 };
                    *x -= if above > 0.0 { threshold } else { 0.0 };
                }
            }
        }
        self.memory()
    }

    /// Queries of a segment.
    ///
    /// # Safety
    /// As [`Head::run`].
    unsafe fn queries(&self, queries: Range<usize>, keys: &Range<usize>, linear: Option<Operand>) {
        let Unit { engine, call, sequence, index, head, .. } = *self.buffers.unit;
        for first in queries.clone().step_by(ROWS) {
            let of = first..(first + ROWS).min(queries.end);
            let rows = self.settings.rows(engine, &sequence, of, keys);
            let unit = Unit { engine, call, sequence, index, head, splits: 1, rows };
            let mut tile = Tile::empty(&unit, self.buffers.base);
            tile.beside = Beside { missing: self.settings.missing(keys), linear };
            // SAFETY: by contract.
            unsafe {
                tile.sum_up(keys.clone(), true);
                tile.finish();
            }
        }
    }
}
