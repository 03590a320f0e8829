//! Mamba-2 as linear attention (`docs/spec/linear.md` 4): `q = C`, `k = B`, `v = X`, groups shared by heads.
//!
//! ```text
//! S_t = e^{decay_rate·Δ_t} S_{t−1} + k_t (Δ_t v_t)ᵀ      o_t = scale · q_tᵀ S_t + d_skip v_t
//! ```
//!
//! `Δ` is `dt`, or `softplus(dt_raw + dt_bias)`; `g`, where given, is the log decay itself.
//!
//! Dao and Gu, *Transformers are SSMs*, arXiv 2405.21060.

use super::Entry;
use super::common::{cyclic_heads, normaliser};
use crate::engine::Settings;
use crate::engine::linear::{Decay, Gain, Recurrence};
use crate::error::Result;
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "mamba2", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    Ok(Settings::Linear(Recurrence {
        decay: Decay::Token,
        gain: Gain::StepSize,
        skip: true,
        scale: params.real("scale")? as f32,
        normaliser: normaliser(params)?,
        cyclic_heads: cyclic_heads(params),
        ..Recurrence::default()
    }))
}
