//! The loop nest over one sequence and state head.

use super::prepare::{Chunk, Prepared};
use super::tiles::Rows;
use super::{Call, Sequence, Unit};
use crate::CHUNK;
use crate::kernel::{matmul, solve, value_decay};
use crate::simd::prefetch;
use crate::tensor::{DType, Tensor};
use std::ops::Range;
use std::ptr;

/// Most chunks of a block.
const MAX_CHUNKS: usize = 16;

/// What is done with a run of tokens.
#[derive(Clone, Copy)]
pub struct Pass {
    pub q0: usize,
    pub k0: usize,
    pub n: usize,
    pub read: bool,
    pub write: bool,
}

/// Runs one unit from its incoming to its outgoing state.
pub fn scan(unit: &Unit<'_>) {
    unit.load_state();
    for pass in passes(unit.call, &unit.sequence) {
        run(unit, pass);
    }
    unit.store_state();
}

/// What is done with a sequence.
pub fn passes(call: &Call, s: &Sequence) -> [Pass; 2] {
    let write = |k0, n| Pass { q0: s.q0, k0, n, read: false, write: true };
    if call.causal {
        // Fewer queries than keys: the queries are the last positions.
        let ahead = s.n_k - s.n_q;
        [write(s.k0, ahead), Pass { q0: s.q0, k0: s.k0 + ahead, n: s.n_q, read: true, write: true }]
    } else {
        [write(s.k0, s.n_k), Pass { q0: s.q0, k0: 0, n: s.n_q, read: true, write: false }]
    }
}

/// Runs a pass.
pub fn run(unit: &Unit<'_>, pass: Pass) {
    let mut block = [Chunk::default(); MAX_CHUNKS];
    let mut t = 0;
    while t < pass.n {
        let mut filled = 0;
        while t < pass.n && filled < unit.geometry().chunks {
            // Chunks end at multiples of 16 even where one was cut short (`shift.rs`).
            let n = (CHUNK - t % CHUNK).min(pass.n - t);
            let chunk = Chunk { q0: pass.q0 + t, k0: pass.k0 + t, n, read: pass.read, write: pass.write };
            block[filled] = unit.prepare(filled, chunk);
            t += block[filled].n;
            filled += 1;
        }
        for panel in unit.panels.clone() {
            for (c, chunk) in block[..filled].iter().enumerate() {
                // What the next block will load comes closer while this one computes, some rows a turn.
                let ahead = Ahead { unit, pass, t: t + c * CHUNK, panel };
                unit.panel(panel, &unit.prepared(c), chunk, &ahead);
            }
        }
    }
}

/// Rows of the chunk that starts at token `t` of the pass, to be fetched in as many parts as there are
/// panels. Where the tensors exceed the last-level cache, prefill would otherwise wait for memory at the start
/// of every block: `simple_gla`, `H = 16`, `T = 2048`, `D = E = 128` (64 MiB), 1000 to 820 ns per token and head
/// (best thread times, interleaved, on a busy machine); nothing lost where they fit.
struct Ahead<'a> {
    unit: &'a Unit<'a>,
    pass: Pass,
    t: usize,
    panel: usize,
}

impl Ahead<'_> {
    fn rows(&self) -> Range<usize> {
        let (n, turn) = (self.unit.panels.len(), self.panel - self.unit.panels.start);
        let row = |turn: usize| (self.t + turn * CHUNK / n).min(self.pass.n);
        row(turn)..row(turn + 1)
    }

    fn fetch(&self, tensor: Option<Tensor>, head: usize, first: usize, columns: usize) {
        let Some(tensor) = tensor.filter(|tensor| tensor.stride(3) == 1) else { return };
        for row in self.rows() {
            prefetch(
                tensor.at(&[self.unit.sequence.batch, head, first + row, 0]),
                columns * tensor.dtype.size(),
            );
        }
    }

    fn keys(&self) {
        if self.pass.write {
            let head = self.unit.shared_head(self.unit.engine.heads.k);
            self.fetch(self.unit.call.tensors.k, head, self.pass.k0, self.unit.geometry().d);
        }
    }

    fn values(&self) {
        if self.pass.write {
            let head = self.unit.shared_head(self.unit.engine.heads.v);
            self.fetch(self.unit.call.tensors.v, head, self.pass.k0, self.unit.geometry().e);
        }
    }

    fn queries(&self) {
        for set in 0..if self.pass.read { self.unit.geometry().n_sets } else { 0 } {
            let head = self.unit.query_head(set);
            self.fetch(self.unit.call.tensors.q, head, self.pass.q0, self.unit.geometry().d);
        }
    }

    fn outputs(&self) {
        for set in 0..if self.pass.read { self.unit.geometry().n_sets } else { 0 } {
            let head = self.unit.output_head(set);
            self.fetch(self.unit.call.tensors.out, head, self.pass.q0, self.unit.geometry().e);
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

    /// `U = gain · V`, corrected by what the state already returns.
    fn values(&self, panel: usize, p: &Prepared, chunk: &Chunk) {
        use super::recurrence::Gain;
        let (g, tiles) = (self.geometry(), self.tiles());
        let Some(v) = self.call.tensors.v else { return };
        let head = self.shared_head(self.engine.heads.v);
        let u = self.buffer(g.at.u);
        let columns = g.columns(panel);
        // SAFETY: `v` is [B, Hv, S, E] (checked) and the chunk lies in the sequence; `u`, `x` are [C, panel].
        unsafe {
            let at = [self.sequence.batch, head, chunk.k0, panel * g.panel];
            let from = Rows::tokens(&v, &at, (chunk.n, columns));
            let gain = if self.recurrence().gain == Gain::None { ptr::null() } else { p.gain.cast_const() };
            tiles.load(&from, 1.0, gain, u, g.panel);
            if self.recurrence().skip {
                tiles.load(&from, 1.0, ptr::null(), self.buffer(g.at.x), g.panel);
            }
            if self.recurrence().correction {
                ptr::write_bytes(u.add(chunk.n * g.panel), 0, (CHUNK - chunk.n) * g.panel);
                let mut residual = matmul::Args::product(chunk.n, g.panel, g.m, u, g.panel as isize);
                (residual.a, residual.lda) = (p.erase, g.ldm);
                (residual.b, residual.ldb) = (self.state_panel(panel), g.panel);
                (residual.c0, residual.ldc0) = (u, g.panel as isize);
                (tiles.matmul)(&residual);
                (tiles.solve)(&solve::Args { n: columns, coef: p.correction, u, ld: g.panel });
            }
        }
    }

    /// `Y = (Q ⊙ P) S + tril(A) U`, with the denominator and the skip, to the caller's tensor.
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
                if skip.is_some() {
                    (read.c0, read.ldc0, read.pre) = (self.buffer(g.at.x), g.panel as isize, row);
                }
                if chunk.write && !value_decay {
                    (read.l, read.ldl) = (p.a.add(set * CHUNK * CHUNK), CHUNK);
                    (read.u, read.ldu) = (self.buffer(g.at.u), g.panel);
                }
                if self.recurrence().has_denominator() {
                    read.post = p.inv_den.add(set * CHUNK);
                }
                (tiles.matmul)(&read);
            }
            if value_decay {
                (tiles.value_decay)(&value_decay::Args {
                    n: chunk.n,
                    e: columns,
                    a: p.a,
                    y,
                    ldy: g.panel,
                    n_sets: g.n_sets,
                    u: self.buffer(g.at.u),
                    ldu: g.panel,
                    gamma: p.gamma.add(panel * g.panel),
                    ldg: g.e.next_multiple_of(16),
                    end: self.buffer(g.at.gamma_end),
                });
            }
            for set in 0..if direct { 0 } else { g.n_sets } {
                let src = y.add(set * CHUNK * g.panel);
                tiles.store(src, g.panel, &Rows::tokens(&out, &target(set), (chunk.n, columns)));
            }
        }
    }

    /// `S = P_C ⊙ S + (K ⊙ F)ᵀ U`, some rows of the state.
    fn update(&self, panel: usize, p: &Prepared, chunk: &Chunk, rows: Range<usize>) {
        let g = self.geometry();
        // SAFETY: all operands are this worker's buffers, with the extents that `Offsets` names; `rows` are
        // rows of the state.
        unsafe {
            let state = self.state_panel(panel).add(rows.start * g.panel);
            let mut update = matmul::Args::product(rows.len(), g.panel, chunk.n, state, g.panel as isize);
            (update.a, update.lda, update.a_by_columns) = (p.k.add(rows.start), g.ldm, true);
            (update.b, update.ldb) = (self.buffer(g.at.u), g.panel);
            (update.c0, update.ldc0) = (state, g.panel as isize);
            if self.decays() {
                update.pre = p.end.add(rows.start);
            }
            if self.call.tensors.gv.is_some() {
                update.col = self.buffer(g.at.gamma_end);
            }
            (self.tiles().matmul)(&update);
        }
    }
}
