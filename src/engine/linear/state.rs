//! The state between the caller's tensors and a worker's panels.
//!
//! Inside, the state of a head is `[n_panels, M, panel]`, the normaliser `[M]`, and a constant feature is the
//! last row; outside it is the first (`docs/spec/linear.md` 8).

use super::Unit;
use super::features::FeatureMap;
use super::tiles::Rows;
use crate::tensor::Tensor;
use std::ptr;

/// The plain value of one that is kept under a shift. A channel that saw nothing is 0 · e^{−∞}, which is 0; a sum that
/// is 0 stays so where e^m overflows.
pub fn plain_scale(shift: f32) -> impl Fn(f32) -> f32 {
    // In two steps: the factor may leave the range where the product does not.
    let half = (0.5 * shift).exp();
    move |x| if x == 0.0 { 0.0 } else { x * half * half }
}

impl Unit<'_> {
    /// Address of panel `p` of the state.
    pub fn state_panel(&self, p: usize) -> *mut f32 {
        let g = self.geometry();
        self.carried(g.at.state + p * g.m * g.panel)
    }

    /// Rows of the state outside: `(first inside, first outside, number)`, once or twice.
    pub fn row_runs(&self) -> [(usize, usize, usize); 2] {
        let m = self.geometry().m;
        if self.recurrence().features.constant.is_some() {
            [(0, 1, m - 1), (m - 1, 0, 1)]
        } else {
            [(0, 0, m), (0, 0, 0)]
        }
    }

    /// Loads what is carried in, or clears it.
    pub fn load_state(&self) {
        let (g, tensors) = (self.geometry(), &self.call.tensors);
        let slot = self.sequence.slot;
        // SAFETY: states are [slots, Hs, M, E], normalisers and shifts [slots, Hs, M] (checked); buffers have
        // the extents that `Offsets` names.
        unsafe {
            for p in self.panels.clone() {
                let panel = self.state_panel(p);
                let Some(state) = &tensors.state_in else {
                    ptr::write_bytes(panel, 0, g.m * g.panel);
                    continue;
                };
                for (inside, outside, n) in self.row_runs() {
                    let at = [slot, self.head, outside, p * g.panel];
                    let from = Rows::tokens(state, &at, (n, g.columns(p)));
                    self.tiles().load(&from, 1.0, ptr::null(), panel.add(inside * g.panel), g.panel);
                }
            }
            self.load_normaliser();
            let z = std::slice::from_raw_parts(self.carried(g.at.z), g.ldm);
            let shift = std::slice::from_raw_parts_mut(self.carried(g.at.shift), g.ldm);
            match (&tensors.shift_in, &tensors.state_in) {
                (Some(tensor), _) => self.each_row(tensor, |inside, value| shift[inside] = *value),
                // A state in plain scale has shift 0 in the channels that hold anything.
                (None, Some(_)) => {
                    shift
                        .iter_mut()
                        .zip(z)
                        .for_each(|(s, &z)| *s = if z == 0.0 { f32::NEG_INFINITY } else { 0.0 });
                }
                (None, None) => shift.fill(f32::NEG_INFINITY),
            }
        }
        self.snapshot_rows(self.sequence.k0);
        self.panels.clone().for_each(|p| self.snapshot_panel(p, self.sequence.k0));
    }

    /// Stores what is carried on.
    pub fn store_state(&self) {
        let (g, tensors) = (self.geometry(), &self.call.tensors);
        let first = self.panels.start == 0;
        // SAFETY: as in `load_state`.
        unsafe {
            let shift = std::slice::from_raw_parts(self.carried(g.at.shift), g.ldm);
            let z = std::slice::from_raw_parts_mut(self.carried(g.at.z), g.ldm);
            if self.recurrence().features.map == FeatureMap::Exp && tensors.shift_out.is_none() {
                for c in 0..g.m {
                    let plain = plain_scale(shift[c]);
                    z[c] = plain(z[c]);
                    for p in self.panels.clone() {
                        let row = self.state_panel(p).add(c * g.panel);
                        let row = std::slice::from_raw_parts_mut(row, g.panel);
                        row.iter_mut().for_each(|s| *s = plain(*s));
                    }
                }
            }
            if let Some(state) = &tensors.state_out {
                self.panels.clone().for_each(|p| self.store_panel(p, state));
            }
            if first {
                self.store_normaliser();
            }
            if let (true, Some(tensor)) = (first, &tensors.shift_out) {
                self.each_row(tensor, |inside, value| *value = shift[inside]);
            }
        }
    }

    /// Stores panel `p` of the state.
    ///
    /// # Safety
    /// `state` is `[slots, Hs, M, E]`, and no other task accesses these columns of it.
    pub unsafe fn store_panel(&self, p: usize, state: &Tensor) {
        let g = self.geometry();
        for (inside, outside, n) in self.row_runs() {
            let src = self.state_panel(p).wrapping_add(inside * g.panel);
            let at = [self.sequence.slot, self.head, outside, p * g.panel];
            // SAFETY: the caller's contract; the panel has M rows.
            unsafe { self.tiles().store(src, g.panel, &Rows::tokens(state, &at, (n, g.columns(p)))) }
        }
    }

    /// Loads `z`, or clears it.
    pub fn load_normaliser(&self) {
        let g = self.geometry();
        // SAFETY: `z` is [ldm] and this worker's, the tensor [slots, Hs, M] (checked) and only read.
        unsafe {
            let z = std::slice::from_raw_parts_mut(self.carried(g.at.z), g.ldm);
            z.fill(0.0);
            if let Some(tensor) = &self.call.tensors.z_in {
                self.each_row(tensor, |inside, value| z[inside] = *value);
            }
        }
    }

    /// Stores `z` where it is wanted.
    pub fn store_normaliser(&self) {
        let g = self.geometry();
        // SAFETY: as in `load_normaliser`; one task of a head stores.
        unsafe {
            let z = std::slice::from_raw_parts(self.carried(g.at.z), g.ldm);
            if let Some(tensor) = &self.call.tensors.z_out {
                self.each_row(tensor, |inside, value| *value = z[inside]);
            }
        }
    }

    /// Calls `f(inside, value)` for every row of a normaliser or shift.
    ///
    /// # Safety
    /// `tensor` is [slots, Hs, M] and not accessed by another task.
    pub unsafe fn each_row(&self, tensor: &Tensor, mut f: impl FnMut(usize, &mut f32)) {
        for (inside, outside, n) in self.row_runs() {
            for i in 0..n {
                let at = tensor.f32_at(&[self.sequence.slot, self.head, outside + i]);
                // SAFETY: the caller's contract.
                f(inside + i, unsafe { &mut *at });
            }
        }
    }
}
