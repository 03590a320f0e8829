//! DiagAttention of TransNormer (`docs/spec/linear.md` 11): attention inside blocks of `block` tokens.
//!
//! ```text
//! o_t = Σ_s w(scale · q_t·k_s) v_s      s in the block of t, w: softmax, or max(x, 0) without a sum below
//! ```
//!
//! Qin et al., *The Devil in Linear Transformer*, arXiv 2210.10340.

use super::Entry;
use crate::engine::Settings;
use crate::engine::softmax::{Attention, Reach, Weights};
use crate::error::{Error, Result};
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "diag", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    let weights = match params.word("activation") {
        Some("relu") => Weights::Relu,
        Some("softmax") => Weights::Softmax,
        _ => return Err(Error::Internal("an activation of the catalogue is not known here")),
    };
    let reach = Reach::Blocks { block: params.integer_up_to("block", i64::MAX)? as usize, memory: 0 };
    Ok(Settings::Softmax(Attention { reach, weights, ..Attention::new(params.real("scale")? as f32) }))
}
