//! States: those stored before each block, and the gradient between the caller's tensors and the worker's panels.

use super::Reverse;
use crate::engine::linear::tiles::Rows;
use std::ptr;

impl Reverse<'_> {
    /// Address of a panel of the state's gradient.
    pub fn ds(&self, panel: usize) -> *mut f32 {
        let g = self.unit.geometry();
        self.buffer(self.at().ds + panel * g.m * g.panel)
    }

    /// Where the state before block `b` is stored.
    fn stored(&self, b: usize) -> *mut f32 {
        self.buffer(self.plan.layout.len + b * self.plan.layout.state_len)
    }

    /// Stores the state before block `b`.
    pub fn save(&self, b: usize) {
        let g = self.unit.geometry();
        let len = g.n_panels * g.m * g.panel;
        // SAFETY: panels lie one after the other; a stored state holds them, the normaliser and a shift if there is one.
        unsafe {
            ptr::copy_nonoverlapping(self.unit.state_panel(0), self.stored(b), len);
            ptr::copy_nonoverlapping(self.unit.carried(g.at.z), self.stored(b).add(len), g.ldm);
            if self.shifts() {
                ptr::copy_nonoverlapping(
                    self.unit.carried(g.at.shift),
                    self.stored(b).add(len + g.ldm),
                    g.ldm,
                );
            }
        }
    }

    /// The reverse of [`Reverse::save`] but for the normaliser.
    pub fn restore_state(&self, b: usize) {
        let g = self.unit.geometry();
        let len = g.n_panels * g.m * g.panel;
        // SAFETY: as in `save`.
        unsafe { ptr::copy_nonoverlapping(self.stored(b), self.unit.state_panel(0), len) }
    }

    /// The normaliser before block `b`, and a shift if there is one.
    pub fn restore_normaliser(&self, b: usize) {
        let g = self.unit.geometry();
        let len = g.n_panels * g.m * g.panel;
        // SAFETY: as in `save`.
        unsafe {
            ptr::copy_nonoverlapping(self.stored(b).add(len), self.unit.carried(g.at.z), g.ldm);
            if self.shifts() {
                let (from, to) = (self.stored(b).add(len + g.ldm), self.unit.carried(g.at.shift));
                ptr::copy_nonoverlapping(from, to, g.ldm);
            }
        }
    }

    /// A panel of the state before block `b`.
    pub fn stored_panel(&self, b: usize, panel: usize) -> *const f32 {
        let g = self.unit.geometry();
        self.stored(b).wrapping_add(panel * g.m * g.panel)
    }

    /// Loads the gradient of what is carried on, or clears it.
    pub fn load_gradient(&self) {
        let (g, unit) = (self.unit.geometry(), &self.unit);
        // SAFETY: states are [slots, Hs, M, E], normalisers [slots, Hs, M] (checked), and so are their gradients;
        // buffers have the extents that `Offsets` names.
        unsafe {
            for p in 0..g.n_panels {
                let Some(state) = &self.grads.state_out else {
                    ptr::write_bytes(self.ds(p), 0, g.m * g.panel);
                    continue;
                };
                for (inside, outside, n) in unit.row_runs() {
                    let at = [unit.sequence.slot, unit.head, outside, p * g.panel];
                    let from = Rows::tokens(state, &at, (n, g.columns(p)));
                    unit.tiles().load(&from, 1.0, ptr::null(), self.ds(p).add(inside * g.panel), g.panel);
                }
            }
            let dz = std::slice::from_raw_parts_mut(self.buffer(self.at().dz), g.ldm);
            dz.fill(0.0);
            if let Some(z) = &self.grads.z_out {
                unit.each_row(z, |inside, value| dz[inside] = *value);
            }
        }
    }

    /// Stores the gradient of what was carried in, where it is wanted.
    pub fn store_gradient(&self) {
        let (g, unit) = (self.unit.geometry(), &self.unit);
        // SAFETY: as in `load_gradient`.
        unsafe {
            if let Some(state) = &self.grads.state_in {
                for p in 0..g.n_panels {
                    for (inside, outside, n) in unit.row_runs() {
                        let at = [unit.sequence.slot, unit.head, outside, p * g.panel];
                        let to = Rows::tokens(state, &at, (n, g.columns(p)));
                        unit.tiles().store(self.ds(p).add(inside * g.panel), g.panel, &to);
                    }
                }
            }
            if let Some(z) = &self.grads.z_in {
                let dz = std::slice::from_raw_parts(self.buffer(self.at().dz), g.ldm);
                unit.each_row(z, |inside, value| *value = dz[inside]);
            }
        }
    }
}
