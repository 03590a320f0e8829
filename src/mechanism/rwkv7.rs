//! RWKV-7: a diagonal plus low rank transition, read before the decay and written along a vector of its own
//! (`docs/spec/linear.md` 7).
//!
//! ```text
//! S_t = diag(e^{g_t}) S_{t−1} + b_t (S_{t−1}ᵀ a_t)ᵀ + k_t v_tᵀ      o_t = scale · q_tᵀ S_t
//! ```
//!
//! Peng et al., *RWKV-7 "Goose"*, arXiv 2503.14456.

use super::Entry;
use super::common::{cyclic_heads, normaliser};
use crate::engine::Settings;
use crate::engine::linear::{Correction, Decay, Recurrence};
use crate::error::Result;
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "rwkv7", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    Ok(Settings::Linear(Recurrence {
        decay: Decay::Channel,
        correction: Correction::TwoWrites,
        scale: params.real("scale")? as f32,
        normaliser: normaliser(params)?,
        cyclic_heads: cyclic_heads(params),
        ..Recurrence::default()
    }))
}
