//! DeltaNet: write the difference to what the memory already returns (`docs/spec/linear.md` 7).
//!
//! ```text
//! S_t = S_{t−1} + β_t k_t (v_t − S_{t−1}ᵀ k_t)ᵀ      o_t = scale · q_tᵀ S_t
//! ```
//!
//! Schlag et al., arXiv 2102.11174; Yang et al., arXiv 2406.06484.

use super::Entry;
use super::common::{cyclic_heads, normaliser, unit_rows};
use crate::engine::Settings;
use crate::engine::linear::{Correction, Decay, Gain, Recurrence};
use crate::error::Result;
use crate::plan::Params;

pub(super) static ENTRY: Entry =
    Entry { name: "delta_rule", assemble: |params| assemble(params, Decay::None) };

/// The delta rule after a decay.
pub(super) fn assemble(params: &Params, decay: Decay) -> Result<Settings> {
    Ok(Settings::Linear(Recurrence {
        decay,
        gain: Gain::Beta,
        correction: Correction::Delta,
        features: unit_rows(params)?,
        scale: params.real("scale")? as f32,
        normaliser: normaliser(params)?,
        cyclic_heads: cyclic_heads(params),
        ..Recurrence::default()
    }))
}
