//! Blocks of 16 chunks: the first pass over them, and their way back.

use super::{BLOCK, Reverse};
use crate::CHUNK;
use crate::engine::linear::prepare::{Chunk, Prepared};
use crate::engine::linear::recurrence::Decay;
use crate::engine::linear::scan::Pass;
use crate::kernel::decay_rows;
use std::ops::Range;
use std::ptr;

/// Tokens of a block.
const TOKENS: usize = BLOCK * CHUNK;

/// Tokens of some chunks.
fn tokens(chunks: &[Chunk]) -> usize {
    chunks.iter().map(|chunk| chunk.n).sum()
}

impl Reverse<'_> {
    /// The forward pass: states before each block, and sums of output rows where a norm needs them.
    pub fn first_pass(&self, pass: &Pass) {
        let stores = pass.read && pass.write;
        let read = pass.read && (self.measures || (pass.write && self.unit.recurrence().corrects()));
        let blocks = pass.n.div_ceil(TOKENS);
        let mut chunks = [Chunk::default(); BLOCK];
        for b in 0..blocks {
            if stores {
                self.save(b);
            }
            // Of the last block only its start is wanted, and a shift its end: nothing is read after it.
            let ends = b + 1 == blocks && !self.measures && !self.shifts();
            if (stores && ends) || !(read || pass.write) {
                return;
            }
            let (mut t, end) = (b * TOKENS, pass.n.min((b + 1) * TOKENS));
            while t < end {
                let chunks = self.prepare(&Pass { read, ..*pass }, t..end, &mut chunks);
                for panel in 0..self.unit.geometry().n_panels {
                    for (c, chunk) in chunks.iter().enumerate() {
                        let p = self.unit.prepared(c);
                        if pass.write {
                            self.unit.values(panel, &p, chunk);
                        }
                        if self.measures && pass.read {
                            self.measure_rows(panel, c, chunk);
                        }
                        if pass.write {
                            self.write(panel, &p, chunk);
                        }
                    }
                }
                t += tokens(chunks);
            }
        }
    }

    /// The reverse pass.
    pub fn blocks(&self, pass: &Pass) {
        let mut chunks = [Chunk::default(); BLOCK];
        for b in (0..pass.n.div_ceil(TOKENS)).rev() {
            let mut end = pass.n.min((b + 1) * TOKENS);
            // Once, unless chunks were cut short.
            while end > b * TOKENS {
                let chunks = self.last_chunks(pass, b, end, &mut chunks);
                for panel in 0..self.unit.geometry().n_panels {
                    for (c, chunk) in chunks.iter().enumerate() {
                        self.again(panel, c, chunk);
                    }
                    for (c, chunk) in chunks.iter().enumerate().rev() {
                        self.panel(panel, c, chunks.len(), chunk);
                    }
                }
                for (c, chunk) in chunks.iter().enumerate().rev().filter(|_| !self.only_state) {
                    self.finish(c, chunks.len(), chunk);
                }
                end -= tokens(chunks);
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
            self.restore(b);
        }
        let mut t = b * TOKENS;
        loop {
            let filled = self.prepare(pass, t..end, chunks).len();
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

    /// Prepares the chunks of these tokens, as many as there are slots.
    fn prepare<'c>(
        &self,
        pass: &Pass,
        mut range: Range<usize>,
        chunks: &'c mut [Chunk; BLOCK],
    ) -> &'c [Chunk] {
        let mut filled = 0;
        while !range.is_empty() && filled < BLOCK {
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
                for i in 0..CHUNK * CHUNK {
                    let (row, column) = (i / CHUNK, i % CHUNK);
                    *reversed.add(i) = *p.correction.add((CHUNK - 1 - column) * CHUNK + CHUNK - 1 - row);
                }
            }
            ptr::write_bytes(self.buffer(at.end + c * g.ldm), 0, g.ldm);
            ptr::write_bytes(self.buffer(at.dgain + c * CHUNK), 0, CHUNK);
            chunk
        }
    }

    /// What forward computed of a chunk and panel: the state before it, values, gradients of outputs.
    fn again(&self, panel: usize, c: usize, chunk: &Chunk) {
        let (g, at) = (self.unit.geometry(), self.at());
        let p = self.unit.prepared(c);
        // SAFETY: buffers have the extents that `Offsets` names.
        unsafe {
            if chunk.write && !self.only_state {
                self.unit.values(panel, &p, chunk);
                let rows = self.unit.recurrence().writes() * CHUNK;
                let u = self.buffer(at.u + c * rows * g.panel);
                ptr::copy_nonoverlapping(self.buffer(g.at.u), u, rows * g.panel);
            }
            if chunk.read {
                self.load_dy(panel, c, chunk);
            }
            if chunk.read && chunk.write && !self.only_state {
                let s = self.buffer(at.s + c * g.m * g.panel);
                ptr::copy_nonoverlapping(self.unit.state_panel(panel), s, g.m * g.panel);
                self.write(panel, &p, chunk);
            }
        }
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
