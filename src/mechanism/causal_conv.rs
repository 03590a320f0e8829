//! Causal depthwise convolution with carried state (`docs/spec/linear.md` 14).
//!
//! ```text
//! y_{c,t} = act(b_c + Σ_j w_{c,j} x_{c,t−W+1+j})
//! ```
//!
//! ONNX `CausalConvWithState`; in front of `q`, `k`, `v` of Mamba, Gated DeltaNet, Kimi Linear.

use super::Entry;
use crate::engine::{Settings, conv};
use crate::error::{Error, Result};
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "causal_conv", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    let width = params.integer("width").ok_or(Error::Internal("the width is not in the catalogue"))?;
    let silu = params.word("activation") == Some("silu");
    Ok(Settings::Conv(conv::Settings { width: width as usize, silu }))
}
