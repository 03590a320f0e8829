//! One chunk in reverse against one panel of the state's gradient.

use super::{Reverse, Sum};
use crate::CHUNK;
use crate::engine::linear::prepare::{Chunk, Prepared};
use crate::engine::linear::recurrence::Gain;
use crate::engine::linear::scan::Ahead;
use crate::engine::linear::tiles::Rows;
use crate::kernel::{elementwise, matmul, products, scores, scores_grad, solve};
use crate::tensor::Tensor;
use std::ptr;

/// A chunk and panel: addresses of its operands.
#[derive(Clone, Copy)]
struct At<'a> {
    panel: usize,
    chunk: &'a Chunk,
    p: Prepared,
    /// Columns that exist.
    columns: usize,
    /// State before the chunk, and after it.
    s0: *mut f32,
    s1: *mut f32,
    /// Gradient of the state after it.
    ds: *mut f32,
    /// Values, then what second writes write; and the gradients of those that were corrected.
    u: *mut f32,
    corrected: *mut f32,
    dy: *mut f32,
    /// Coefficients of the reversed substitution.
    reversed: *mut f32,
    /// Accumulators, and whether this is their first panel.
    dk: *mut f32,
    de: *mut f32,
    da: *mut f32,
    db: *mut f32,
    fresh: bool,
}

impl Reverse<'_> {
    /// Chunk `c` of `filled`.
    pub fn panel(&self, panel: usize, c: usize, chunk: &Chunk, ahead: &Ahead<'_>) {
        let (g, at) = (self.unit.geometry(), self.at());
        let ordered = chunk.read && chunk.write;
        let writes = self.unit.recurrence().writes();
        let t = At {
            panel,
            chunk,
            p: self.unit.prepared(c),
            columns: g.columns(panel),
            s0: self.before(panel, c, chunk),
            s1: self.before(panel, c + 1, chunk),
            ds: self.ds(panel),
            u: self.buffer(at.u + c * writes * CHUNK * g.panel),
            corrected: self.buffer(at.du + (writes - 1) * chunk.n * g.panel),
            dy: self.dy(c),
            reversed: self.buffer(at.reversed + c * CHUNK * CHUNK),
            dk: self.buffer(at.dk + c * writes * CHUNK * g.ldm),
            de: self.buffer(at.de + c * CHUNK * g.ldm),
            da: self.buffer(at.da + c * writes * g.n_sets * CHUNK * CHUNK),
            db: self.buffer(at.db + c * writes * CHUNK * CHUNK),
            fresh: panel == 0,
        };
        let value_decay = self.unit.call.tensors.gv.is_some();
        // SAFETY: buffers have the extents that `Offsets` names, with columns of zeros past the last.
        unsafe {
            if self.only_state {
                if self.unit.recurrence().corrects() {
                    self.values_gradient(&t);
                }
                return self.state_gradient(&t);
            }
            if value_decay {
                let n = g.n_sets * CHUNK * g.panel;
                ptr::copy_nonoverlapping(t.dy, self.buffer(at.dy_decayed), n);
                ptr::copy_nonoverlapping(t.u, self.buffer(g.at.u), CHUNK * g.panel);
                self.decay_values(panel, &t.p, chunk, true);
            }
            // A few tens of lines at a time, as in forward.
            ahead.keys();
            self.gate_sums(&t, c);
            if chunk.write {
                self.values_gradient(&t);
            }
            ahead.values();
            if ordered {
                self.scores_gradient(&t);
            }
            ahead.queries();
            self.rows_gradient(&t, c);
            ahead.rows_of_outputs(self.grads.out);
            ahead.rows_of_queries(self.grads.q);
            self.state_gradient(&t);
            ahead.rows_of_keys(self.grads.k);
            ahead.rows_of_values(self.grads.v);
            if chunk.write {
                self.store_values(&t, c);
            }
        }
    }

    /// Gradients of the outputs of chunk `c`.
    pub fn dy(&self, c: usize) -> *mut f32 {
        let g = self.unit.geometry();
        self.buffer(self.at().dy + c * g.n_sets * CHUNK * g.panel)
    }

    /// Gradients of the outputs as the state sees them: with their value decay.
    fn dy_decayed(&self, t: &At<'_>) -> *mut f32 {
        if self.unit.call.tensors.gv.is_some() { self.buffer(self.at().dy_decayed) } else { t.dy }
    }

    /// What the chunk's end adds to the gradients of the decays: sums of `S1 ∘ dS`, where they have to be made.
    unsafe fn gate_sums(&self, t: &At<'_>, c: usize) {
        let g = self.unit.geometry();
        let state = if self.by_factor() { t.s0 } else { t.s1 };
        if t.chunk.read && t.chunk.write && self.wants_decay() && !self.ends_follow() {
            self.end_sums(t.panel, c, (state, t.ds));
        }
        if t.chunk.write && self.grads.gv.is_some() {
            let (n, d, ld, col) = (g.m, t.columns, g.panel, self.buffer(self.at().gamma_end));
            // SAFETY: the buffers that `panel` names.
            unsafe {
                ptr::write_bytes(col, 0, g.panel);
                let row = ptr::null_mut();
                (self.tiles().products)(&products::Args {
                    n,
                    d,
                    a: state,
                    lda: ld,
                    b: t.ds,
                    ldb: ld,
                    row,
                    col,
                });
            }
        }
    }

    /// `dU = (K ⊙ F) dS + Aᵀ dY`, and with a correction `dR`, which takes its place. With second writes theirs is
    /// corrected, and has its part of the values, `Nᵀ dR`.
    unsafe fn values_gradient(&self, t: &At<'_>) {
        let (g, at, tiles) = (self.unit.geometry(), self.at(), self.unit.tiles());
        let (du, n, writes) = (self.buffer(at.du), t.chunk.n, self.unit.recurrence().writes());
        let add = |to: *mut f32, scores: *const f32, rows: usize, by: *const f32| {
            let mut product = matmul::Args::product(n, g.panel, rows, to, g.panel as isize);
            (product.a, product.lda, product.a_by_columns) = (scores, CHUNK, true);
            (product.b, product.ldb) = (by, g.panel);
            (product.c0, product.ldc0) = (to, g.panel as isize);
            product
        };
        let value_decay = self.unit.call.tensors.gv.is_some();
        // SAFETY: the buffers that `panel` names; rows of A and dY past the chunk's end are zero.
        unsafe {
            let mut write = matmul::Args::product(writes * n, g.panel, g.m, du, g.panel as isize);
            (write.a, write.lda) = (t.p.k, g.ldm);
            (write.b, write.ldb) = (t.ds, g.panel);
            (tiles.matmul)(&write);
            if t.chunk.read && !value_decay {
                (tiles.matmul)(&add(du, t.p.a, g.n_sets * CHUNK, t.dy));
                if writes == 2 {
                    (tiles.matmul)(&add(t.corrected, t.p.a_second, g.n_sets * CHUNK, t.dy));
                }
            }
            if value_decay {
                self.value_decay_gradient(t);
            }
            if self.unit.recurrence().corrects() {
                self.solve_reversed(t);
            }
            // One token alone has no value before it.
            if writes == 2 && n > 1 {
                (tiles.matmul)(&add(du, t.p.inflow, n, t.corrected));
            }
        }
    }

    /// Back substitution, as forward substitution from the last token to the first.
    unsafe fn solve_reversed(&self, t: &At<'_>) {
        let (g, at) = (self.unit.geometry(), self.at());
        let (du, reversed) = (t.corrected, self.buffer(at.du_reversed));
        let row = |i: usize| reversed.wrapping_add((CHUNK - 1 - i) * g.panel);
        // SAFETY: the buffers that `panel` names.
        unsafe {
            for i in 0..CHUNK {
                if i < t.chunk.n {
                    ptr::copy_nonoverlapping(du.add(i * g.panel), row(i), g.panel);
                } else {
                    ptr::write_bytes(row(i), 0, g.panel);
                }
            }
            let args = solve::Args { n: t.columns, coef: t.reversed, u: reversed, ld: g.panel };
            (self.unit.tiles().solve)(&args);
            for i in 0..t.chunk.n {
                ptr::copy_nonoverlapping(row(i), du.add(i * g.panel), g.panel);
            }
        }
    }

    /// Value decay: from the gradients of the decayed values to those of the values, with those of the scores' part
    /// of the output; and the gates' own.
    unsafe fn value_decay_gradient(&self, t: &At<'_>) {
        let (g, at, tiles) = (self.unit.geometry(), self.at(), self.unit.tiles());
        let (y, dg, n) = (self.buffer(at.y), self.buffer(at.rows), t.chunk.n);
        let own = self.grads.gv;
        let wanted = |p: *mut f32| if own.is_some() { p } else { ptr::null_mut() };
        // SAFETY: the buffers that `panel` names.
        unsafe {
            for set in 0..if own.is_some() { g.n_sets } else { 0 } {
                let block = set * CHUNK * g.panel;
                let mut read = matmul::Args::product(n, g.panel, g.m, y.add(block), g.panel as isize);
                (read.a, read.lda) = (t.p.q.add(set * CHUNK * g.ldm), g.ldm);
                (read.b, read.ldb) = (t.s0, g.panel);
                (tiles.matmul)(&read);
            }
            (self.tiles().scores_grad)(&scores_grad::Args {
                n,
                d: g.panel,
                ld: g.panel,
                alpha: self.buffer(at.gamma),
                ld_alpha: g.panel,
                by_channel: true,
                q: t.dy,
                n_sets: g.n_sets,
                bonus: ptr::null(),
                k: t.u,
                k_sets: 1,
                erase: ptr::null(),
                erase_row: ptr::null(),
                erase_pre: false,
                da: t.p.a,
                db: ptr::null(),
                dq: wanted(y),
                dk: self.buffer(at.du),
                de: ptr::null_mut(),
                dg: wanted(dg),
                dbonus: ptr::null_mut(),
                end: self.buffer(at.gamma_end),
            });
            if let Some(gv) = &own {
                let unit = &self.unit;
                let to = [unit.sequence.batch, unit.head, t.chunk.k0, t.panel * g.panel];
                tiles.store(dg, g.panel, &Rows::tokens(gv, &to, (n, t.columns)));
            }
        }
    }

    /// `dA += dY Uᵀ`, `dN += dR Uᵀ`, of values and of what second writes write. What lies above the diagonal is not read.
    unsafe fn scores_gradient(&self, t: &At<'_>) {
        let (g, at, tiles) = (self.unit.geometry(), self.at(), self.unit.tiles());
        let u_t = self.buffer(at.u_t);
        let product = |m, a: *const f32, c: *mut f32| {
            let mut product = matmul::Args::product(m, CHUNK, t.columns, c, CHUNK as isize);
            (product.a, product.lda) = (a, g.panel);
            (product.b, product.ldb) = (u_t, CHUNK);
            if !t.fresh {
                (product.c0, product.ldc0) = (c, CHUNK as isize);
            }
            product
        };
        // SAFETY: the buffers that `panel` names.
        unsafe {
            for which in 0..self.unit.recurrence().writes() {
                let u = t.u.add(which * t.chunk.n * g.panel);
                tiles.transpose(u, (t.chunk.n, t.columns), g.panel, u_t);
                if self.unit.call.tensors.gv.is_some() {
                    return self.value_decay_scores(t);
                }
                let da = t.da.add(which * g.n_sets * CHUNK * CHUNK);
                (tiles.matmul)(&product(g.n_sets * CHUNK, t.dy, da));
                if self.unit.recurrence().corrects() {
                    (tiles.matmul)(&product(t.chunk.n, t.corrected, t.db.add(which * CHUNK * CHUNK)));
                }
            }
        }
    }

    /// The same with a decay between the tokens in every value channel.
    unsafe fn value_decay_scores(&self, t: &At<'_>) {
        let (g, at) = (self.unit.geometry(), self.at());
        let tile = self.buffer(at.tile);
        // SAFETY: the buffers that `panel` names; `y` is free again, and has at least a chunk of it.
        unsafe {
            for set in 0..g.n_sets {
                (self.unit.tiles().scores_channel)(&scores::ChannelArgs {
                    n: t.chunk.n,
                    d: t.columns,
                    alpha: self.buffer(at.gamma),
                    kt: self.buffer(at.u_t),
                    decayed: self.buffer(at.y),
                    x: t.dy.add(set * CHUNK * g.panel),
                    s: tile,
                    bonus: ptr::null(),
                    strict_x: ptr::null(),
                    strict_pre: false,
                    strict_row: ptr::null(),
                    strict_s: ptr::null_mut(),
                    ld: g.panel,
                });
                let da = t.da.add(set * CHUNK * CHUNK);
                for i in 0..CHUNK * CHUNK {
                    *da.add(i) = if t.fresh { *tile.add(i) } else { *da.add(i) + *tile.add(i) };
                }
            }
        }
    }

    /// `dQᵀ += S0 dYᵀ`, `dKᵀ += dS Uᵀ`, `deᵀ += S0 dRᵀ`, with their decay factors.
    unsafe fn rows_gradient(&self, t: &At<'_>, c: usize) {
        let (g, at, tiles) = (self.unit.geometry(), self.at(), self.unit.tiles());
        let rows = (t.chunk.n, t.columns);
        if t.chunk.read && self.early(t.chunk.write).is_none() {
            self.queries_gradient(t.s0, self.dy_decayed(t), t.panel, c, t.chunk);
        }
        // SAFETY: the buffers that `panel` names.
        unsafe {
            for which in 0..if t.chunk.write { self.unit.recurrence().writes() } else { 0 } {
                let value_decay = self.unit.call.tensors.gv.is_some();
                let u = if value_decay { self.buffer(g.at.u) } else { t.u };
                let u = u.add(which * t.chunk.n * g.panel);
                // Of values alone `scores_gradient` has just made it.
                if !(t.chunk.read && self.unit.recurrence().writes() == 1 && !value_decay) {
                    tiles.transpose(u, rows, g.panel, self.buffer(at.u_t));
                }
                let dk = t.dk.add(which * CHUNK * g.ldm);
                self.add_by_channel(t.ds, self.buffer(at.u_t), (t.panel, dk));
            }
            if self.unit.recurrence().corrects() {
                tiles.transpose(t.corrected, rows, g.panel, self.buffer(at.dr_t));
                self.add_by_channel(t.s0, self.buffer(at.dr_t), (t.panel, t.de));
            }
        }
    }

    /// A panel of a state times transposed rows `[panel, 16]`, added to a sum over panels `[m, 16]`.
    ///
    /// # Safety
    /// These are their extents.
    pub unsafe fn add_by_channel(
        &self,
        state: *const f32,
        rows_t: *const f32,
        (panel, sum): (usize, *mut f32),
    ) {
        let g = self.unit.geometry();
        let mut product = matmul::Args::product(g.m, CHUNK, g.columns(panel), sum, CHUNK as isize);
        (product.a, product.lda) = (state, g.panel);
        (product.b, product.ldb) = (rows_t, CHUNK);
        if panel != 0 {
            (product.c0, product.ldc0) = (sum, CHUNK as isize);
        }
        // SAFETY: the caller's contract.
        unsafe { (self.unit.tiles().matmul)(&product) }
    }

    /// `dS = P_C ⊙ dS + (Q ⊙ P)ᵀ dY + (e ⊙ P)ᵀ dR`.
    unsafe fn state_gradient(&self, t: &At<'_>) {
        let (g, tiles) = (self.unit.geometry(), self.unit.tiles());
        if !t.chunk.read {
            // Keys alone come with no decay: the state's gradient stays.
            return;
        }
        let mut update = matmul::Args::product(g.m, g.panel, g.n_sets * CHUNK, t.ds, g.panel as isize);
        (update.a, update.lda, update.a_by_columns) = (t.p.q, g.ldm, true);
        (update.b, update.ldb) = (self.dy_decayed(t), g.panel);
        (update.c0, update.ldc0) = (t.ds, g.panel as isize);
        if t.chunk.write && self.unit.decays() {
            update.pre = t.p.end;
        }
        if t.chunk.write && self.unit.call.tensors.gv.is_some() {
            update.col = self.buffer(g.at.gamma_end);
        }
        // SAFETY: the buffers that `panel` names; rows of Q and dY past the chunk's end are zero.
        unsafe {
            (tiles.matmul)(&update);
            if self.unit.recurrence().corrects() {
                let mut erase = matmul::Args::product(g.m, g.panel, t.chunk.n, t.ds, g.panel as isize);
                (erase.a, erase.lda, erase.a_by_columns) = (t.p.erase, g.ldm, true);
                (erase.b, erase.ldb) = (t.corrected, g.panel);
                (erase.c0, erase.ldc0) = (t.ds, g.panel as isize);
                (tiles.matmul)(&erase);
            }
        }
    }

    /// From the gradient of the written values, in `du`, to those of `v`, of the gain and of the skip.
    unsafe fn store_values(&self, t: &At<'_>, c: usize) {
        let (g, at, unit) = (self.unit.geometry(), self.at(), &self.unit);
        let (n, du, v) = (t.chunk.n, self.buffer(at.du), self.buffer(at.rows));
        let head = unit.shared_head(unit.engine.heads.v);
        let from = [unit.sequence.batch, head, t.chunk.k0, t.panel * g.panel];
        let by_channel = unit.recurrence().gain == Gain::Write;
        let gain = unit.recurrence().gain != Gain::None && !by_channel;
        let skip = unit.call.tensors.d_skip.filter(|_| t.chunk.read);
        let dot = |a: *const f32, row: *mut f32| products::Args {
            n,
            d: t.columns,
            a,
            lda: g.panel,
            b: v,
            ldb: g.panel,
            row,
            col: ptr::null_mut(),
        };
        // SAFETY: `v` is [B, Hv, S, E] (checked); the buffers that `panel` names.
        unsafe {
            if (gain && self.grads.wants_gain()) || (skip.is_some() && self.grads.d_skip.is_some()) {
                let tensor = self.given(unit.call.tensors.v);
                let rows = Rows::tokens(&tensor, &from, (n, t.columns));
                unit.tiles().load(&rows, 1.0, ptr::null(), v, g.panel);
            }
            if gain && self.grads.wants_gain() {
                (self.tiles().products)(&dot(du, self.buffer(at.dgain + c * CHUNK)));
            }
            if by_channel {
                self.channel_gains(t, &from);
            }
            if gain {
                scale_rows(du, n, g.panel, |i| *t.p.gain.add(i));
            }
            if let Some(skip) = skip {
                let skip = unit.tiles().value(&skip, &[unit.head]);
                for set in 0..g.n_sets {
                    let dy = t.dy.add(set * CHUNK * g.panel);
                    if self.grads.d_skip.is_some() {
                        let sums = std::slice::from_raw_parts_mut(self.buffer(at.token), CHUNK);
                        sums.fill(0.0);
                        (self.tiles().products)(&dot(dy, sums.as_mut_ptr()));
                        self.add(Sum::Skip, sums.iter().map(|&x| f64::from(x)).sum());
                    }
                    for i in 0..n * g.panel {
                        *du.add(i) += skip * *dy.add(i);
                    }
                }
            }
            if let Some(dv) = &self.grads.v {
                let first = self.first_user(unit.head, unit.engine.heads.state, unit.engine.heads.v)
                    && !self.gates_before_values();
                self.store_sum(du, g.panel, dv, &from, (n, t.columns), first);
            }
        }
    }

    /// Gains by value channel, `x = write ⊙ v`: `dwrite = dx ⊙ v` to the caller, `dx ⊙ write` in place.
    unsafe fn channel_gains(&self, t: &At<'_>, values: &[usize; 4]) {
        let (g, unit) = (self.unit.geometry(), &self.unit);
        let (du, rows) = (self.buffer(self.at().du), self.buffer(self.at().rows));
        let shape = (t.chunk.n, t.columns);
        let own = [values[0], unit.head, values[2], values[3]];
        let (v, write) = (self.given(unit.call.tensors.v), self.given(unit.call.tensors.write));
        // SAFETY: `v` is [B, Hv, S, E], `write` and its gradient are [B, Hs, S, E] (checked); the buffers that `panel`
        // names.
        unsafe {
            let times = |src, dst| {
                let args = elementwise::Args { n: t.chunk.n * g.panel, src, dst };
                (unit.tiles().product)(&args);
            };
            if let Some(to) = &self.grads.write {
                unit.tiles().load(&Rows::tokens(&v, values, shape), 1.0, ptr::null(), rows, g.panel);
                times(du, rows);
                unit.tiles().store(rows, g.panel, &Rows::tokens(to, &own, shape));
            }
            unit.tiles().load(&Rows::tokens(&write, &own, shape), 1.0, ptr::null(), rows, g.panel);
            times(rows, du);
        }
    }

    /// Stores rows, or adds them to what heads before this one left there.
    ///
    /// # Safety
    /// `src` has `n · ld` elements; the tensor has these rows, and no other task touches them.
    pub unsafe fn store_sum(
        &self,
        src: *mut f32,
        ld: usize,
        tensor: &Tensor,
        at: &[usize],
        rows: (usize, usize),
        first: bool,
    ) {
        let sum = self.buffer(self.at().sum);
        let to = Rows::tokens(tensor, at, rows);
        // SAFETY: the caller's contract; `sum` has 16 rows of any length that rows here have.
        unsafe {
            if !first {
                self.unit.tiles().load(&to, 1.0, ptr::null(), sum, ld);
                for i in 0..rows.0 * ld {
                    *src.add(i) += *sum.add(i);
                }
            }
            self.unit.tiles().store(src, ld, &to);
        }
    }
}

/// Multiplies each row by a factor.
///
/// # Safety
/// `x` has `n · ld` elements.
pub unsafe fn scale_rows(x: *mut f32, n: usize, ld: usize, factor: impl Fn(usize) -> f32) {
    for i in 0..n {
        // SAFETY: the caller's contract.
        let row = unsafe { std::slice::from_raw_parts_mut(x.add(i * ld), ld) };
        let factor = factor(i);
        row.iter_mut().for_each(|x| *x *= factor);
    }
}
