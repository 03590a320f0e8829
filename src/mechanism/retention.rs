//! Retention: a decay per head (`docs/spec/linear.md` 3).
//!
//! ```text
//! S_t = e^{g_h} S_{t−1} + k_t v_tᵀ      o_t = scale · q_tᵀ S_t
//! ```
//!
//! Sun et al., *Retentive Network*, arXiv 2307.08621.

use super::Entry;
use super::common::{cyclic_heads, feature_map, normaliser};
use crate::engine::linear::{Decay, Features, Recurrence};
use crate::error::Result;
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "retention", assemble };

pub(super) fn assemble(params: &Params) -> Result<Recurrence> {
    Ok(Recurrence {
        decay: Decay::Head,
        features: Features { map: feature_map(params)?, ..Features::default() },
        scale: params.real("scale")? as f32,
        normaliser: normaliser(params)?,
        cyclic_heads: cyclic_heads(params),
        ..Recurrence::default()
    })
}
