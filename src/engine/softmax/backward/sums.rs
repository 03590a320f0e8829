//! Gradients that are sums over a head: sinks, slopes, scales, the second map's share, and gates.

use super::Run;
use crate::engine::call::Sequence;
use crate::tensor::Tensor;
use std::iter;

/// What is summed up over the tiles of a sequence and query head; of the first two one for each map.
#[derive(Clone, Copy)]
pub enum Sum {
    Sink = 0,
    Slope = 2,
    /// Of `lam`, or of `blend`.
    Lam = 4,
    /// Of scales, or of ridges.
    Scale = 5,
}

/// Sums of a sequence and query head.
pub const SUMS: usize = 6;

impl Run<'_> {
    /// Sums of a sequence and query head.
    pub fn sums(&self, sequence: usize, head: usize) -> *mut f64 {
        let unit = sequence * self.engine.heads.0 + head;
        self.workspace.worker(0).cast::<f64>().wrapping_add(unit * SUMS)
    }

    /// Stores what sequences share, when all tasks are done.
    pub fn store_sums(&self) {
        let (n, heads) = (self.call.sequences.len(), self.engine.heads.0);
        let maps = self.engine.settings.form.score_heads();
        // SAFETY: every sequence and head has its sums, and no task runs any more.
        let one = |i: usize, head: usize, sum: usize| unsafe { *self.sums(i, head).add(sum) };
        let store = |to: &Option<Tensor>, maps: usize, sum: Sum| {
            let Some(to) = to else { return };
            for head in 0..heads * maps {
                let total: f64 = (0..n).map(|i| one(i, head / maps, sum as usize + head % maps)).sum();
                // SAFETY: the tensor has a value for each head.
                unsafe { self.engine.kernels.common.set(to, &[head], total as f32) };
            }
        };
        store(&self.grads.sink, maps, Sum::Sink);
        store(&self.grads.alibi_slopes, maps, Sum::Slope);
        store(&self.grads.lam, 1, Sum::Lam);
        store(&self.grads.blend, 1, Sum::Lam);
        if let Some(to) = self.grads.ridge.as_ref().filter(|to| to.layout.rank == 1) {
            let each = (0..n).flat_map(|i| (0..heads).map(move |head| one(i, head, Sum::Scale as usize)));
            // SAFETY: the tensor has one value.
            unsafe { self.engine.kernels.common.set(to, &[0], each.sum::<f64>() as f32) };
        }
        let of_ridge = self.grads.ridge.as_ref().filter(|to| to.layout.rank == 2);
        if let Some(to) = self.grads.scale_bh.as_ref().or(of_ridge) {
            for (i, head) in (0..n).flat_map(|i| iter::repeat_n(i, heads).zip(0..heads)) {
                // SAFETY: the tensor has a value for each sequence and head.
                unsafe {
                    let scale = one(i, head, Sum::Scale as usize) as f32;
                    self.engine.kernels.common.set(to, &[i, head], scale);
                }
            }
        }
    }

    /// Gradients of the log gates of a query head, from those of their running sums.
    ///
    /// No pair of a query and an earlier key that it sees has a gate of `−inf` between them, so that such a gate has no
    /// gradient and those on its two sides have nothing to do with each other. The first gate is between no pair.
    ///
    /// # Safety
    /// `sums` has one for each key.
    pub unsafe fn store_gates(&self, s: &Sequence, head: usize, sums: *const f64) {
        let (Some(g), Some(to)) = (&self.call.g, &self.grads.g) else { return };
        let mut sum = 0.0;
        for key in (0..s.n_k).rev() {
            let at = [s.batch, head, s.k0 + key];
            // SAFETY: gates and their gradients are `[B, H, S]`.
            unsafe {
                sum += *sums.add(key);
                if key == 0 || self.engine.kernels.common.value(g, &at) == f32::NEG_INFINITY {
                    sum = 0.0;
                }
                self.engine.kernels.common.set(to, &at, sum as f32);
            }
        }
    }
}
