//! Random feature attention with a recency gate (`docs/spec/random_features.md` 4).
//!
//! ```text
//! x̂ = x/(‖x‖ + l2norm_eps)      u = W (σ ⊙ x̂)/τ      φ(x) = feature_scale [sin u | cos u], or feature_scale relu(u)
//! S_t = a_t S_{t−1} + (1 − a_t) φ(k_t) v_tᵀ          z_t = a_t z_{t−1} + (1 − a_t) φ(k_t)
//! ```
//!
//! The gate is `g = log a` or `decay = a`; if both are bound, `g` counts. `sigma` is per query head, and keys take
//! the same: it needs as many query as key heads. With another `feature_map` there is no `w`.
//!
//! Peng et al., *Random Feature Attention*, arXiv 2103.02143.

use super::Entry;
use super::common::{denominator, feature_map};
use crate::engine::Settings;
use crate::engine::linear::{Decay, FeatureMap, Features, L2Mode, L2Norm, Projection, Recurrence};
use crate::error::Result;
use crate::plan::{Params, range_error};

pub(super) static ENTRY: Entry = Entry { name: "rfa_gate", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    let features = match params.word("feature_map") {
        Some("rfa") | None => random_features(params)?,
        Some(_) => match params.size("P") {
            Some(p) => {
                return Err(range_error("P", p.to_string(), "nothing, as only feature_map = rfa has w"));
            }
            None => Features { map: feature_map(params)?, ..Features::default() },
        },
    };
    Ok(Settings::Linear(Recurrence {
        decay: Decay::Token,
        convex: true,
        features,
        normaliser: denominator(params)?,
        ..Recurrence::default()
    }))
}

fn random_features(params: &Params) -> Result<Features> {
    let width = params.required_size("P", "the number of rows of w")? as usize;
    let scale = params.real("feature_scale")? as f32;
    // A row of zeros is one of zeros without an epsilon too.
    let eps = (params.real("l2norm_eps")? as f32).max(f32::MIN_POSITIVE);
    Ok(Features {
        map: FeatureMap::Fourier { relu: params.word("kernel") == Some("arccos"), scale },
        l2norm: Some(L2Norm { eps, mode: L2Mode::Add }),
        row_scale: [params.real("tau")?.recip() as f32; 2],
        projection: Projection::Rows { width, sigma: params.desc.heads_q == params.desc.heads_k },
        ..Features::default()
    })
}
