//! Linear attention (`docs/spec/linear.md` 2).
//!
//! ```text
//! S_t = S_{t−1} + φ(k_t) v_tᵀ      z_t = z_{t−1} + φ(k_t)      o_t = φ(q_t)ᵀ S_t / (φ(q_t)·z_t + ε)
//! ```
//!
//! Katharopoulos et al., *Transformers are RNNs*, arXiv 2006.16236.

use super::Entry;
use super::common::{cyclic_heads, exp_needs_denominator, feature_map, normaliser};
use crate::engine::Settings;
use crate::engine::linear::{Features, Recurrence};
use crate::error::Result;
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "linear", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    let recurrence = Recurrence {
        features: Features { map: feature_map(params)?, ..Features::default() },
        scale: params.real("scale")? as f32,
        normaliser: normaliser(params)?,
        cyclic_heads: cyclic_heads(params),
        ..Recurrence::default()
    };
    exp_needs_denominator(params, &recurrence)?;
    Ok(Settings::Linear(recurrence))
}
