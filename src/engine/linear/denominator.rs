//! Denominators of a chunk, guarded (`docs/spec/random_features.md` 1, "Denominator policy").
//!
//! `d = φ(q)·z`, ε in the scale of unshifted features: where a map takes a factor out of a query's features
//! (`shift.rs`), ε takes it too, which is right for every mode since all are homogeneous in `d` and ε.

use super::Unit;
use super::features::FeatureMap;
use super::prepare::{Chunk, Prepared};
use super::recurrence::Normaliser;
use crate::CHUNK;
use crate::kernel::denominator;
use std::ptr;

/// How a denominator is guarded. NaN stays NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenominatorMode {
    /// `d + ε`.
    Add,
    /// `d + S ε`, `S` the keys of the sequence in this call.
    AddMean,
    /// `max(d, ε)`.
    Clamp,
    /// `max(|d|, ε)`.
    AbsClamp,
    /// `sign(d) max(|d|, ε)`, `sign(0) = 1`.
    SignedClamp,
    /// `d + 2ε` where `|d| ≤ ε`.
    AddIfSmall,
}

impl DenominatorMode {
    /// Whether ε is the least that there is.
    pub fn clamps(self) -> bool {
        matches!(self, DenominatorMode::Clamp | DenominatorMode::AbsClamp | DenominatorMode::SignedClamp)
    }

    /// The guarded denominator of a row.
    fn guard(self, d: f32, eps: f32) -> f32 {
        // Not `max`, which would hide a NaN.
        let at_least = |x: f32| if x < eps { eps } else { x };
        match self {
            DenominatorMode::Add | DenominatorMode::AddMean => d + eps,
            DenominatorMode::Clamp => at_least(d),
            DenominatorMode::AbsClamp => at_least(d.abs()),
            DenominatorMode::SignedClamp if d < 0.0 => -at_least(-d),
            DenominatorMode::SignedClamp => at_least(d),
            DenominatorMode::AddIfSmall if d.abs() <= eps => d + 2.0 * eps,
            DenominatorMode::AddIfSmall => d,
        }
    }
}

/// `1 / d`, and 0 for 0: where no key is visible, or no feature is shared with one, the output is 0.
fn reciprocal(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

impl Unit<'_> {
    /// Reciprocal denominators of a chunk's queries, and what its keys add to the normaliser.
    pub fn denominators(&self, p: &Prepared, chunk: &Chunk) {
        let g = self.geometry();
        let args = denominator::Args {
            n: chunk.n,
            d: g.m,
            ld: g.ldm,
            q: p.q,
            n_sets: if chunk.read { g.n_sets } else { 0 },
            a: if chunk.write { p.a } else { ptr::null() },
            den: p.inv_den,
            k: if chunk.write { p.k } else { ptr::null() },
            end: if self.decays() { p.end } else { ptr::null() },
            z: self.carried(g.at.z),
        };
        // SAFETY: buffers have the extents that `Offsets` names; padding of `q`, `k`, `z` is zero.
        unsafe { (self.tiles().denominator)(&args) }
        let Normaliser::Denominator { mode, eps } = self.recurrence().normaliser else { return };
        let mean = mode == DenominatorMode::AddMean;
        let eps = if mean { eps * self.sequence.n_k as f32 } else { eps };
        for i in (0..args.n_sets * CHUNK).filter(|i| i % CHUNK < chunk.n) {
            // SAFETY: `inv_den` is [sets, 16].
            unsafe {
                let den = p.inv_den.add(i);
                *den = reciprocal(mode.guard(*den, self.epsilon(eps, i)));
            }
        }
    }

    /// `eps` in the scale of row `i` of the sets of queries whose features were made last.
    pub fn epsilon(&self, eps: f32, i: usize) -> f32 {
        // The factor overflows where all scores are tiny: 0 stays 0.
        if self.recurrence().features.map != FeatureMap::Exp || eps == 0.0 {
            return eps;
        }
        // SAFETY: `eps_factor` is [sets, 16].
        eps * unsafe { *self.buffer(self.geometry().at.eps_factor + i) }
    }
}
