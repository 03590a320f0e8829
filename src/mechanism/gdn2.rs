//! Gated DeltaNet 2: the delta rule with a gate per channel on what is erased and on what is written
//! (`docs/spec/linear.md` 7).
//!
//! ```text
//! S̃ = diag(e^{g_t}) S_{t−1}      S_t = S̃ + k_t (write_t ⊙ v_t − S̃ᵀ (erase_t ⊙ k_t))ᵀ      o_t = scale · q_tᵀ S_t
//! ```
//!
//! Gated DeltaNet 2, arXiv 2605.22791.

use super::Entry;
use super::common::{cyclic_heads, normaliser, unit_rows};
use crate::engine::Settings;
use crate::engine::linear::{Correction, Decay, Gain, Recurrence};
use crate::error::Result;
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "gdn2", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    Ok(Settings::Linear(Recurrence {
        decay: Decay::Channel,
        gain: Gain::Write,
        correction: Correction::Erase,
        features: unit_rows(params)?,
        scale: params.real("scale")? as f32,
        normaliser: normaliser(params)?,
        cyclic_heads: cyclic_heads(params),
        ..Recurrence::default()
    }))
}
