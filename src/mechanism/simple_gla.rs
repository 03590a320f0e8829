//! Linear attention with one gate per token (`docs/spec/linear.md` 4).
//!
//! ```text
//! S_t = e^{g_t} S_{t−1} + k_t v_tᵀ      o_t = scale · q_tᵀ S_t
//! ```
//!
//! The scalar-gate form of gated linear attention; with Mamba-2, arXiv 2405.21060.

use super::Entry;
use super::common::{cyclic_heads, normaliser};
use crate::engine::Settings;
use crate::engine::linear::{Decay, Recurrence};
use crate::error::Result;
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "simple_gla", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    Ok(Settings::Linear(Recurrence {
        decay: Decay::Token,
        scale: params.real("scale")? as f32,
        normaliser: normaliser(params)?,
        cyclic_heads: cyclic_heads(params),
        ..Recurrence::default()
    }))
}
