//! Retention: a decay per head (`docs/spec/linear.md` 3).
//!
//! ```text
//! S_t = e^{g_h} S_{t−1} + k_t v_tᵀ      o_t = scale · q_tᵀ S_t
//! ```
//!
//! Sun et al., *Retentive Network*, arXiv 2307.08621.

use super::Entry;
use super::common::{cyclic_heads, feature_map, normaliser};
use crate::engine::Settings;
use crate::engine::linear::{Decay, FeatureMap, Features, Recurrence};
use crate::error::Result;
use crate::plan::{Params, range_error};

pub(super) static ENTRY: Entry = Entry { name: "retention", assemble };

pub(super) fn assemble(params: &Params) -> Result<Settings> {
    let map = feature_map(params)?;
    if map == FeatureMap::Exp {
        let expected = "a map that needs no denominator: there is none beside a decay";
        return Err(range_error("feature_map", "`exp`".into(), expected));
    }
    Ok(Settings::Linear(Recurrence {
        decay: Decay::Head,
        features: Features { map, ..Features::default() },
        scale: params.real("scale")? as f32,
        normaliser: normaliser(params)?,
        cyclic_heads: cyclic_heads(params),
        ..Recurrence::default()
    }))
}
