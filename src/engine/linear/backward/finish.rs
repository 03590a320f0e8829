//! The end of a chunk in reverse, when all panels are summed: from gradients of what forward prepared to those of
//! what the caller gave.

use super::panel::scale_rows;
use super::{Reverse, Sum};
use crate::CHUNK;
use crate::engine::linear::denominator::DenominatorMode;
use crate::engine::linear::features::{FeatureMap, Operand, Side};
use crate::engine::linear::prepare::{Chunk, Prepared};
use crate::engine::linear::recurrence::{Correction, Decay, Gain, Normaliser};
use crate::engine::linear::tiles::Rows;
use crate::kernel::{products, scores_grad};
use crate::tensor::Tensor;
use std::ptr;

/// A row of 16 numbers, one per token.
type PerToken = [f32; CHUNK];

impl Reverse<'_> {
    /// Chunk `c`, which may be the last of its block.
    pub fn finish(&self, c: usize, last: bool, chunk: &Chunk) {
        let (g, at, unit) = (self.unit.geometry(), self.at(), &self.unit);
        let p = unit.prepared(c);
        let (rows, writes) = (CHUNK * g.ldm, unit.recurrence().writes());
        // SAFETY: buffers have the extents that `Offsets` names.
        unsafe {
            let ordered = chunk.read && chunk.write;
            if let Some(early) = self.early(ordered) {
                self.load_early(early, chunk);
            }
            for set in 0..if chunk.read && self.early(ordered).is_none() { g.n_sets } else { 0 } {
                let sum = self.buffer(at.dq + (c * g.n_sets + set) * rows);
                self.rows_of(sum, self.buffer(at.dq_rows + set * rows));
            }
            // Rows of second writes come after those of the keys that exist.
            for which in 0..if chunk.write { writes } else { 0 } {
                let to = self.buffer(at.dk_rows + which * chunk.n * g.ldm);
                self.rows_of(self.buffer(at.dk + (c * writes + which) * rows), to);
            }
            if unit.recurrence().corrects() {
                self.rows_of(self.buffer(at.de + c * rows), self.buffer(at.de_rows));
            }
            // The features again, this time without decay.
            let (q, k, erase) = (self.buffer(at.q), self.buffer(at.k), self.buffer(at.erase));
            let plain = Prepared { q, k, erase, ..p };
            unit.load_features(&plain, chunk);
            self.shifted_features(c, &plain, chunk);
            let ends = ordered && self.wants_decay();
            if ends {
                self.sum_end(c, last);
            }
            if unit.recurrence().has_denominator() {
                self.denominators(c, last, chunk);
            }
            if ends {
                self.end_before(c, chunk);
            }
            self.keep_keys(chunk, plain.k);
            let mut gain: PerToken = std::slice::from_raw_parts(self.buffer(at.dgain + c * CHUNK), CHUNK)
                .try_into()
                .unwrap_or_default();
            if chunk.write {
                let alpha = unit.load_gates(&plain, chunk);
                unit.load_correction(&plain, chunk);
                if chunk.read {
                    // Beside a shift those of tokens are in a row of their own.
                    let factors = if self.shifts() { self.buffer(g.at.row) } else { alpha };
                    let da = self.factors(c, chunk, factors);
                    self.through_scores(c, chunk, alpha);
                    let convex = self.convex(chunk);
                    if self.by_factor() {
                        self.store_factors(chunk, &da, &convex);
                    } else {
                        self.gates(chunk, &p, factors, &convex, &mut gain);
                    }
                }
                match unit.recurrence().correction {
                    Correction::None => {}
                    Correction::Delta => self.erase_rows(chunk, &p, &mut gain),
                    Correction::Erase => self.erase_gates(chunk),
                    Correction::TwoWrites => self.second_writes(chunk),
                }
                self.add_bonus();
                self.store_gain(chunk, &p, &gain);
            }
            self.store_rows(chunk);
        }
    }

    /// From `[channels, 16]` to rows, with zeros past the last channel.
    ///
    /// # Safety
    /// `by_channel` is `[ldm, 16]`, of which `m` rows are set, `rows` `[16, ldm]`.
    pub unsafe fn rows_of(&self, by_channel: *const f32, rows: *mut f32) {
        let g = self.unit.geometry();
        // SAFETY: the caller's contract.
        unsafe { self.to_rows(by_channel, Operand { y: rows, ld: g.ldm, width: g.m }) }
    }

    /// The normaliser as one more value column, of values 1: its part of every gradient that is summed by now.
    unsafe fn denominators(&self, c: usize, last: bool, chunk: &Chunk) {
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
                if self.wants_decay() && (last || !self.ends_follow()) {
                    let after =
                        if last { self.unit.carried(g.at.z) } else { self.buffer(at.z + (c + 1) * g.ldm) };
                    let z1 = if self.by_factor() { &*z0 } else { &*row(after) };
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
                let eps = self.unit.epsilon(eps, set * CHUNK + i);
                let clamped = mode.clamps() && inverse.abs() == 1.0 / eps;
                *dn = if clamped { 0.0 } else { -inverse * *dn };
                if mode == DenominatorMode::AbsClamp && self.denominator(c, set, i, chunk) < 0.0 {
                    *dn = -*dn;
                }
            }
        }
        dn
    }

    /// The denominator of one query, which is not clamped: its sign counts.
    unsafe fn denominator(&self, c: usize, set: usize, i: usize, chunk: &Chunk) -> f32 {
        let (g, p) = (self.unit.geometry(), self.unit.prepared(c));
        let token = set * CHUNK + i;
        // SAFETY: buffers have the extents that `Offsets` names; padding of the queries is zero.
        unsafe {
            let row = |p: *const f32, n: usize| std::slice::from_raw_parts(p, n);
            let z = row(self.buffer(self.at().z + c * g.ldm), g.ldm);
            let q = row(p.q.add(token * g.ldm), g.ldm);
            let inside = row(p.a.add(token * CHUNK), if chunk.write { i + 1 } else { 0 });
            q.iter().zip(z).map(|(q, z)| q * z).chain(inside.iter().copied()).sum()
        }
    }

    /// Scores and decay factors.
    unsafe fn through_scores(&self, c: usize, chunk: &Chunk, alpha: *const f32) {
        let (g, at, unit) = (self.unit.geometry(), self.at(), &self.unit);
        let p = unit.prepared(c);
        let (correction, writes) = (unit.recurrence().correction, unit.recurrence().writes());
        let (erase_row, bonus) = (self.buffer(at.token), unit.recurrence().bonus);
        let wanted = |on: bool, p: usize| if on { self.buffer(p) } else { ptr::null_mut() };
        let own_rows = matches!(correction, Correction::Erase | Correction::TwoWrites);
        // SAFETY: buffers have the extents that `Offsets` names.
        unsafe {
            if correction == Correction::Delta {
                (0..chunk.n).for_each(|i| *erase_row.add(i) = -*p.gain.add(i));
            }
            (self.tiles().scores_grad)(&scores_grad::Args {
                n: chunk.n,
                d: g.m,
                ld: g.ldm,
                alpha,
                ld_alpha: g.ldm,
                by_channel: unit.recurrence().decay == Decay::Channel || self.shifts(),
                q: self.buffer(at.q),
                n_sets: g.n_sets,
                bonus: wanted(bonus, g.at.bonus),
                k: self.buffer(at.k),
                k_sets: writes,
                erase: wanted(own_rows, at.erase),
                erase_row,
                erase_pre: correction == Correction::TwoWrites,
                da: self.buffer(at.da + c * writes * g.n_sets * CHUNK * CHUNK),
                db: self.buffer(at.db + c * writes * CHUNK * CHUNK),
                dq: self.buffer(at.dq_rows),
                dk: self.buffer(at.dk_rows),
                de: wanted(unit.recurrence().corrects(), at.de_rows),
                dg: wanted(self.wants_decay(), at.dg_rows),
                dbonus: wanted(bonus, at.dbonus),
                end: self.buffer(at.end + c * g.ldm),
            });
        }
    }

    /// Gradients of the log decay to what it came from.
    unsafe fn gates(
        &self,
        chunk: &Chunk,
        p: &Prepared,
        factors: *const f32,
        convex: &PerToken,
        gain: &mut PerToken,
    ) {
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
            let sums = &mut sums[..chunk.n];
            self.convex_gates(sums, factors, convex);
            if unit.recurrence().decay == Decay::Head {
                self.add(Sum::Rate, sums.iter().map(|&x| f64::from(x)).sum());
            } else if unit.call.tensors.g.is_some() {
                if let Some(to) = &self.grads.g {
                    self.scatter(to, &from, sums);
                }
                if let Some(to) = &self.grads.decay {
                    // Read as `g` alone.
                    self.scatter(to, &from, &PerToken::default()[..chunk.n]);
                }
            } else {
                let rate = unit.tiles().value(&self.given(unit.call.tensors.decay_rate), &[unit.head]);
                for (i, &mut dg) in sums.iter_mut().enumerate() {
                    self.add(Sum::Rate, f64::from(*p.gain.add(i)) * f64::from(dg));
                    gain[i] += rate * dg;
                }
            }
        }
    }

    /// `e_i = −gain_i k_i`: from the erase rows to keys and gains.
    unsafe fn erase_rows(&self, chunk: &Chunk, p: &Prepared, gain: &mut PerToken) {
        let (g, at) = (self.unit.geometry(), self.at());
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

    /// `e_i = −erase_i ⊙ k_i`: to the caller's gates and to the keys.
    unsafe fn erase_gates(&self, chunk: &Chunk) {
        let (g, at, unit) = (self.unit.geometry(), self.at(), &self.unit);
        let from = [unit.sequence.batch, unit.head, chunk.k0];
        let (n, rows) = (chunk.n * g.ldm, self.buffer(at.raw));
        let tensor = self.given(unit.call.tensors.erase);
        // SAFETY: `erase` and its gradient are [B, Hs, T, D] (checked); buffers have the extents that `Offsets` names,
        // and `raw` is not in use.
        unsafe {
            let row = |p: *mut f32| std::slice::from_raw_parts_mut(p, n);
            let (k, dk, de) =
                (row(self.buffer(at.k)), row(self.buffer(at.dk_rows)), row(self.buffer(at.de_rows)));
            let gates = row(rows);
            unit.tiles().load(&Rows::tokens(&tensor, &from, (chunk.n, g.d)), -1.0, ptr::null(), rows, g.ldm);
            for i in 0..n {
                dk[i] += gates[i] * de[i];
                de[i] *= -k[i];
            }
            if let Some(to) = &self.grads.erase {
                unit.tiles().store(de.as_ptr(), g.ldm, &Rows::tokens(to, &from, (chunk.n, g.d)));
            }
        }
    }

    /// Erase rows and second writes are the caller's own.
    unsafe fn second_writes(&self, chunk: &Chunk) {
        let (g, at, unit) = (self.unit.geometry(), self.at(), &self.unit);
        let from = [unit.sequence.batch, unit.head, chunk.k0];
        let second = at.dk_rows + chunk.n * g.ldm;
        for (to, rows) in [(&self.grads.a, at.de_rows), (&self.grads.b, second)] {
            let Some(to) = to else { continue };
            // SAFETY: both gradients are [B, Hs, T, D] (checked); buffers have the extents that `Offsets` names.
            unsafe {
                unit.tiles().store(self.buffer(rows), g.ldm, &Rows::tokens(to, &from, (chunk.n, g.d)));
            }
        }
    }

    /// What the chunk gives to the gradient of the bonus.
    unsafe fn add_bonus(&self) {
        if !self.unit.recurrence().bonus {
            return;
        }
        let g = self.unit.geometry();
        // SAFETY: both have `ldm` elements; the sums are this unit's own.
        unsafe {
            let own = std::slice::from_raw_parts(self.buffer(self.at().dbonus), g.m);
            let sums = std::slice::from_raw_parts_mut(self.bonus, g.m);
            sums.iter_mut().zip(own).for_each(|(sum, &x)| *sum += f64::from(x));
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
                        self.scatter(to, &from, &gain[..n]);
                    }
                }
                Gain::StepSize => {
                    if let Some(to) = &grads.dt {
                        self.scatter(to, &from, &gain[..n]);
                    }
                    // The slope of the softplus is 1 − e^{−Δ}; where `dt` is given, the others are not read.
                    let read = self.unit.call.tensors.dt.is_none();
                    let raw: PerToken = std::array::from_fn(|i| {
                        if read && i < n { gain[i] * -(-*p.gain.add(i)).exp_m1() } else { 0.0 }
                    });
                    if let Some(to) = &grads.dt_raw {
                        self.scatter(to, &from, &raw[..n]);
                    }
                    self.add(Sum::Bias, raw.iter().map(|&x| f64::from(x)).sum());
                }
            }
        }
    }

    /// Queries and keys through their features to the caller.
    unsafe fn store_rows(&self, chunk: &Chunk) {
        let (g, at, unit) = (self.unit.geometry(), self.at(), &self.unit);
        let heads = &unit.engine.heads;
        // SAFETY: gradients have the shapes of `q` and `k` (checked); buffers those that `Offsets` names.
        unsafe {
            if let FeatureMap::Gated { eps } = unit.recurrence().features.map {
                return self.gated_backward(chunk, eps);
            }
            for set in 0..if chunk.read { g.n_sets } else { 0 } {
                let rows = self.buffer(at.dq_rows + set * CHUNK * g.ldm);
                let first = self.first_user(unit.output_head(set), heads.out, heads.q);
                self.store_side(&unit.source(Side::Query(set), chunk), rows, &self.grads.q, first);
            }
            if chunk.write {
                let first = self.first_user(unit.head, heads.state, heads.k);
                let source = unit.source(Side::Key, chunk);
                self.store_side(&source, self.buffer(at.dk_rows), &self.grads.k, first);
            }
        }
    }

    /// Values to consecutive tokens of a tensor `[B, H, T]`.
    ///
    /// # Safety
    /// The tensor has these elements, and no other task touches them.
    unsafe fn scatter(&self, to: &Tensor, at: &[usize], values: &[f32]) {
        // SAFETY: the caller's contract.
        unsafe { self.unit.tiles().scatter(values.as_ptr(), to, at, 2, values.len()) }
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
