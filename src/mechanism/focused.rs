//! Focused linear attention (`docs/spec/random_features.md` 9).
//!
//! ```text
//! y = (relu(x) + feature_eps)/temperature      φ(x) = y^p ‖y‖/‖y^p‖      o = φ(q)ᵀ Σ φ(k) vᵀ / (d + S ε)
//! ```
//!
//! Norms are over all heads of a token together, or with `norm_span = head` over its own. `temperature` is per
//! head and channel, the same for `q` and `k`, which therefore have as many heads. `S` is the number of keys in the
//! call. The depthwise convolution of `v` that the paper adds is the caller's.
//!
//! Han et al., *FLatten Transformer*, arXiv 2308.00442.

use super::Entry;
use super::common::{denominator, same_heads};
use crate::engine::Settings;
use crate::engine::linear::{FeatureMap, Features, Recurrence};
use crate::error::Result;
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "focused", assemble };

/// Largest power: of numbers below 1 − 2⁻²⁴, larger ones are 0.
const MAX_DEGREE: i64 = 1 << 20;

fn assemble(params: &Params) -> Result<Settings> {
    same_heads(params, "equal to desc.heads_k, as temperature is per head of both")?;
    let degree = params.integer_up_to("degree", MAX_DEGREE)? as u32;
    let eps = params.real("feature_eps")? as f32;
    let joint = params.word("norm_span") != Some("head");
    Ok(Settings::Linear(Recurrence {
        features: Features { map: FeatureMap::Power { degree, eps, joint }, ..Features::default() },
        normaliser: denominator(params)?,
        ..Recurrence::default()
    }))
}
