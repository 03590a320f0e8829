//! The end of a chunk in reverse, when all panels are summed: from gradients of what forward prepared to those of
//! what the caller gave.

use super::panel::scale_rows;
use super::{Reverse, Sum};
use crate::CHUNK;
use crate::engine::linear::denominator::DenominatorMode;
use crate::engine::linear::prepare::{Chunk, Prepared};
use crate::engine::linear::recurrence::{Decay, Gain, Normaliser};
use crate::engine::linear::tiles::Rows;
use crate::kernel::{products, scores_grad};
use crate::tensor::Tensor;
use std::ptr;

/// A row of 16 numbers, one per token.
type PerToken = [f32; CHUNK];

impl Reverse<'_> {
    /// Chunk `c` of `filled`.
    pub fn finish(&self, c: usize, filled: usize, chunk: &Chunk) {
        let (g, at, unit) = (self.unit.geometry(), self.at(), &self.unit);
        let p = unit.prepared(c);
        let rows = CHUNK * g.ldm;
        // SAFETY: buffers have the extents that `Offsets` names.
        unsafe {
            for set in 0..if chunk.read { g.n_sets } else { 0 } {
                let sum = self.buffer(at.dq + (c * g.n_sets + set) * rows);
                self.rows_of(sum, self.buffer(at.dq_rows + set * rows));
            }
            if chunk.write {
                self.rows_of(self.buffer(at.dk + c * rows), self.buffer(at.dk_rows));
            }
            if unit.recurrence().corrects() {
                self.rows_of(self.buffer(at.de + c * rows), self.buffer(at.de_rows));
            }
            if unit.recurrence().has_denominator() {
                self.denominators(c, filled, chunk);
            }
            // The features again, this time without decay.
            let plain = Prepared { q: self.buffer(at.q), k: self.buffer(at.k), ..p };
            unit.load_features(&plain, chunk);
            let mut gain: PerToken = std::slice::from_raw_parts(self.buffer(at.dgain + c * CHUNK), CHUNK)
                .try_into()
                .unwrap_or_default();
            if chunk.write {
                let alpha = unit.load_gates(&plain, chunk);
                if chunk.read {
                    self.through_scores(c, chunk, alpha);
                    self.gates(chunk, &p, &mut gain);
                }
                self.erase_rows(chunk, &p, &mut gain);
                self.store_gain(chunk, &p, &gain);
            }
            self.store_rows(chunk);
        }
    }

    /// From `[channels, 16]` to rows, with zeros past the last channel.
    unsafe fn rows_of(&self, by_channel: *const f32, rows: *mut f32) {
        let (g, tile) = (self.unit.geometry(), self.buffer(self.at().tile));
        for first in (0..g.ldm).step_by(CHUNK) {
            // SAFETY: `by_channel` is [ldm, 16], of which `m` rows are set, `rows` [16, ldm].
            unsafe {
                let n = CHUNK.min(g.m - first.min(g.m));
                self.unit.tiles().transpose(by_channel.add(first * CHUNK), (n, CHUNK), CHUNK, tile);
                for i in 0..CHUNK {
                    ptr::copy_nonoverlapping(tile.add(i * CHUNK), rows.add(i * g.ldm + first), CHUNK);
                }
            }
        }
    }

    /// The normaliser as one more value column, of values 1: its part of every gradient that is summed by now.
    unsafe fn denominators(&self, c: usize, filled: usize, chunk: &Chunk) {
        let (g, at, unit) = (self.unit.geometry(), self.at(), &self.unit);
        let p = unit.prepared(c);
        // SAFETY: buffers have the extents that `Offsets` names; those that are written overlap no other.
        unsafe {
            let row = |p: *mut f32| std::slice::from_raw_parts_mut(p, g.ldm);
            let z0 = row(self.buffer(at.z + c * g.ldm));
            let dz = row(self.buffer(at.dz));
            if chunk.write {
                for j in 0..chunk.n {
                    add_scaled(row(self.buffer(at.dk_rows + j * g.ldm)), 1.0, dz);
                }
                if self.wants_decay() {
                    let last = c + 1 == filled;
                    let z1 = row(if last {
                        self.unit.carried(g.at.z)
                    } else {
                        self.buffer(at.z + (c + 1) * g.ldm)
                    });
                    let end = row(self.buffer(at.end + c * g.ldm));
                    (0..g.ldm).for_each(|c| end[c] += z1[c] * dz[c]);
                }
                if unit.decays() {
                    dz.iter_mut().zip(row(p.end)).for_each(|(dz, end)| *dz *= *end);
                }
            }
            for set in 0..if chunk.read { g.n_sets } else { 0 } {
                let dn = self.denominator_gradient(c, set, chunk);
                for (i, &dn) in dn.iter().enumerate().take(chunk.n) {
                    let token = set * CHUNK + i;
                    add_scaled(row(self.buffer(at.dq_rows + token * g.ldm)), dn, z0);
                    add_scaled(dz, dn, row(p.q.add(token * g.ldm)));
                    let da = self.buffer(at.da + (c * g.n_sets * CHUNK + token) * CHUNK);
                    for j in 0..if chunk.write { i + 1 } else { 0 } {
                        *da.add(j) += dn;
                    }
                }
            }
        }
    }

    /// `dn = −(y·dy)/n`, where `y·dy` is `q·dq` of the value columns alone, `y` being linear in `q`.
    unsafe fn denominator_gradient(&self, c: usize, set: usize, chunk: &Chunk) -> PerToken {
        let (g, at) = (self.unit.geometry(), self.at());
        let p = self.unit.prepared(c);
        let Normaliser::Denominator { mode, eps } = self.unit.recurrence().normaliser else {
            return PerToken::default();
        };
        let mut dn = PerToken::default();
        // SAFETY: buffers have the extents that `Offsets` names; padding of the queries is zero.
        unsafe {
            (self.tiles().products)(&products::Args {
                n: chunk.n,
                d: g.m,
                a: p.q.add(set * CHUNK * g.ldm),
                lda: g.ldm,
                b: self.buffer(at.dq_rows + set * CHUNK * g.ldm),
                ldb: g.ldm,
                row: dn.as_mut_ptr(),
                col: ptr::null_mut(),
            });
            for (i, dn) in dn.iter_mut().enumerate().take(chunk.n) {
                let score = (set * CHUNK + i) * CHUNK;
                let da = self.buffer(at.da + c * g.n_sets * CHUNK * CHUNK + score);
                for j in 0..if chunk.write { i + 1 } else { 0 } {
                    *dn += *p.a.add(score + j) * *da.add(j);
                }
                let inverse = *p.inv_den.add(set * CHUNK + i);
                let clamps = matches!(mode, DenominatorMode::Clamp | DenominatorMode::SignedClamp);
                let clamped = clamps && inverse.abs() == 1.0 / eps;
                *dn = if clamped { 0.0 } else { -inverse * *dn };
            }
        }
        dn
    }

    /// Scores and decay factors.
    unsafe fn through_scores(&self, c: usize, chunk: &Chunk, alpha: *const f32) {
        let (g, at, unit) = (self.unit.geometry(), self.at(), &self.unit);
        let p = unit.prepared(c);
        let corrects = unit.recurrence().corrects();
        let erase_row = self.buffer(at.token);
        // SAFETY: buffers have the extents that `Offsets` names.
        unsafe {
            if corrects {
                (0..chunk.n).for_each(|i| *erase_row.add(i) = -*p.gain.add(i));
            }
            (self.tiles().scores_grad)(&scores_grad::Args {
                n: chunk.n,
                d: g.m,
                ld: g.ldm,
                alpha,
                ld_alpha: g.ldm,
                by_channel: unit.recurrence().decay == Decay::Channel,
                q: self.buffer(at.q),
                n_sets: g.n_sets,
                k: self.buffer(at.k),
                erase_row,
                da: self.buffer(at.da + c * g.n_sets * CHUNK * CHUNK),
                db: self.buffer(at.db + c * CHUNK * CHUNK),
                dq: self.buffer(at.dq_rows),
                dk: self.buffer(at.dk_rows),
                de: if corrects { self.buffer(at.de_rows) } else { ptr::null_mut() },
                dg: if self.wants_decay() { self.buffer(at.dg_rows) } else { ptr::null_mut() },
                end: self.buffer(at.end + c * g.ldm),
            });
        }
    }

    /// Gradients of the log decay to what it came from.
    unsafe fn gates(&self, chunk: &Chunk, p: &Prepared, gain: &mut PerToken) {
        let (g, unit) = (self.unit.geometry(), &self.unit);
        let dg = self.buffer(self.at().dg_rows);
        if !self.wants_decay() {
            return;
        }
        let from = [unit.sequence.batch, unit.head, chunk.k0];
        // SAFETY: gates are [B, Hs, T] or [B, Hs, T, D], rates [Hs] (checked), and so are their gradients.
        unsafe {
            if unit.recurrence().decay == Decay::Channel {
                if let Some(to) = &self.grads.g {
                    unit.tiles().store(dg, g.ldm, &Rows::tokens(to, &from, (chunk.n, g.d)));
                }
                return;
            }
            let mut sums = PerToken::default();
            (self.tiles().products)(&products::Args {
                n: chunk.n,
                d: g.m,
                a: dg,
                lda: g.ldm,
                b: ptr::null(),
                ldb: 0,
                row: sums.as_mut_ptr(),
                col: ptr::null_mut(),
            });
            let sums = &sums[..chunk.n];
            if unit.recurrence().decay == Decay::Head {
                self.add(Sum::Rate, sums.iter().map(|&x| f64::from(x)).sum());
            } else if unit.call.tensors.g.is_some() {
                if let Some(to) = &self.grads.g {
                    scatter(to, &from, sums);
                }
            } else {
                let rate = unit.tiles().value(&self.given(unit.call.tensors.decay_rate), &[unit.head]);
                for (i, &dg) in sums.iter().enumerate() {
                    self.add(Sum::Rate, f64::from(*p.gain.add(i)) * f64::from(dg));
                    gain[i] += rate * dg;
                }
            }
        }
    }

    /// `e_i = −gain_i k_i`: from the erase rows to keys and gains.
    unsafe fn erase_rows(&self, chunk: &Chunk, p: &Prepared, gain: &mut PerToken) {
        let (g, at) = (self.unit.geometry(), self.at());
        if !self.unit.recurrence().corrects() {
            return;
        }
        let mut dots = PerToken::default();
        // SAFETY: buffers have the extents that `Offsets` names; padding of the keys is zero.
        unsafe {
            let (k, dk, de) = (self.buffer(at.k), self.buffer(at.dk_rows), self.buffer(at.de_rows));
            (self.tiles().products)(&products::Args {
                n: chunk.n,
                d: g.m,
                a: k,
                lda: g.ldm,
                b: de,
                ldb: g.ldm,
                row: dots.as_mut_ptr(),
                col: ptr::null_mut(),
            });
            for i in 0..chunk.n {
                gain[i] -= dots[i];
                let row = |p: *mut f32| std::slice::from_raw_parts_mut(p.add(i * g.ldm), g.ldm);
                add_scaled(row(dk), -*p.gain.add(i), row(de));
            }
        }
    }

    /// Stores the gradients of the gains, or of what made them.
    unsafe fn store_gain(&self, chunk: &Chunk, p: &Prepared, gain: &PerToken) {
        let from = [self.unit.sequence.batch, self.unit.head, chunk.k0];
        let n = chunk.n;
        let grads = self.grads;
        // SAFETY: gains are [B, Hs, T] (checked), and so are their gradients.
        unsafe {
            match self.unit.recurrence().gain {
                Gain::None | Gain::Write => {}
                Gain::Beta => {
                    if let Some(to) = &grads.beta {
                        scatter(to, &from, &gain[..n]);
                    }
                }
                Gain::StepSize => {
                    if let Some(to) = &grads.dt {
                        scatter(to, &from, &gain[..n]);
                    }
                    // The slope of the softplus is 1 − e^{−Δ}; where `dt` is given, the others are not read.
                    let read = self.unit.call.tensors.dt.is_none();
                    let raw: PerToken = std::array::from_fn(|i| {
                        if read && i < n { gain[i] * -(-*p.gain.add(i)).exp_m1() } else { 0.0 }
                    });
                    if let Some(to) = &grads.dt_raw {
                        scatter(to, &from, &raw[..n]);
                    }
                    self.add(Sum::Bias, raw.iter().map(|&x| f64::from(x)).sum());
                }
            }
        }
    }

    /// Queries and keys through their features to the caller.
    unsafe fn store_rows(&self, chunk: &Chunk) {
        let (g, at, unit) = (self.unit.geometry(), self.at(), &self.unit);
        let (heads, s) = (&unit.engine.heads, &unit.sequence);
        let shape = (chunk.n, g.d);
        // SAFETY: gradients have the shapes of `q` and `k` (checked); buffers those that `Offsets` names.
        unsafe {
            if let (true, Some(dq)) = (chunk.read, &self.grads.q) {
                for set in 0..g.n_sets {
                    let rows = self.buffer(at.dq_rows + set * CHUNK * g.ldm);
                    let from = [s.batch, unit.query_head(set), chunk.q0];
                    let scale = unit.recurrence().scale;
                    self.features_backward(&self.given(unit.call.tensors.q), &from, chunk.n, rows, scale);
                    let first = self.first_user(unit.output_head(set), heads.out, heads.q);
                    self.store_sum(rows, g.ldm, dq, &from, shape, first);
                }
            }
            if let (true, Some(dk)) = (chunk.write, &self.grads.k) {
                let rows = self.buffer(at.dk_rows);
                let from = [s.batch, unit.shared_head(heads.k), chunk.k0];
                self.features_backward(&self.given(unit.call.tensors.k), &from, chunk.n, rows, 1.0);
                let first = self.first_user(unit.head, heads.state, heads.k);
                self.store_sum(rows, g.ldm, dk, &from, shape, first);
            }
        }
    }

    /// Multiplies rows of gradients by a factor for all.
    ///
    /// # Safety
    /// `rows` is `[n, ldm]`.
    pub unsafe fn scale(&self, rows: *mut f32, n: usize, factor: f32) {
        if factor != 1.0 {
            // SAFETY: the caller's rows are [n, ldm].
            unsafe { scale_rows(rows, n, self.unit.geometry().ldm, |_| factor) }
        }
    }
}

/// `row += factor · x`.
pub fn add_scaled(row: &mut [f32], factor: f32, x: &[f32]) {
    row.iter_mut().zip(x).for_each(|(row, x)| *row += factor * x);
}

/// Values to consecutive tokens of a tensor `[B, H, T]`.
///
/// # Safety
/// The tensor has these elements, and no other task touches them.
unsafe fn scatter(to: &Tensor, at: &[usize], values: &[f32]) {
    let (dst, stride) = (to.f32_at(at), to.stride(2));
    for (i, &value) in values.iter().enumerate() {
        // SAFETY: the caller's contract.
        unsafe { *dst.offset(i as isize * stride) = value };
    }
}
