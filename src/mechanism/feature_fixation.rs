//! Gated linear video attention (`docs/spec/sparse.md` 10).
//!
//! ```text
//! φ(x) = max(x, 0) + feature_eps        γ = σ([φ(q); φ(k); v] w_gateᵀ + b_gate)
//! q' = γ ⊙ φ(q)      k' = γ ⊙ φ(k)      o = q'ᵀ Σ k' vᵀ / (q'·Σ k' + ε)
//! ```
//!
//! The gate reads one token's `q`, `k` and `v`, so dimensions and heads of all three are the same. With `w_gate_k`
//! and `b_gate_k`, keys have a gate of their own.
//!
//! Lu et al., *Linear Video Transformer with Feature Fixation*, arXiv 2210.08164.

use super::Entry;
use super::common::denominator;
use crate::engine::Settings;
use crate::engine::linear::{FeatureMap, Features, Recurrence};
use crate::error::{Error, Result};
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "feature_fixation", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    let desc = &params.desc;
    if desc.dim_v != desc.dim_qk {
        let expected = "equal to desc.dim_qk for this mechanism";
        return Err(Error::InvalidArgument { what: "desc.dim_v", given: desc.dim_v, expected });
    }
    let eps = params.real("feature_eps")? as f32;
    Ok(Settings::Linear(Recurrence {
        features: Features { map: FeatureMap::Gated { eps }, ..Features::default() },
        normaliser: denominator(params)?,
        ..Recurrence::default()
    }))
}
