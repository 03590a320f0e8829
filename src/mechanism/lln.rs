//! Linear log-normal attention (`docs/spec/random_features.md` 9).
//!
//! ```text
//! φ(q) = e^{αq}      φ(k) = e^{βk}      o = φ(q)ᵀ Σ φ(k) vᵀ / (φ(q)·Σ φ(k) + ε)
//! ```
//!
//! `α` and `β` are constants, from moment matching for example; ε is in the scale of the features as written.
//!
//! Nahshan et al., *Linear Log-Normal Attention with Unbiased Concentration*, arXiv 2311.13541.

use super::Entry;
use super::common::denominator;
use crate::engine::Settings;
use crate::engine::linear::{FeatureMap, Features, Recurrence};
use crate::error::Result;
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "lln", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    let row_scale = [params.real("x_scale_q")? as f32, params.real("x_scale_k")? as f32];
    Ok(Settings::Linear(Recurrence {
        features: Features { map: FeatureMap::Exp, row_scale, ..Features::default() },
        normaliser: denominator(params)?,
        ..Recurrence::default()
    }))
}
