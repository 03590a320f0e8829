//! Gated linear attention: a gate per token and key channel, and optionally per value channel
//! (`docs/spec/linear.md` 5).
//!
//! ```text
//! S_t = diag(e^{g_t}) S_{t−1} diag(e^{gv_t}) + k_t v_tᵀ      o_t = scale · q_tᵀ S_t
//! ```
//!
//! Yang et al., *Gated Linear Attention Transformers*, arXiv 2312.06635.

use super::Entry;
use super::common::{cyclic_heads, normaliser};
use crate::engine::Settings;
use crate::engine::linear::{Decay, Recurrence};
use crate::error::Result;
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "gla", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    Ok(Settings::Linear(Recurrence {
        decay: Decay::Channel,
        value_decay: true,
        scale: params.real("scale")? as f32,
        normaliser: normaliser(params)?,
        cyclic_heads: cyclic_heads(params),
        ..Recurrence::default()
    }))
}
