//! The loop nest over one sequence and state head.

use super::Unit;
use super::prepare::{Chunk, Prepared};
use super::tiles::Rows;
use crate::CHUNK;
use crate::kernel::{elementwise, matmul, solve, value_decay};
use crate::simd::prefetch;
use crate::tensor::{DType, Tensor};
use std::ops::Range;
use std::ptr;

/// Most chunks of a block.
const MAX_CHUNKS: usize = 16;

/// What is done with a run of tokens.
#[derive(Clone, Copy)]
pub struct Pass {
    /// First query, as a token of the tensor.
    pub q0: usize,
    /// First key, as a token of the tensor.
    pub k0: usize,
    /// Tokens.
    pub n: usize,
    /// The queries read the state.
    pub read: bool,
    /// The keys are written to the state.
    pub write: bool,
}

/// Runs one unit from its incoming to its outgoing state.
pub fn scan(unit: &Unit<'_>) {
    unit.prepare_features();
    unit.load_state();
    unit.start_transition();
    for pass in passes(unit) {
        run(unit, pass);
    }
    unit.store_state();
    unit.store_transition();
}

/// What is done with the tokens of a unit, in order.
pub fn passes(unit: &Unit<'_>) -> [Pass; 2] {
    let s = unit.sequence;
    let write = |k0, n| Pass { q0: s.q0, k0, n, read: false, write: true };
    if unit.call.causal {
        // Fewer queries than keys: the queries are the last positions.
        let ahead = s.n_k - s.n_q;
        let read = unit.call.reads;
        [write(s.k0, ahead), Pass { q0: s.q0, k0: s.k0 + ahead, n: s.n_q, read, write: true }]
    } else {
        [write(s.k0, s.n_k), Pass { q0: s.q0, k0: s.k0, n: s.n_q, read: true, write: false }]
    }
}

/// Runs one pass on the state in the worker's memory.
pub fn run(unit: &Unit<'_>, pass: Pass) {
    let mut block = [Chunk::default(); MAX_CHUNKS];
    unit.pair_state();
    let mut t = 0;
    while t < pass.n {
        let mut filled = 0;
        while t < pass.n && filled < unit.geometry().chunks {
            // Chunks end at multiples of 16 even where one was cut short (`shift.rs`, `snapshot.rs`).
            let n = unit.until_snapshot(pass.k0 + t, (CHUNK - t % CHUNK).min(pass.n - t));
            let chunk = Chunk { q0: pass.q0 + t, k0: pass.k0 + t, n, read: pass.read, write: pass.write };
            block[filled] = unit.prepare(filled, chunk);
            unit.snapshot_rows(block[filled].end());
            if unit.call.tensors.transition.is_some() {
                unit.add_transition(&unit.prepared(filled));
            }
            t += block[filled].n;
            filled += 1;
            if unit.snapshot_ends_block(pass.k0 + t) {
                break;
            }
        }
        for panel in unit.panels.clone() {
            for (c, chunk) in block[..filled].iter().enumerate() {
                // What the next block will load comes closer while this one computes, some rows a turn.
                let ahead = Ahead { unit, pass, t: t + c * CHUNK, panel };
                unit.panel(panel, &unit.prepared(c), chunk, &ahead);
                unit.snapshot_panel(panel, chunk.end());
            }
        }
    }
}

/// Rows of the chunk that starts at token `t` of the pass, to be fetched in as many parts as there are
/// panels. Where the tensors exceed the last-level cache, prefill would otherwise wait for memory at the start
/// of every block: `simple_gla`, `H = 16`, `T = 2048`, `D = E = 128` (64 MiB), 1000 to 820 ns per token and head
/// (best thread times, interleaved, on a busy machine); nothing lost where they fit.
pub struct Ahead<'a> {
    pub unit: &'a Unit<'a>,
    pub pass: Pass,
    pub t: usize,
    pub panel: usize,
}

impl Ahead<'_> {
    fn rows(&self) -> Range<usize> {
        let (n, turn) = (self.unit.panels.len(), self.panel - self.unit.panels.start);
        let row = |turn: usize| (self.t + turn * CHUNK / n).min(self.pass.n);
        row(turn)..row(turn + 1)
    }

    /// Rows of a tensor, the first of the pass being token `first`.
    pub fn fetch(&self, tensor: Option<Tensor>, head: usize, first: usize, columns: usize) {
        let Some(tensor) = tensor.filter(|tensor| tensor.stride(3) == 1) else { return };
        for row in self.rows() {
            prefetch(
                tensor.at(&[self.unit.sequence.batch, head, first + row, 0]),
                columns * tensor.dtype.size(),
            );
        }
    }

    pub fn keys(&self) {
        self.rows_of_keys(self.unit.call.tensors.k);
    }

    /// Rows of a tensor of the shape of the keys.
    pub fn rows_of_keys(&self, tensor: Option<Tensor>) {
        if self.pass.write {
            let head = self.unit.shared_head(self.unit.engine.heads.k);
            self.fetch(tensor, head, self.pass.k0, self.unit.geometry().d);
        }
    }

    pub fn values(&self) {
        self.rows_of_values(self.unit.call.tensors.v);
    }

    /// Rows of a tensor of the shape of the values.
    pub fn rows_of_values(&self, tensor: Option<Tensor>) {
        if self.pass.write {
            let head = self.unit.shared_head(self.unit.engine.heads.v);
            self.fetch(tensor, head, self.pass.k0, self.unit.geometry().e);
        }
    }

    pub fn queries(&self) {
        self.rows_of_queries(self.unit.call.tensors.q);
    }

    /// Rows of a tensor of the shape of the queries.
    pub fn rows_of_queries(&self, tensor: Option<Tensor>) {
        for set in 0..if self.pass.read { self.unit.geometry().n_sets } else { 0 } {
            let head = self.unit.query_head(set);
            self.fetch(tensor, head, self.pass.q0, self.unit.geometry().d);
        }
    }

    pub fn outputs(&self) {
        self.rows_of_outputs(self.unit.call.tensors.out);
    }

    /// Rows of a tensor of the shape of the outputs.
    pub fn rows_of_outputs(&self, tensor: Option<Tensor>) {
        for set in 0..if self.pass.read { self.unit.geometry().n_sets } else { 0 } {
            let head = self.unit.output_head(set);
            self.fetch(tensor, head, self.pass.q0, self.unit.geometry().e);
        }
    }
}

impl Unit<'_> {
    /// One chunk against one panel of the state.
    fn panel(&self, panel: usize, p: &Prepared, chunk: &Chunk, ahead: &Ahead<'_>) {
        // A few tens of lines at a time: more than a core has miss buffers for would stall it.
        ahead.keys();
        if chunk.write {
            self.values(panel, p, chunk);
        }
        ahead.values();
        if chunk.read {
            self.outputs(panel, p, chunk);
        } else if self.call.tensors.gv.is_some() {
            // SAFETY: `values` has just loaded `U`; without outputs the scores are not read.
            unsafe { self.value_decay(panel, p, chunk, 0) }
        }
        ahead.queries();
        let half = (self.geometry().m / 2).next_multiple_of(16).min(self.geometry().m);
        if chunk.write {
            self.update(panel, p, chunk, 0..half);
        }
        ahead.outputs();
        if chunk.write {
            self.update(panel, p, chunk, half..self.geometry().m);
        }
    }

    /// `U = gain · V`, corrected by what the state already returns; or with what the second writes write below.
    pub fn values(&self, panel: usize, p: &Prepared, chunk: &Chunk) {
        self.values_on(self.state_panel(panel), panel, p, chunk);
    }

    /// The same on a panel of the state that lies elsewhere.
    pub fn values_on(&self, state: *const f32, panel: usize, p: &Prepared, chunk: &Chunk) {
        use super::recurrence::{Correction, Gain};
        let (g, tiles) = (self.geometry(), self.tiles());
        let Some(v) = self.call.tensors.v else { return };
        let head = self.shared_head(self.engine.heads.v);
        let u = self.buffer(g.at.u);
        let columns = g.columns(panel);
        // SAFETY: `v` is [B, Hv, S, E] (checked) and the chunk lies in the sequence; `u`, `x` are [C, panel].
        unsafe {
            let at = [self.sequence.batch, head, chunk.k0, panel * g.panel];
            let from = Rows::tokens(&v, &at, (chunk.n, columns));
            tiles.load(&from, 1.0, self.token_gain(p), u, g.panel);
            if self.recurrence().skip {
                tiles.load(&from, 1.0, ptr::null(), self.buffer(g.at.x), g.panel);
            }
            if self.recurrence().gain == Gain::Write {
                let at = [self.sequence.batch, self.head, chunk.k0, panel * g.panel];
                self.channel_gain(&at, (chunk.n, columns), g.panel);
            }
            let second = u.add(chunk.n * g.panel);
            let corrected = match self.recurrence().correction {
                Correction::None => return,
                Correction::Delta | Correction::Erase => u,
                Correction::TwoWrites => second,
            };
            let past = corrected.add(chunk.n * g.panel);
            ptr::write_bytes(past, 0, (CHUNK - chunk.n) * g.panel);
            let mut read = matmul::Args::product(chunk.n, g.panel, g.m, corrected, g.panel as isize);
            (read.a, read.lda) = (p.erase, g.ldm);
            (read.b, read.ldb) = (state, g.panel);
            if corrected == u {
                (read.c0, read.ldc0) = (u, g.panel as isize);
            } else if chunk.n > 1 {
                (read.l, read.ldl) = (p.inflow, CHUNK);
                (read.u, read.ldu) = (u, g.panel);
            }
            self.read_state(panel, &read, p.k16, p.factors.wrapping_add(CHUNK));
            (tiles.solve)(&solve::Args { n: columns, coef: p.correction, u: corrected, ld: g.panel });
        }
    }

    /// Gains of the tokens, null if there are none.
    pub fn token_gain(&self, p: &Prepared) -> *const f32 {
        use super::recurrence::Gain;
        match self.recurrence().gain {
            Gain::None | Gain::Write => ptr::null(),
            Gain::Beta | Gain::StepSize => p.gain,
        }
    }

    /// Multiplies loaded values by the gains of their channels.
    ///
    /// # Safety
    /// `write` has these rows of `columns` from `at` on; `u` holds `n` rows, `ld` apart, and `x` has as many.
    pub unsafe fn channel_gain(&self, at: &[usize], (n, columns): (usize, usize), ld: usize) {
        let Some(write) = self.call.tensors.write else { return };
        let (tiles, gains) = (self.tiles(), self.buffer(self.geometry().at.x));
        // SAFETY: the caller's contract.
        unsafe {
            tiles.load(&Rows::tokens(&write, at, (n, columns)), 1.0, ptr::null(), gains, ld);
            let u = self.buffer(self.geometry().at.u);
            (tiles.product)(&elementwise::Args { n: n * ld, src: gains, dst: u });
        }
    }

    /// `Y = (Q ⊙ P) S + tril(A) U`, the second writes the same way, with the denominator and the skip, to the caller's tensor.
    fn outputs(&self, panel: usize, p: &Prepared, chunk: &Chunk) {
        let (g, tiles) = (self.geometry(), self.tiles());
        let Some(out) = self.call.tensors.out else { return };
        let value_decay = self.call.tensors.gv.is_some() && chunk.write;
        let direct = out.dtype == DType::F32 && out.stride(3) == 1 && !value_decay;
        let y = self.buffer(g.at.y);
        let columns = g.columns(panel);
        let row = self.buffer(g.at.row + CHUNK);
        // SAFETY: `out` is [B, Ho, T, E] (checked) and the chunk lies in the sequence; other operands are
        // this worker's buffers, with padded columns.
        unsafe {
            let skip = self.call.tensors.d_skip.map(|skip| tiles.value(&skip, &[self.head]));
            std::slice::from_raw_parts_mut(row, CHUNK).fill(skip.unwrap_or(0.0));
            let target = |set| [self.sequence.batch, self.output_head(set), chunk.q0, panel * g.panel];
            for set in 0..g.n_sets {
                let (c, ldc) = if direct {
                    (out.f32_at(&target(set)), out.stride(2))
                } else {
                    (y.add(set * CHUNK * g.panel), g.panel as isize)
                };
                let mut read = matmul::Args::product(chunk.n, columns, g.m, c, ldc);
                (read.a, read.lda) = (p.q.add(set * CHUNK * g.ldm), g.ldm);
                (read.b, read.ldb) = (self.state_panel(panel), g.panel);
                if self.call.adds {
                    let sum = y.add(set * CHUNK * g.panel);
                    let at = target(set);
                    let there = Rows::tokens(&out, &at, (chunk.n, columns));
                    tiles.load(&there, 1.0, ptr::null(), sum, g.panel);
                    (read.c0, read.ldc0) = (sum, g.panel as isize);
                } else if skip.is_some() {
                    (read.c0, read.ldc0, read.pre) = (self.buffer(g.at.x), g.panel as isize, row);
                }
                if self.writes_values(chunk) && !value_decay {
                    (read.l, read.ldl) = (p.a.add(set * CHUNK * CHUNK), CHUNK);
                    (read.u, read.ldu) = (self.buffer(g.at.u), g.panel);
                    if self.recurrence().writes() == 2 {
                        read.l2 = p.a_second.add(set * CHUNK * CHUNK);
                        read.u2 = read.u.add(chunk.n * g.panel);
                    }
                }
                if self.recurrence().has_denominator() {
                    read.post = p.inv_den.add(set * CHUNK);
                }
                self.read_state(panel, &read, p.q16.wrapping_add(set * CHUNK * g.ldm / 2), p.factors);
            }
            if value_decay {
                self.value_decay(panel, p, chunk, g.n_sets);
            }
            for set in 0..if direct { 0 } else { g.n_sets } {
                let src = y.add(set * CHUNK * g.panel);
                tiles.store(src, g.panel, &Rows::tokens(&out, &target(set), (chunk.n, columns)));
            }
        }
    }

    /// Decay along the value columns: the outputs of `n_sets` sets, and `U` as the update takes it.
    ///
    /// # Safety
    /// `U`, `A` and the outputs of these sets are those of this chunk and panel.
    unsafe fn value_decay(&self, panel: usize, p: &Prepared, chunk: &Chunk, n_sets: usize) {
        let g = self.geometry();
        // SAFETY: buffers have the extents that `Offsets` names; the rest is the caller's contract.
        unsafe {
            (self.tiles().value_decay)(&value_decay::Args {
                n: chunk.n,
                e: g.columns(panel),
                a: p.a,
                y: self.buffer(g.at.y),
                ldy: g.panel,
                n_sets,
                u: self.buffer(g.at.u),
                ldu: g.panel,
                gamma: p.gamma.add(panel * g.panel),
                ldg: g.e.next_multiple_of(16),
                end: self.buffer(g.at.gamma_end),
            });
        }
    }

    /// `S = P_C ⊙ S + (K ⊙ F)ᵀ U`, some rows of the state.
    pub fn update(&self, panel: usize, p: &Prepared, chunk: &Chunk, rows: Range<usize>) {
        let state = self.state_panel(panel);
        self.update_to((state, state), panel, p, chunk, rows);
    }

    /// The same from one place to another, or to the same. Both are panels of a state.
    pub fn update_to(
        &self,
        (from, to): (*const f32, *mut f32),
        panel: usize,
        p: &Prepared,
        chunk: &Chunk,
        rows: Range<usize>,
    ) {
        let g = self.geometry();
        // SAFETY: all operands are this worker's buffers, with the extents that `Offsets` names; `rows` are
        // rows of the state.
        unsafe {
            let (from, to) = (from.add(rows.start * g.panel), to.add(rows.start * g.panel));
            let writes = if self.writes_values(chunk) { chunk.n * self.recurrence().writes() } else { 0 };
            let mut update = matmul::Args::product(rows.len(), g.panel, writes, to, g.panel as isize);
            (update.a, update.lda, update.a_by_columns) = (p.k.add(rows.start), g.ldm, true);
            (update.b, update.ldb) = (self.buffer(g.at.u), g.panel);
            (update.c0, update.ldc0) = (from, g.panel as isize);
            if self.decays() {
                update.pre = p.end.add(rows.start);
            }
            if self.call.tensors.gv.is_some() {
                update.col = self.buffer(g.at.gamma_end);
            }
            self.write_state(panel, &update, p, rows.start);
        }
    }
}
