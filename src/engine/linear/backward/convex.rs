//! Keys that take `1 − a` of the decay `a`, in reverse (`docs/spec/random_features.md` 4).
//!
//! ```text
//! k̃ = (1 − a) k      dk = (1 − a) dk̃      d(1 − a) = k·dk̃      dg = (dg of the decay) − a k·dk̃      da = dg/a
//! ```
//!
//! Where `a = 0` its decay has no gradient here, as in [`scores_grad`](crate::kernel): what `a` is made of by a
//! sigmoid has none there either.

use super::Reverse;
use super::panel::scale_rows;
use crate::CHUNK;
use crate::engine::linear::prepare::Chunk;
use crate::kernel::products;
use std::ptr;

impl Reverse<'_> {
    /// Keeps a chunk's keys as they are before they take their gain.
    ///
    /// # Safety
    /// `k` is `[16, ldm]`.
    pub unsafe fn keep_keys(&self, chunk: &Chunk, k: *const f32) {
        if self.unit.recurrence().convex && chunk.write {
            let ldm = self.unit.geometry().ldm;
            // SAFETY: the caller's contract; `unit` is [16, ldm] and free before the features' turn.
            unsafe { ptr::copy_nonoverlapping(k, self.buffer(self.at().unit), chunk.n * ldm) }
        }
    }

    /// From gradients of keys with their gain to those without, with the gradients of the gains.
    ///
    /// # Safety
    /// `dk_rows` holds the former, `keep_keys` came before.
    pub unsafe fn convex(&self, chunk: &Chunk) -> [f32; CHUNK] {
        let (g, at, unit) = (self.unit.geometry(), self.at(), &self.unit);
        let mut dgain = [0.0; CHUNK];
        if !unit.recurrence().convex {
            return dgain;
        }
        let dk = self.buffer(at.dk_rows);
        let from = |i| [unit.sequence.batch, unit.head, chunk.k0 + i];
        // SAFETY: gates are [B, Hs, T] (checked); buffers have the extents that `Offsets` names.
        unsafe {
            (self.tiles().products)(&products::Args {
                n: chunk.n,
                d: g.m,
                a: self.buffer(at.unit),
                lda: g.ldm,
                b: dk,
                ldb: g.ldm,
                row: dgain.as_mut_ptr(),
                col: ptr::null_mut(),
            });
            scale_rows(dk, chunk.n, g.ldm, |i| match &unit.call.tensors.g {
                Some(rate) => -unit.tiles().value(rate, &from(i)).exp_m1(),
                None => 1.0 - unit.tiles().value(&self.given(unit.call.tensors.decay), &from(i)),
            });
        }
        dgain
    }

    /// From gradients of the log decay, those of the gains apart, to those of what decays are given as.
    ///
    /// # Safety
    /// `alpha` has the factors of the chunk.
    pub unsafe fn convex_gates(&self, sums: &mut [f32], alpha: *const f32, dgain: &[f32; CHUNK]) {
        if !self.unit.recurrence().convex {
            return;
        }
        let log = self.unit.call.tensors.g.is_some();
        for (i, (sum, dgain)) in sums.iter_mut().zip(dgain).enumerate() {
            // SAFETY: the caller's contract.
            let a = unsafe { *alpha.add(i) };
            *sum = match (log, a == 0.0) {
                (true, false) => *sum - a * dgain,
                (true, true) => 0.0,
                (false, false) => *sum / a - dgain,
                (false, true) => -dgain,
            };
        }
    }
}
