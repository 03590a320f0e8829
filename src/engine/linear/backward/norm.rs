//! From gradients of the output to those of what the scan computed: the normalisers in reverse.
//!
//! ```text
//! denominator   o = y / n         dy = do / n                                     (dn: finish.rs)
//! norms         o = y ρ w act(gate),  ρ = (Σ y²/len + ε)^{-1/2}
//!               d̂ = do ∘ w ∘ act(gate)      dy = ρ d̂ − ρ³ (y·d̂)/len · y
//! ```
//!
//! `Σ y²` and `y·d̂` run over all columns, for `srms_all` over all heads: the first pass measures them, panel by panel.

use super::Reverse;
use crate::CHUNK;
use crate::engine::linear::norm;
use crate::engine::linear::prepare::Chunk;
use crate::engine::linear::recurrence::Normaliser;
use crate::engine::linear::tiles::Rows;
use crate::kernel::{elementwise, matmul, products, value_decay};
use std::ptr;

impl Reverse<'_> {
    /// Gradients of a chunk's outputs before the normaliser, with zeros past its end.
    pub fn load_dy(&self, panel: usize, c: usize, chunk: &Chunk) {
        let g = self.unit.geometry();
        let dy = self.buffer(self.at().dy + c * g.n_sets * CHUNK * g.panel);
        self.load_dout(panel, c, chunk, dy);
        if norm::wanted(self.unit.recurrence()) {
            self.outputs(self.before(panel, c, chunk), panel, c, chunk);
            for set in 0..g.n_sets {
                self.norm_operands(panel, set, chunk);
                self.through_norm(set, chunk, dy);
            }
        }
    }

    /// Sums over this panel's columns of the chunk's output rows.
    pub fn measure_rows(&self, panel: usize, c: usize, chunk: &Chunk) {
        let (g, at) = (self.unit.geometry(), self.at());
        let dy = self.buffer(at.dy + c * g.n_sets * CHUNK * g.panel);
        self.load_dout(panel, c, chunk, dy);
        self.outputs(self.unit.state_panel(panel), panel, c, chunk);
        for set in 0..g.n_sets {
            let y = self.buffer(at.y + set * CHUNK * g.panel);
            for (which, other) in [y, dy.wrapping_add(set * CHUNK * g.panel)].into_iter().enumerate() {
                let mut sums = [0.0; CHUNK];
                // SAFETY: both are [16, panel] with zeros past the last column.
                unsafe {
                    (self.tiles().products)(&products::Args {
                        n: chunk.n,
                        d: g.columns(panel),
                        a: y,
                        lda: g.panel,
                        b: other,
                        ldb: g.panel,
                        row: sums.as_mut_ptr(),
                        col: ptr::null_mut(),
                    });
                }
                for (i, &sum) in sums.iter().enumerate().take(chunk.n) {
                    let token = chunk.q0 + i - self.unit.sequence.q0;
                    let row = self.row(token, self.unit.output_head(set)).wrapping_add(which);
                    // SAFETY: rows are [n_q, Ho, 2]; this head's are this task's.
                    unsafe { *row = if panel == 0 { sum } else { *row + sum } };
                }
            }
        }
    }

    /// The sums of an output row.
    fn row(&self, token: usize, head: usize) -> *mut f32 {
        self.rows.wrapping_add((token * self.unit.engine.heads.out + head) * 2)
    }

    /// `do`, with all factors of the normaliser that don't depend on `y`.
    fn load_dout(&self, panel: usize, c: usize, chunk: &Chunk, dy: *mut f32) {
        let (g, at, unit) = (self.unit.geometry(), self.at(), &self.unit);
        let (n, columns) = (chunk.n, g.columns(panel));
        let dout = self.given(self.grads.out);
        let p = unit.prepared(c);
        // SAFETY: `dout` and `gate` are [B, Ho, T, E], weights [E] or [Ho·E] (checked); `dy` is [sets, 16, panel].
        unsafe {
            for set in 0..g.n_sets {
                let dy = dy.add(set * CHUNK * g.panel);
                let head = unit.output_head(set);
                let from = [unit.sequence.batch, head, chunk.q0, panel * g.panel];
                let denominator = unit.recurrence().has_denominator();
                let factor = if denominator { p.inv_den.add(set * CHUNK) } else { ptr::null_mut() };
                unit.tiles().load(&Rows::tokens(&dout, &from, (n, columns)), 1.0, factor, dy, g.panel);
                ptr::write_bytes(dy.add(n * g.panel), 0, (CHUNK - n) * g.panel);
                self.times_weight(panel, set, n, dy);
                if let Normaliser::RmsGate { sigmoid, .. } = unit.recurrence().normaliser {
                    let (gate, packed) = (self.given(unit.call.tensors.gate), self.buffer(at.more_rows));
                    unit.tiles().load(
                        &Rows::tokens(&gate, &from, (n, columns)),
                        1.0,
                        ptr::null(),
                        packed,
                        g.panel,
                    );
                    let map = if sigmoid { self.tiles().sigmoid } else { self.tiles().silu };
                    map(&elementwise::Args { n: n * g.panel, src: packed, dst: packed });
                    (0..n * g.panel).for_each(|i| *dy.add(i) *= *packed.add(i));
                }
            }
        }
    }

    /// Multiplies rows of a set by the norm's weights, if it has some.
    pub fn times_weight(&self, panel: usize, set: usize, n: usize, rows: *mut f32) {
        let (g, unit, packed) = (self.unit.geometry(), &self.unit, self.buffer(self.at().weight));
        let Some(weight) = &unit.call.tensors.out_norm_weight else { return };
        let columns = g.columns(panel);
        let first = panel * g.panel + self.first_weight(set);
        // SAFETY: weights are [E] or [Ho·E] (checked); rows are [16, panel], `weight` is [panel].
        unsafe {
            unit.tiles().gather(weight, &[first], 0, columns, packed);
            for i in 0..n {
                (0..columns).for_each(|e| *rows.add(i * g.panel + e) *= *packed.add(e));
            }
        }
    }

    /// Where the weights of a set begin.
    pub fn first_weight(&self, set: usize) -> usize {
        let all = matches!(self.unit.recurrence().normaliser, Normaliser::SrmsAll { .. });
        if all { self.unit.output_head(set) * self.unit.geometry().e } else { 0 }
    }

    /// Of row `i` of a set, `ρ` and `ρ³ (y·d̂)/len`.
    pub fn slopes(&self, set: usize, chunk: &Chunk, i: usize) -> [f32; 2] {
        let (g, unit) = (self.unit.geometry(), &self.unit);
        let own = unit.output_head(set);
        let all = 0..unit.engine.heads.out;
        let (eps, heads) = match unit.recurrence().normaliser {
            Normaliser::SrmsAll { eps } => (eps, all),
            Normaliser::RmsHead { eps } | Normaliser::RmsGate { eps, .. } => (eps, own..own + 1),
            Normaliser::None | Normaliser::Denominator { .. } => return [1.0, 0.0],
        };
        let len = (heads.len() * g.e) as f64;
        let token = chunk.q0 + i - unit.sequence.q0;
        let (mut squares, mut along) = (0.0, 0.0);
        for head in heads {
            let row = self.row(token, head);
            // SAFETY: rows are [n_q, Ho, 2], measured by now.
            unsafe {
                squares += f64::from(*row);
                along += f64::from(*row.add(1));
            }
        }
        let rho = 1.0 / (squares / len + f64::from(eps)).sqrt();
        [rho as f32, (rho * rho * rho * along / len) as f32]
    }

    /// `dy = ρ d̂ − ρ³ (y·d̂)/len · y`.
    fn through_norm(&self, set: usize, chunk: &Chunk, dy: *mut f32) {
        let g = self.unit.geometry();
        for i in 0..chunk.n {
            let [rho, pull] = self.slopes(set, chunk, i);
            let first = (set * CHUNK + i) * g.panel;
            // SAFETY: both are [sets, 16, panel].
            unsafe {
                let dy = std::slice::from_raw_parts_mut(dy.add(first), g.panel);
                let y = std::slice::from_raw_parts(self.buffer(self.at().y).add(first), g.panel);
                dy.iter_mut().zip(y).for_each(|(dy, y)| *dy = rho * *dy - pull * y);
            }
        }
    }

    /// A chunk's outputs before the norm: `Y = (Q ⊙ P) S + tril(A) U`, with second writes, skip and value decay.
    fn outputs(&self, state: *const f32, panel: usize, c: usize, chunk: &Chunk) {
        let (g, at, unit) = (self.unit.geometry(), self.at(), &self.unit);
        let (p, n) = (unit.prepared(c), chunk.n);
        let (y, x, u) = (self.buffer(at.y), self.buffer(at.rows), self.buffer(at.more_rows));
        let value_decay = unit.call.tensors.gv.is_some() && chunk.write;
        let factors = self.buffer(at.token);
        // SAFETY: `v` is [B, Hv, S, E] (checked); buffers have the extents that `Offsets` names.
        unsafe {
            let skip = unit.call.tensors.d_skip.map(|skip| unit.tiles().value(&skip, &[unit.head]));
            if let Some(skip) = skip {
                let head = unit.shared_head(unit.engine.heads.v);
                let from = [unit.sequence.batch, head, chunk.k0, panel * g.panel];
                let v = self.given(unit.call.tensors.v);
                let rows = Rows::tokens(&v, &from, (n, g.columns(panel)));
                unit.tiles().load(&rows, 1.0, ptr::null(), x, g.panel);
                std::slice::from_raw_parts_mut(factors, CHUNK).fill(skip);
            }
            for set in 0..g.n_sets {
                let block = y.add(set * CHUNK * g.panel);
                let mut read = matmul::Args::product(n, g.panel, g.m, block, g.panel as isize);
                (read.a, read.lda) = (p.q.add(set * CHUNK * g.ldm), g.ldm);
                (read.b, read.ldb) = (state, g.panel);
                if skip.is_some() {
                    (read.c0, read.ldc0, read.pre) = (x, g.panel as isize, factors);
                }
                if chunk.write && !value_decay {
                    (read.l, read.ldl) = (p.a.add(set * CHUNK * CHUNK), CHUNK);
                    (read.u, read.ldu) = (self.buffer(g.at.u), g.panel);
                    if unit.recurrence().writes() == 2 {
                        read.l2 = p.a_second.add(set * CHUNK * CHUNK);
                        read.u2 = read.u.add(n * g.panel);
                    }
                }
                (unit.tiles().matmul)(&read);
            }
            if value_decay {
                ptr::copy_nonoverlapping(self.buffer(g.at.u), u, CHUNK * g.panel);
                (unit.tiles().value_decay)(&value_decay::Args {
                    n,
                    e: g.columns(panel),
                    a: p.a,
                    y,
                    ldy: g.panel,
                    n_sets: g.n_sets,
                    u,
                    ldu: g.panel,
                    gamma: p.gamma.add(panel * g.panel),
                    ldg: g.e.next_multiple_of(16),
                    end: self.buffer(g.at.gamma_end),
                });
            }
        }
    }
}
