//! Gated slot attention: a memory of `M` slots with a forget gate per slot, read by a softmax
//! (`docs/spec/linear.md` 6).
//!
//! ```text
//! K̂_t = K̂_{t−1} diag(e^{g_t}) + k_t s_tᵀ      p_t = softmax_M(scale · q_tᵀ K̂_t)
//! V̂_t = diag(e^{g_t}) V̂_{t−1} + s_t v_tᵀ      o_t = p_tᵀ V̂_t
//! ```
//!
//! `s` is the role `slot_write`.
//!
//! Zhang et al., *Gated Slot Attention*, arXiv 2409.07146.

use super::Entry;
use crate::engine::Settings;
use crate::engine::slots::{Gates, Memory};
use crate::error::Result;
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "gsa", assemble: |params| assemble(params, Gates::Given) };

/// Slots that are read by a softmax.
pub(super) fn assemble(params: &Params, gates: Gates) -> Result<Settings> {
    Ok(Settings::Slots(Memory {
        n_slots: params.required_size("M", "the number of slots")? as usize,
        scale: params.real("scale")? as f32,
        gates,
    }))
}
