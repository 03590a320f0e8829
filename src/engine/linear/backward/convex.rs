//! Keys that take `1 − a` of the decay `a`, in reverse (`docs/spec/random_features.md` 4).
//!
//! ```text
//! k̃ = (1 − a) k      dk = (1 − a) dk̃      d(1 − a) = k·dk̃      dg = (dg of the decay) − a k·dk̃
//! ```
//!
//! A gate that is given as `a` may be tiny or 0, where `dg/a` would be noise. What a chunk computes is linear in each
//! of its factors: with `G_ij = dA_ij q_i·k̃_j`, one column more for the state before the chunk (`q_i·dq_i`) and one
//! row more for that after it (`k̃_j·dk̃_j`, and `S0 ∘ dS` where they cross),
//!
//! ```text
//! da_t = Σ_{j < t ≤ i} G_ij Π_{j < m ≤ i, m ≠ t} a_m  −  k_t·dk̃_t
//! ```

use super::Reverse;
use super::features::dot;
use super::panel::scale_rows;
use crate::CHUNK;
use crate::engine::linear::prepare::Chunk;
use crate::kernel::products;
use std::ptr;

impl Reverse<'_> {
    /// Keeps a chunk's keys as they are before they take their gain, where that or their map asks for them.
    ///
    /// # Safety
    /// `k` is `[16, ldm]`.
    pub unsafe fn keep_keys(&self, chunk: &Chunk, k: *const f32) {
        if (self.unit.recurrence().convex || self.shifts()) && chunk.write {
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

    /// Adds the part of the gains to gradients of the log decay.
    ///
    /// # Safety
    /// `factors` has those of the chunk's tokens.
    pub unsafe fn convex_gates(&self, sums: &mut [f32], factors: *const f32, dgain: &[f32; CHUNK]) {
        if self.unit.recurrence().convex {
            for (i, (sum, dgain)) in sums.iter_mut().zip(dgain).enumerate() {
                // SAFETY: the caller's contract.
                let a = unsafe { *factors.add(i) };
                *sum = if a == 0.0 { 0.0 } else { *sum - a * dgain };
            }
        }
    }

    /// Whether gates are given as factors, whose gradients take the state before a chunk in place of that after it.
    pub fn by_factor(&self) -> bool {
        self.unit.recurrence().convex && self.unit.call.tensors.g.is_none()
    }

    /// Gradients of the factors as decays, while gradients of rows are those of rows with their factors.
    ///
    /// # Safety
    /// `alpha` has the factors of the tokens of chunk `c`; its rows and their gradients are there.
    pub unsafe fn factors(&self, c: usize, chunk: &Chunk, alpha: *const f32) -> [f32; CHUNK] {
        let (g, at, n) = (self.unit.geometry(), self.at(), chunk.n);
        let mut da = [0.0; CHUNK];
        if !self.by_factor() || self.grads.decay.is_none() {
            return da;
        }
        // Row `n` is the state after the chunk, column 0 that before it.
        let mut crossing = [[0.0f64; CHUNK + 1]; CHUNK + 1];
        // SAFETY: buffers have the extents that `Offsets` names, with zeros past the features.
        unsafe {
            let row = |p: *const f32, i: usize| std::slice::from_raw_parts(p.add(i * g.ldm), g.ldm);
            let k = self.buffer(at.k);
            let inflow = self.inflow(c);
            for set in 0..g.n_sets {
                let (q, dq) = (set * CHUNK * g.ldm + at.q, set * CHUNK * g.ldm + at.dq_rows);
                let scores = self.buffer(at.da + (c * g.n_sets + set) * CHUNK * CHUNK);
                for (i, crossing) in crossing[..n].iter_mut().enumerate() {
                    let q = row(self.buffer(q), i);
                    let dq = row(self.buffer(dq), i);
                    crossing[0] += match inflow {
                        None => f64::from(dot(q, dq)),
                        Some(by) => {
                            q.iter().zip(dq).zip(by).map(|((q, dq), by)| f64::from(q * dq * by)).sum()
                        }
                    };
                    for j in 0..=i {
                        let score = f64::from(*scores.add(i * CHUNK + j));
                        crossing[j + 1] += score * f64::from(dot(q, row(k, j)));
                    }
                }
            }
            let end = row(self.buffer(at.end), c).iter();
            crossing[n][0] = match inflow {
                None => end.map(|&x| f64::from(x)).sum(),
                Some(by) => end.zip(by).map(|(x, by)| f64::from(x * by)).sum(),
            };
            for j in 0..n {
                crossing[n][j + 1] = f64::from(dot(row(k, j), row(self.buffer(at.dk_rows), j)));
            }
            // Of each row, the sum over what is before token `t`.
            let mut before = [0.0f64; CHUNK + 1];
            for (t, da) in da[..n].iter_mut().enumerate() {
                let last = if t == 0 { 0.0 } else { f64::from(*alpha.add(t - 1)) };
                let (mut sum, mut after) = (0.0, 1.0);
                for i in t..=n {
                    before[i] = before[i] * last + crossing[i][t];
                    if i > t && i < n {
                        after *= f64::from(*alpha.add(i));
                    }
                    sum += before[i] * after;
                }
                *da = sum as f32;
            }
        }
        da
    }

    /// Stores the gradients of factors.
    ///
    /// # Safety
    /// As `factors`.
    pub unsafe fn store_factors(&self, chunk: &Chunk, da: &[f32; CHUNK], dgain: &[f32; CHUNK]) {
        let Some(to) = &self.grads.decay else { return };
        let at = [self.unit.sequence.batch, self.unit.head, chunk.k0];
        let sums: [f32; CHUNK] = std::array::from_fn(|i| da[i] - dgain[i]);
        // SAFETY: gates are [B, Hs, T] (checked), and so are their gradients.
        unsafe { self.unit.tiles().scatter(sums.as_ptr(), to, &at, 2, chunk.n) }
    }
}
