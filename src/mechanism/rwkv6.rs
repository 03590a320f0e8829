//! RWKV-6: a gate per token and key channel; a query reads the state before its own token, and that token by a
//! bonus per head and channel (`docs/spec/linear.md` 7).
//!
//! ```text
//! o_t = scale · q_tᵀ (S_{t−1} + diag(u) k_t v_tᵀ)      S_t = diag(e^{g_t}) S_{t−1} + k_t v_tᵀ
//! ```
//!
//! Peng et al., *Eagle and Finch*, arXiv 2404.05892.

use super::Entry;
use super::common::{cyclic_heads, normaliser};
use crate::engine::Settings;
use crate::engine::linear::{Decay, Recurrence};
use crate::error::Result;
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "rwkv6", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    Ok(Settings::Linear(Recurrence {
        decay: Decay::Channel,
        bonus: true,
        scale: params.real("scale")? as f32,
        normaliser: normaliser(params)?,
        cyclic_heads: cyclic_heads(params),
        ..Recurrence::default()
    }))
}
