//! Blocks of 16 chunks: the first pass over them, and their way back.

use super::{BLOCK, Reverse};
use crate::CHUNK;
use crate::engine::linear::prepare::{Chunk, Prepared};
use crate::engine::linear::recurrence::Decay;
use crate::engine::linear::scan::{Ahead, Pass};
use crate::kernel::decay_rows;
use crate::tensor::Tensor;
use std::ops::Range;
use std::ptr;

/// Tokens of a block.
const TOKENS: usize = BLOCK * CHUNK;
/// Chunks that are prepared at a time where no state inside a block has to be kept, as in forward.
pub const GROUP: usize = 4;

/// Tokens of some chunks.
fn tokens(chunks: &[Chunk]) -> usize {
    chunks.iter().map(|chunk| chunk.n).sum()
}

impl Reverse<'_> {
    /// The forward pass: states before each block, and sums of output rows where a norm needs them.
    pub fn first_pass(&self, pass: &Pass) {
        let stores = pass.read && pass.write;
        let (early, recurrence) = (self.early(stores), self.unit.recurrence());
        let kept = self.kept(stores);
        let scaled = early.is_some() && recurrence.has_denominator();
        let read = pass.read && (self.measures || scaled || (pass.write && recurrence.corrects()));
        let blocks = pass.n.div_ceil(TOKENS);
        let mut chunks = [Chunk::default(); BLOCK];
        let mut t = 0;
        while t < pass.n {
            if stores && t % TOKENS == 0 {
                self.save(t / TOKENS);
            }
            // Else only the start of the last block is wanted, and a shift its end: nothing is read after it.
            let whole = self.measures || early.is_some() || self.shifts();
            if (stores && t / TOKENS + 1 == blocks && !whole) || !(read || pass.write) {
                return;
            }
            let end = pass.n.min((t / (GROUP * CHUNK) + 1) * GROUP * CHUNK);
            let chunks = self.prepare(&Pass { read, ..*pass }, t..end, GROUP, &mut chunks);
            for panel in 0..self.unit.geometry().n_panels {
                for (c, chunk) in chunks.iter().enumerate() {
                    let ahead = self.ahead(pass, t + (GROUP + c) * CHUNK, panel);
                    let p = self.unit.prepared(c);
                    ahead.keys();
                    if pass.write {
                        self.unit.values(panel, &p, chunk);
                    }
                    if let Some(dv) = kept {
                        self.keep_values(dv, panel, chunk, false);
                    }
                    if self.measures && pass.read {
                        self.measure_rows(panel, c, chunk);
                    }
                    ahead.values();
                    if early.is_some() {
                        ahead.rows_of_outputs(self.grads.out);
                        ahead.rows_of_queries(self.grads.q);
                        self.load_dy(panel, c, chunk);
                        let dy = self.dy(c);
                        self.queries_gradient(self.unit.state_panel(panel), dy, panel, c, chunk);
                    }
                    if pass.write {
                        self.write(panel, &p, chunk);
                    }
                }
            }
            for (c, chunk) in chunks.iter().enumerate() {
                if let Some(to) = early {
                    self.store_early(to, c, chunk);
                }
            }
            t += tokens(chunks);
        }
    }

    /// The reverse pass.
    pub fn blocks(&self, pass: &Pass) {
        let (ordered, blocks) = (pass.read && pass.write, pass.n.div_ceil(TOKENS));
        let early = self.early(ordered).is_some();
        let ends = ordered && self.ends_follow() && self.wants_decay();
        // Normalisers are stored before blocks only.
        let group = if early && !self.unit.recurrence().has_denominator() { GROUP } else { BLOCK };
        let mut chunks = [Chunk::default(); BLOCK];
        for b in (0..blocks).rev() {
            if ordered && !early && !self.only_state {
                self.restore_state(b);
            }
            if ordered && !self.only_state {
                self.restore_normaliser(b);
            }
            if ends {
                self.clear_end(0);
            }
            let first = b * TOKENS;
            let mut end = pass.n.min(first + TOKENS);
            if self.shifts() {
                // Once, unless chunks were cut short.
                while end > first {
                    let chunks = self.last_chunks(pass, b, end, &mut chunks);
                    end -= tokens(chunks);
                    self.group(pass, end, chunks);
                }
                continue;
            }
            for t in (first..end).step_by(group * CHUNK).rev() {
                let range = t..end.min(t + group * CHUNK);
                let chunks = self.prepare(pass, range, group, &mut chunks);
                self.group(pass, t, chunks);
            }
        }
    }

    /// Prepares the last chunks of block `b` before token `end`, with the state before them.
    fn last_chunks<'c>(
        &self,
        pass: &Pass,
        b: usize,
        end: usize,
        chunks: &'c mut [Chunk; BLOCK],
    ) -> &'c [Chunk] {
        if pass.read && pass.write && !self.only_state {
            self.restore_state(b);
            self.restore_normaliser(b);
        }
        let mut t = b * TOKENS;
        loop {
            let filled = self.prepare(pass, t..end, BLOCK, chunks).len();
            t += tokens(&chunks[..filled]);
            if t >= end {
                return &chunks[..filled];
            }
            for panel in 0..if pass.write { self.unit.geometry().n_panels } else { 0 } {
                for (c, chunk) in chunks[..filled].iter().enumerate() {
                    let p = self.unit.prepared(c);
                    self.unit.values(panel, &p, chunk);
                    self.write(panel, &p, chunk);
                }
            }
        }
    }

    /// Some chunks on their way back, from token `t` on.
    fn group(&self, pass: &Pass, t: usize, chunks: &[Chunk]) {
        let ordered = pass.read && pass.write;
        let (b, next) = (t / TOKENS, t + tokens(chunks));
        let last = next >= pass.n || next.is_multiple_of(TOKENS) || self.shifts();
        let kept = self.kept(ordered).filter(|_| (b + 1) * TOKENS < pass.n || self.measures);
        let ends = last && ordered && self.ends_follow() && self.wants_decay();
        for panel in 0..self.unit.geometry().n_panels {
            for (c, chunk) in chunks.iter().enumerate() {
                self.again(panel, c, chunk, kept);
            }
            if ends {
                let after = match self.early(ordered) {
                    Some(_) if next < pass.n => self.stored_panel(b + 1, panel),
                    Some(_) => self.unit.state_panel(panel),
                    None => self.before(panel, chunks.len(), &chunks[0]),
                };
                self.end_sums(panel, 0, (after, self.ds(panel)));
            }
            for (c, chunk) in chunks.iter().enumerate().rev() {
                let before = (t + c * CHUNK).checked_sub(chunks.len() * CHUNK);
                self.panel(panel, c, chunk, &self.ahead(pass, before.unwrap_or(pass.n), panel));
            }
        }
        for (c, chunk) in chunks.iter().enumerate().rev().filter(|_| !self.only_state) {
            self.finish(c, last && c + 1 == chunks.len(), chunk);
        }
    }

    /// What the chunk from token `t` on will load.
    fn ahead<'a>(&'a self, pass: &Pass, t: usize, panel: usize) -> Ahead<'a> {
        Ahead { unit: &self.unit, pass: *pass, t, panel }
    }

    /// Prepares the chunks of these tokens, as many as there are slots and at most `most`.
    fn prepare<'c>(
        &self,
        pass: &Pass,
        mut range: Range<usize>,
        most: usize,
        chunks: &'c mut [Chunk; BLOCK],
    ) -> &'c [Chunk] {
        let mut filled = 0;
        while !range.is_empty() && filled < most.min(BLOCK) {
            let t = range.start;
            // Chunks end at multiples of 16 even where one was cut short.
            let n = (CHUNK - t % CHUNK).min(range.len());
            let chunk = Chunk { q0: pass.q0 + t, k0: pass.k0 + t, n, read: pass.read, write: pass.write };
            chunks[filled] = self.prepare_chunk(filled, chunk);
            range.start += chunks[filled].n;
            filled += 1;
        }
        &chunks[..filled]
    }

    /// Prepares slot `c` as forward does. Rows past the end of a short chunk become zero: gradients sum over all 16.
    fn prepare_chunk(&self, c: usize, chunk: Chunk) -> Chunk {
        let (g, at) = (self.unit.geometry(), self.at());
        let p = self.unit.prepared(c);
        // SAFETY: buffers have the extents that `Offsets` names.
        unsafe {
            ptr::copy_nonoverlapping(self.unit.carried(g.at.z), self.buffer(at.z + c * g.ldm), g.ldm);
            let chunk = self.unit.prepare(c, chunk);
            self.keep_shift(c);
            for set in 0..if chunk.read { g.n_sets } else { 0 } {
                let rest = CHUNK - chunk.n;
                ptr::write_bytes(p.q.add((set * CHUNK + chunk.n) * g.ldm), 0, rest * g.ldm);
                for scores in [p.a, p.a_second].into_iter().take(self.unit.recurrence().writes()) {
                    ptr::write_bytes(scores.add((set * CHUNK + chunk.n) * CHUNK), 0, rest * CHUNK);
                }
            }
            if self.unit.recurrence().corrects() {
                // N from the last token to the first: what is below the diagonal stays there.
                let reversed = self.buffer(at.reversed + c * CHUNK * CHUNK);
                for (row, column) in (0..CHUNK).flat_map(|row| (0..CHUNK).map(move |column| (row, column))) {
                    let from = p.correction.add((CHUNK - 1 - column) * CHUNK + CHUNK - 1 - row);
                    *reversed.add(row * CHUNK + column) = *from;
                }
            }
            if !self.ends_follow() {
                self.clear_end(c);
            }
            ptr::write_bytes(self.buffer(at.dgain + c * CHUNK), 0, CHUNK);
            chunk
        }
    }

    /// What forward computed of a chunk and panel: the state before it, values, gradients of outputs.
    fn again(&self, panel: usize, c: usize, chunk: &Chunk, kept: Option<&Tensor>) {
        let (g, at) = (self.unit.geometry(), self.at());
        let p = self.unit.prepared(c);
        // SAFETY: buffers have the extents that `Offsets` names.
        unsafe {
            if chunk.write && !self.only_state {
                match kept {
                    Some(dv) => self.keep_values(dv, panel, chunk, true),
                    None => self.unit.values_on(self.before(panel, c, chunk), panel, &p, chunk),
                }
                let rows = self.unit.recurrence().writes() * CHUNK;
                let u = self.buffer(at.u + c * rows * g.panel);
                ptr::copy_nonoverlapping(self.buffer(g.at.u), u, rows * g.panel);
            }
            if chunk.read {
                self.load_dy(panel, c, chunk);
            }
            let ordered = chunk.read && chunk.write;
            if ordered && !self.only_state && self.early(ordered).is_none() {
                let (from, to) = (self.before(panel, c, chunk), self.before(panel, c + 1, chunk));
                self.decay_values(panel, &p, chunk, false);
                self.unit.update_to((from, to), panel, &p, chunk, 0..g.m);
            }
        }
    }

    /// The state before chunk `c` of the block, where its chunks are read and written: that before the first one lies
    /// where the forward pass has it, each chunk leaves its own to the next. Else there is one state.
    pub fn before(&self, panel: usize, c: usize, chunk: &Chunk) -> *mut f32 {
        let g = self.unit.geometry();
        if c == 0 || !(chunk.read && chunk.write) {
            return self.unit.state_panel(panel);
        }
        self.buffer(self.at().s + (c - 1) * g.m * g.panel)
    }

    /// The state after a chunk.
    fn write(&self, panel: usize, p: &Prepared, chunk: &Chunk) {
        self.decay_values(panel, p, chunk, false);
        self.unit.update(panel, p, chunk, 0..self.unit.geometry().m);
    }

    /// Value decay: the chunk's values decayed to its end, the product of the factors, and if `outputs` the prefixes
    /// on the gradients of its outputs.
    pub fn decay_values(&self, panel: usize, p: &Prepared, chunk: &Chunk, outputs: bool) {
        if self.unit.call.tensors.gv.is_none() {
            return;
        }
        let (g, at) = (self.unit.geometry(), self.at());
        let e16 = g.e.next_multiple_of(16);
        let (first, gamma) = (panel * g.panel, self.buffer(at.gamma));
        let columns = g.panel.min(e16 - first);
        // SAFETY: buffers have the extents that `Offsets` names.
        unsafe {
            for i in 0..chunk.n {
                let row = std::slice::from_raw_parts_mut(gamma.add(i * g.panel), g.panel);
                row.fill(1.0);
                ptr::copy_nonoverlapping(p.gamma.add(i * e16 + first), row.as_mut_ptr(), columns);
            }
            (self.unit.tiles().decay_rows)(&decay_rows::Args {
                n: chunk.n,
                d: g.panel,
                ld: g.panel,
                alpha: gamma,
                by_channel: true,
                q: self.buffer(at.dy_decayed),
                n_sets: if outputs { g.n_sets } else { 0 },
                q_pre: false,
                k: self.buffer(g.at.u),
                k_sets: 1,
                erase: ptr::null_mut(),
                erase_from: ptr::null(),
                erase_row: ptr::null(),
                erase_pre: false,
                end: self.buffer(g.at.gamma_end),
            });
        }
    }

    /// Whether the decay has a gradient that is wanted.
    pub fn wants_decay(&self) -> bool {
        self.unit.recurrence().decay != Decay::None && self.grads.wants_decay()
    }
}
