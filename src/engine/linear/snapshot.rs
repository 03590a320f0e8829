//! Snapshots of the state inside a scan: an engine that speculates goes back to one of them.
//!
//! A chunk ends where a snapshot is due (`scan.rs`), so what the worker keeps is then the state after these tokens: rows of
//! channels (normaliser, shift) when the chunk has been prepared, a panel of the state when it has run. They are rounded
//! to the state's type where they are stored, as the outgoing state is, and the scan goes on from what it had. Without
//! its shift, a state of the map `exp` goes out in plain scale; a block then ends with the chunk, so that the shift is
//! still that of the chunk when the panels run.
//!
//! *Cost*: a store of the state each; and a chunk of fewer tokens, at worst one, takes longer for each of them.

use super::Unit;
use super::call::Snapshots;
use super::features::FeatureMap;
use super::state::plain_scale;
use super::tiles::Rows;
use crate::CHUNK;
use crate::tensor::Tensor;

impl Unit<'_> {
    /// How many of the `n` tokens from key `k0` on come before a snapshot, or to it.
    pub fn until_snapshot(&self, k0: usize, n: usize) -> usize {
        let Some(snapshots) = &self.call.snapshots else { return n };
        snapshots.times.until(&self.sequence, k0 - self.sequence.k0, n)
    }

    /// Whether a snapshot before key `k` needs what the preparation of the next chunk changes.
    pub fn snapshot_ends_block(&self, k: usize) -> bool {
        let Some(snapshots) = &self.call.snapshots else { return false };
        let to = snapshots.state.as_ref().filter(|_| self.in_plain_scale(snapshots));
        to.is_some_and(|to| snapshots.times.due(&self.sequence, k - self.sequence.k0, to).next().is_some())
    }

    fn in_plain_scale(&self, snapshots: &Snapshots) -> bool {
        self.recurrence().features.map == FeatureMap::Exp && snapshots.shift.is_none()
    }

    /// Stores normaliser and shift where a snapshot before key `k` wants them.
    pub fn snapshot_rows(&self, k: usize) {
        let Some(snapshots) = &self.call.snapshots else { return };
        if self.panels.start != 0 {
            return;
        }
        let (g, plain) = (self.geometry(), self.in_plain_scale(snapshots));
        for (to, offset) in [(&snapshots.z, g.at.z), (&snapshots.shift, g.at.shift)] {
            let Some(to) = to else { continue };
            for tensor in snapshots.times.due(&self.sequence, k - self.sequence.k0, to) {
                // SAFETY: `z` and `shift` are [ldm] and this worker's, the tensors [n_sequences, N, Hs, M] (checked); one
                // task of a head, that of its first panel, comes here.
                unsafe {
                    let row = std::slice::from_raw_parts(self.carried(offset), g.ldm);
                    let shift = std::slice::from_raw_parts(self.carried(g.at.shift), g.ldm);
                    self.each_row(&tensor, |c, value| {
                        *value = if plain { plain_scale(shift[c])(row[c]) } else { row[c] };
                    });
                }
            }
        }
    }

    /// Stores panel `p` of the state where a snapshot before key `k` wants it.
    pub fn snapshot_panel(&self, p: usize, k: usize) {
        let Some(snapshots) = &self.call.snapshots else { return };
        let Some(to) = &snapshots.state else { return };
        for state in snapshots.times.due(&self.sequence, k - self.sequence.k0, to) {
            // SAFETY: the tensor is [n_sequences, N, Hs, M, E] (checked), and this panel of this head is this task's.
            unsafe {
                if self.in_plain_scale(snapshots) {
                    self.store_plain(p, &state);
                } else {
                    self.store_panel(p, &state);
                }
            }
        }
    }

    /// Stores panel `p` of a state that is kept under a shift, in plain scale, and leaves it as it is.
    ///
    /// # Safety
    /// As for [`Unit::store_panel`].
    unsafe fn store_plain(&self, p: usize, state: &Tensor) {
        let g = self.geometry();
        let scaled = self.buffer(g.at.y);
        for (inside, outside, n) in self.row_runs() {
            for i in (0..n).step_by(CHUNK) {
                let rows = CHUNK.min(n - i);
                // SAFETY: outputs of a chunk are [C, panel], and no chunk is under way; the panel has M rows, the shift
                // [ldm] elements, both this worker's.
                unsafe {
                    for c in 0..rows {
                        let plain = plain_scale(*self.carried(g.at.shift + inside + i + c));
                        let from = self.state_panel(p).add((inside + i + c) * g.panel);
                        let from = std::slice::from_raw_parts(from, g.panel);
                        let to = std::slice::from_raw_parts_mut(scaled.add(c * g.panel), g.panel);
                        to.iter_mut().zip(from).for_each(|(to, &from)| *to = plain(from));
                    }
                    let at = [self.sequence.slot, self.head, outside + i, p * g.panel];
                    let to = Rows::tokens(state, &at, (rows, g.columns(p)));
                    self.tiles().store(scaled, g.panel, &to);
                }
            }
        }
    }
}
