//! DiJiang: features in the frequency domain (`docs/spec/random_features.md` 9).
//!
//! ```text
//! u = w_diag ⊙ DCT-III(x)      φ(x) = softmax(u), or e^u      S_t = γ S_{t−1} + φ(k_t) v_tᵀ
//! ```
//!
//! `decay [Hk]` is `γ` itself, in modes with an order of tokens; without it nothing decays. The map `exp` needs a
//! denominator.
//!
//! Chen et al., *DiJiang: Efficient Large Language Models through Compact Kernelization*, arXiv 2403.19928.

use super::Entry;
use super::common::{exp_needs_denominator, feature_map, normaliser};
use crate::engine::Settings;
use crate::engine::linear::{Decay, Features, Projection, Recurrence};
use crate::error::Result;
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "dijiang", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    let recurrence = Recurrence {
        decay: Decay::Head,
        features: Features {
            map: feature_map(params)?,
            projection: Projection::Cosine,
            ..Features::default()
        },
        normaliser: normaliser(params)?,
        ..Recurrence::default()
    };
    exp_needs_denominator(params, &recurrence)?;
    Ok(Settings::Linear(recurrence))
}
