//! What the first pass leaves for the way back, in gradients that are still to be written.
//!
//! *Corrected values.* `U` takes a product with the state and a substitution. The first pass leaves it in the caller's
//! `dv`, where each row has its own there.
//!
//! A gradient of 16 bits is no such place: it would round what is left there.
//!
//! What follows holds where nothing is taken from the state beside the decay.
//!
//! *Queries.* `dQᵀ = S0 dYᵀ` is all that reads the state before a chunk. The first pass, which has it, leaves this part in
//! the caller's `dq`, where the way back finds it. So no state is computed a second time.
//!
//! *Ends of chunks.* From `S1 = P_C ⊙ S0 + (K ⊙ F)ᵀ U` and `dS0 = P_C ⊙ dS1 + (Q ⊙ P)ᵀ dY` follows, channel by channel,
//!
//! ```text
//! rowsum(S0 ∘ dS0) = rowsum(S1 ∘ dS1) − Σ_j (k_j F_j) ∘ (dS1 u_j) + Σ_i (q_i P_i) ∘ (S0 dy_i)
//! ```
//!
//! in which both sums are products of rows that are there by the end of a chunk. Only a block ends with
//! `rowsum(S1 ∘ dS1)` itself, so that rounding errors gather over 16 chunks at most. Where `P_C = 0` the first two terms
//! cancel exactly, and are left out.

use super::Reverse;
use super::blocks::GROUP;
use crate::CHUNK;
use crate::engine::linear::norm;
use crate::engine::linear::prepare::Chunk;
use crate::engine::linear::recurrence::Decay;
use crate::engine::linear::tiles::Rows;
use crate::kernel::products::{self, lanes};
use crate::tensor::{DType, Tensor};
use std::ptr;

impl Reverse<'_> {
    /// Whether chunks inside a block end with what the chunk after them begins with. With a shift there may be more of
    /// them than slots.
    pub fn ends_follow(&self) -> bool {
        let value_decay = self.unit.call.tensors.gv.is_some();
        !(self.unit.recurrence().corrects() || value_decay || self.by_factor() || self.shifts())
    }

    /// Where the first pass leaves its part of the gradients of the queries, if it can: in tokens that are read and
    /// written, where every query has a row of its own there, as long as that of its features.
    pub fn early(&self, ordered: bool) -> Option<&Tensor> {
        let (g, heads) = (self.unit.geometry(), &self.unit.engine.heads);
        let own = heads.q == heads.out && g.m == g.d;
        let known = self.ends_follow() && !norm::wanted(self.unit.recurrence());
        self.grads.q.as_ref().filter(|dq| ordered && own && known && dq.dtype == DType::F32)
    }

    /// Where the first pass leaves corrected values, if it can.
    pub fn kept(&self, ordered: bool) -> Option<&Tensor> {
        let (recurrence, heads) = (self.unit.recurrence(), &self.unit.engine.heads);
        let corrected = recurrence.corrects() && recurrence.writes() == 1;
        let own = heads.v == heads.state && !self.gates_before_values();
        self.grads.v.as_ref().filter(|dv| ordered && corrected && own && dv.dtype == DType::F32)
    }

    /// Leaves a chunk's corrected values, or takes them back.
    pub fn keep_values(&self, dv: &Tensor, panel: usize, chunk: &Chunk, back: bool) {
        let (g, unit) = (self.unit.geometry(), &self.unit);
        let head = unit.shared_head(unit.engine.heads.v);
        let at = [unit.sequence.batch, head, chunk.k0, panel * g.panel];
        let (u, rows) = (self.buffer(g.at.u), Rows::tokens(dv, &at, (chunk.n, g.columns(panel))));
        // SAFETY: `dv` has the shape of `v` (checked), and these rows are this unit's; `u` is [16, panel].
        unsafe {
            if back {
                unit.tiles().load(&rows, 1.0, ptr::null(), u, g.panel);
                ptr::write_bytes(u.add(chunk.n * g.panel), 0, (CHUNK - chunk.n) * g.panel);
            } else {
                unit.tiles().store(u, g.panel, &rows);
            }
        }
    }

    /// `dQᵀ += S0 dYᵀ` of a chunk and panel. `dY` is there.
    pub fn queries_gradient(&self, state: *const f32, dy: *const f32, panel: usize, c: usize, chunk: &Chunk) {
        let (g, at) = (self.unit.geometry(), self.at());
        let (dy_t, shape) = (self.buffer(at.dy_t), (chunk.n, g.columns(panel)));
        for set in 0..g.n_sets {
            let dq = self.buffer(at.dq + (c * g.n_sets + set) * CHUNK * g.ldm);
            // SAFETY: buffers have the extents that `Offsets` names.
            unsafe {
                self.unit.tiles().transpose(dy.add(set * CHUNK * g.panel), shape, g.panel, dy_t);
                self.add_by_channel(state, dy_t, (panel, dq));
            }
        }
    }

    /// Stores the first pass's part of the gradients of a chunk's queries.
    pub fn store_early(&self, to: &Tensor, c: usize, chunk: &Chunk) {
        let (g, at) = (self.unit.geometry(), self.at());
        let rows = self.buffer(at.dq_rows);
        for set in 0..g.n_sets {
            let from = [self.unit.sequence.batch, self.unit.query_head(set), chunk.q0];
            // SAFETY: `dq` has the shape of `q` (checked); buffers have the extents that `Offsets` names.
            unsafe {
                self.rows_of(self.buffer(at.dq + (c * g.n_sets + set) * CHUNK * g.ldm), rows);
                self.unit.tiles().store(rows, g.ldm, &Rows::tokens(to, &from, (chunk.n, g.d)));
            }
        }
    }

    /// The reverse of [`Reverse::store_early`].
    pub fn load_early(&self, from: &Tensor, chunk: &Chunk) {
        let (g, at) = (self.unit.geometry(), self.at());
        for set in 0..g.n_sets {
            let rows = self.buffer(at.dq_rows + set * CHUNK * g.ldm);
            let place = [self.unit.sequence.batch, self.unit.query_head(set), chunk.q0];
            // SAFETY: as in `store_early`.
            unsafe { self.load_gradient_rows(from, &place, (chunk.n, g.d), (rows, g.ldm)) }
        }
    }

    /// Whether channels have ends of their own: a shift is a decay per channel.
    fn ends_apart(&self) -> bool {
        self.unit.recurrence().decay == Decay::Channel || self.shifts()
    }

    /// `rowsum(S1 ∘ dS1)` of a panel, in lanes that are still to be summed: of chunk `c`, or of a block's end.
    pub fn end_sums(&self, panel: usize, c: usize, (state, ds): (*const f32, *const f32)) {
        let g = self.unit.geometry();
        // SAFETY: both are panels of a state, with columns of zeros past the last.
        unsafe {
            (self.tiles().lane_products)(&lanes::Args {
                n: g.m,
                d: g.columns(panel),
                a: state,
                lda: g.panel,
                b: ds,
                ldb: g.panel,
                apart: self.ends_apart(),
                sum: self.end_lanes(c),
            });
        }
    }

    /// Where these lanes are. A block whose ends follow has only its own.
    pub fn end_lanes(&self, c: usize) -> *mut f32 {
        let slot = if self.ends_follow() { 0 } else { c };
        self.buffer(self.at().end_lanes + slot * self.plan.layout.end_rows * lanes::LANES)
    }

    /// Clears them.
    pub fn clear_end(&self, c: usize) {
        // SAFETY: buffers have the extents that `Offsets` names.
        unsafe { ptr::write_bytes(self.end_lanes(c), 0, self.plan.layout.end_rows * lanes::LANES) }
    }

    /// What chunk `c` ends with, summed across lanes, if it is to be summed: where ends follow, the last of a block. Where channels share a decay the sum of all is what
    /// counts, and the first one has it.
    ///
    /// # Safety
    /// `dg_rows` is not in use.
    pub unsafe fn sum_end(&self, c: usize, last: bool) {
        if self.ends_follow() && !last {
            return;
        }
        let (g, at) = (self.unit.geometry(), self.at());
        // SAFETY: buffers have the extents that `Offsets` names.
        unsafe {
            let end = std::slice::from_raw_parts_mut(self.buffer(at.end + c * g.ldm), g.ldm);
            end.fill(0.0);
            if !self.ends_apart() {
                end[0] = std::slice::from_raw_parts(self.end_lanes(c), lanes::LANES).iter().sum();
                return;
            }
            let rows = self.buffer(at.dg_rows);
            self.rows_of(self.end_lanes(c), rows);
            self.add_columns((CHUNK, rows), None, end.as_mut_ptr());
        }
    }

    /// What the chunk before chunk `c` ends with, while gradients of rows are those of rows with their factors.
    ///
    /// # Safety
    /// These are there, and `dg_rows` is not in use.
    pub unsafe fn end_before(&self, c: usize, chunk: &Chunk) {
        if !self.ends_follow() {
            return;
        }
        // Groups before this one are whole.
        let slot = c.checked_sub(1).unwrap_or(GROUP - 1);
        let (g, at) = (self.unit.geometry(), self.at());
        let p = self.unit.prepared(c);
        // SAFETY: buffers have the extents that `Offsets` names.
        unsafe {
            let row = |p: *mut f32| std::slice::from_raw_parts_mut(p, g.ldm);
            let end = row(self.buffer(at.end + c * g.ldm));
            let before = row(self.buffer(at.end + slot * g.ldm));
            let keys = row(self.buffer(at.dg_rows));
            keys.fill(0.0);
            self.add_columns((chunk.n, p.k), Some(self.buffer(at.dk_rows)), keys.as_mut_ptr());
            for (i, before) in before.iter_mut().enumerate() {
                *before = if *p.end.add(i) == 0.0 { 0.0 } else { end[i] - keys[i] };
            }
            for set in 0..g.n_sets {
                let rows = set * CHUNK * g.ldm;
                let dq = Some(self.buffer(at.dq_rows + rows));
                self.add_columns((chunk.n, p.q.add(rows)), dq, before.as_mut_ptr());
            }
        }
    }

    /// Adds rows, or their products with others, channel by channel.
    ///
    /// # Safety
    /// Rows are `[n, ldm]`, `sum` is `[ldm]`.
    unsafe fn add_columns(&self, (n, rows): (usize, *const f32), by: Option<*mut f32>, sum: *mut f32) {
        let g = self.unit.geometry();
        let b = by.map_or(ptr::null(), |by| by.cast_const());
        let (lda, ldb) = (g.ldm, g.ldm);
        let args = products::Args { n, d: g.m, a: rows, lda, b, ldb, row: ptr::null_mut(), col: sum };
        // SAFETY: the caller's contract; rows are padded with zeros.
        unsafe { (self.tiles().products)(&args) }
    }
}
