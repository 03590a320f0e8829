//! Linear attention (`docs/spec/linear.md` 2).
//!
//! ```text
//! S_t = S_{t−1} + φ(k_t) v_tᵀ      z_t = z_{t−1} + φ(k_t)      o_t = φ(q_t)ᵀ S_t / (φ(q_t)·z_t + ε)
//! ```
//!
//! Katharopoulos et al., *Transformers are RNNs*, arXiv 2006.16236.

use super::Entry;
use super::common::{cyclic_heads, feature_map, normaliser};
use crate::engine::Settings;
use crate::engine::linear::{FeatureMap, Features, Recurrence};
use crate::error::Result;
use crate::plan::{Params, range_error};

pub(super) static ENTRY: Entry = Entry { name: "linear", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    let recurrence = Recurrence {
        features: Features { map: feature_map(params)?, ..Features::default() },
        scale: params.real("scale")? as f32,
        normaliser: normaliser(params)?,
        cyclic_heads: cyclic_heads(params),
        ..Recurrence::default()
    };
    if recurrence.features.map == FeatureMap::Exp && !recurrence.has_denominator() {
        let given = params.word("normalize").unwrap_or_default().into();
        return Err(range_error("normalize", given, "denominator, since feature_map = exp needs one"));
    }
    Ok(Settings::Linear(recurrence))
}
