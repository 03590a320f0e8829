//! The map `exp` in reverse (`docs/spec/linear.md` 2 and 1.9; forward: `linear/shift.rs`).
//!
//! Neither an output nor a state in plain scale depends on the shift, so every shift counts as a constant. What forward
//! does with it is then a decay like any other, `e^{m − M}` at the first token of a chunk, and ε a constant of its row:
//!
//! ```text
//! dq = q̃ ∘ dq̃      dk = k̃ ∘ dk̃      q̃ = e^{q + M − μ},  k̃ = e^{k − M}
//! ```
//!
//! Chunks are cut short where forward cuts them. In modes without an order of tokens all keys have one shift, the last
//! one: what it lets underflow is nothing to any query.
//!
//! *States.* The gradient of the state is in the scale of the shift, as the state is. A state in plain scale has shift 0
//! where it holds anything; elsewhere forward begins at `−∞`, which would let no gradient through to it. Here such a
//! channel begins at its first key, where forward is after one token, or at 0. Its gradient is lost only if the shift
//! rises from there by more than 87.

use super::{BLOCK, Reverse};
use crate::CHUNK;
use crate::engine::linear::features::{FeatureMap, Side, Source, rows};
use crate::engine::linear::prepare::{Chunk, Prepared};
use crate::engine::linear::shift;
use std::ptr;

impl Reverse<'_> {
    /// Whether features have a shift.
    pub fn shifts(&self) -> bool {
        self.unit.recurrence().features.map == FeatureMap::Exp
    }

    /// Whether states outside are in plain scale: they are in the scale of their shift where that comes with them.
    fn plain_states(&self) -> bool {
        self.unit.call.tensors.shift_in.is_none()
    }

    /// The shift as it runs.
    fn running(&self) -> *mut f32 {
        self.unit.carried(self.unit.geometry().at.shift)
    }

    /// Which the gradient of the state has in the end: in mode causal the first one, else that after all keys.
    fn last(&self) -> *mut f32 {
        self.buffer(self.at().maps.shift + 2 * BLOCK * self.unit.geometry().ldm)
    }

    /// The shifts before and after slot `c`.
    fn of_slot(&self, c: usize) -> [*mut f32; 2] {
        let ldm = self.unit.geometry().ldm;
        [0, 1].map(|which| self.buffer(self.at().maps.shift + (2 * c + which) * ldm))
    }

    /// Gives channels that hold nothing a shift, after the state was loaded.
    pub fn begin_shift(&self) {
        if !self.shifts() || !self.plain_states() {
            return;
        }
        let (g, unit) = (self.unit.geometry(), &self.unit);
        let (s, p) = (&unit.sequence, unit.prepared(0));
        let first = Chunk { q0: s.q0, k0: s.k0, n: 1, read: false, write: true };
        // SAFETY: shifts and rows of features are [ldm], panels [m, panel].
        unsafe {
            if s.n_k > 0 {
                unit.load_features(&p, &first);
            }
            for c in 0..g.m {
                let shift = self.running().add(c);
                if *shift != f32::NEG_INFINITY {
                    continue;
                }
                let key = if s.n_k > 0 { *p.k.add(c) } else { 0.0 };
                *shift = if key.is_finite() { key } else { 0.0 };
                // What forward takes for nothing.
                for panel in 0..g.n_panels {
                    ptr::write_bytes(unit.state_panel(panel).add(c * g.panel), 0, g.panel);
                }
            }
        }
    }

    /// Keeps the shift that the gradient of the state ends with, after a pass that only writes.
    pub fn keep_last_shift(&self) {
        if self.shifts() {
            // SAFETY: both are [ldm].
            unsafe { ptr::copy_nonoverlapping(self.running(), self.last(), self.unit.geometry().ldm) }
        }
    }

    /// Keeps the shifts of a slot that was just prepared.
    pub fn keep_shift(&self, c: usize) {
        if !self.shifts() {
            return;
        }
        let (ldm, [before, after]) = (self.unit.geometry().ldm, self.of_slot(c));
        // SAFETY: all are [ldm]; the shift before the chunk lies behind the running one.
        unsafe {
            ptr::copy_nonoverlapping(self.running().add(ldm), before, ldm);
            ptr::copy_nonoverlapping(self.running(), after, ldm);
        }
    }

    /// Turns the rows of slot `c`, loaded anew, into features.
    ///
    /// # Safety
    /// The rows are those that `p` names.
    pub unsafe fn shifted_features(&self, c: usize, p: &Prepared, chunk: &Chunk) {
        if !self.shifts() {
            return;
        }
        let ldm = self.unit.geometry().ldm;
        // SAFETY: the caller's contract; shifts are [ldm].
        unsafe {
            let [before, after] = self.of_slot(c).map(|p| std::slice::from_raw_parts(p, ldm));
            shift::features(&self.unit, p, chunk, (before, after));
        }
    }

    /// What the shift does to the state before slot `c`: a factor per channel, `[ldm]`.
    pub fn inflow(&self, c: usize) -> Option<&[f32]> {
        if !self.shifts() {
            return None;
        }
        let (ldm, factors) = (self.unit.geometry().ldm, self.buffer(self.at().raw));
        // SAFETY: shifts are [ldm], `raw` has a row of as many and is not in use.
        unsafe {
            let [before, after] = self.of_slot(c).map(|p| std::slice::from_raw_parts(p, ldm));
            let factors = std::slice::from_raw_parts_mut(factors, ldm);
            factors.copy_from_slice(before);
            shift::difference(factors, after);
            self.unit.tiles().exp_in_place(factors.as_mut_ptr(), ldm);
            Some(factors)
        }
    }

    /// From gradients of features to those of the exponents, in place.
    ///
    /// # Safety
    /// `dphi` is `[16, ldm]`; the features of the chunk are those that [`Reverse::shifted_features`] made.
    pub unsafe fn through_exp(&self, source: &Source, dphi: *mut f32) {
        let (g, at, features) = (self.unit.geometry(), self.at(), &self.unit.recurrence().features);
        let (phi, scale) = match source.side {
            Side::Query(set) => (self.buffer(at.q + set * CHUNK * g.ldm), features.row_scale[0]),
            Side::Key => (self.buffer(at.unit), features.row_scale[1]),
        };
        let scale = if features.in_place() { scale } else { 1.0 };
        // SAFETY: the caller's contract; features are [16, ldm].
        unsafe {
            let all = rows(phi, (source.n, g.m), g.ldm).zip(rows(dphi, (source.n, g.m), g.ldm));
            for (phi, dphi) in all {
                dphi.iter_mut().zip(phi).for_each(|(dphi, phi)| *dphi *= scale * *phi);
            }
        }
    }

    /// From the gradient of what is carried on outside to that in the scale of the shift.
    pub fn shift_gradient(&self) {
        if self.shifts() && self.plain_states() {
            // SAFETY: the running shift is [ldm].
            self.scale_gradient(|c| unsafe { *self.running().add(c) });
        }
    }

    /// From the gradient in the scale of the last shift to that of what was carried in outside.
    pub fn unshift_gradient(&self) {
        if !self.shifts() {
            return;
        }
        let mut given = ptr::null_mut();
        if let Some(tensor) = &self.unit.call.tensors.shift_in {
            given = self.running();
            // SAFETY: the tensor is [slots, Hs, M] (checked) and only read, the running shift [ldm].
            unsafe { self.unit.each_row(tensor, |inside, value| *given.add(inside) = *value) }
        }
        // SAFETY: both shifts are [ldm].
        self.scale_gradient(|c| unsafe {
            let mut by = [if given.is_null() { 0.0 } else { *given.add(c) }];
            shift::difference(&mut by, std::slice::from_raw_parts(self.last().add(c), 1));
            by[0]
        });
    }

    /// Multiplies rows of the state's gradient by `e` to these.
    fn scale_gradient(&self, exponent: impl Fn(usize) -> f32) {
        let g = self.unit.geometry();
        for c in 0..g.m {
            // In two steps: the factor may leave the range where the product does not.
            let half = (0.5 * exponent(c)).exp();
            if half == 1.0 {
                continue;
            }
            let scale = |x: &mut f32| *x = if *x == 0.0 { 0.0 } else { *x * half * half };
            // SAFETY: the state's gradient is [n_panels, m, panel], the normaliser's [ldm].
            unsafe {
                scale(&mut *self.buffer(self.at().dz + c));
                for panel in 0..g.n_panels {
                    let row = std::slice::from_raw_parts_mut(self.ds(panel).add(c * g.panel), g.panel);
                    row.iter_mut().for_each(scale);
                }
            }
        }
    }
}
