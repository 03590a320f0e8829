//! Gated attention unit (`docs/spec/linear.md` 9): one head, its queries and keys made of one base `z`, role `qk`.
//!
//! ```text
//! q = γ_0 ⊙ z + β_0      k = γ_1 ⊙ z + β_1      o_i = gate_i ⊙ Σ_j max(q_i·k_j · scale + bias_ij, 0)² v_j
//! ```
//!
//! Hua et al., *Transformer Quality in Linear Time*, arXiv 2202.10447.

use super::Entry;
use crate::engine::Settings;
use crate::engine::gated_unit::{Blocks, Unit};
use crate::engine::softmax::Weights;
use crate::error::{Error, Result};
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "gau", assemble: |params| assemble(params, None) };

/// A unit, of which blocks may see each other through a linear part only.
pub(super) fn assemble(params: &Params, blocks: Option<Blocks>) -> Result<Settings> {
    let weights = match params.word("activation") {
        Some("relu2") => Weights::Relu2,
        Some("laplace") => Weights::Laplace,
        _ => return Err(Error::Internal("an activation of the catalogue is not known here")),
    };
    Ok(Settings::GatedUnit(Unit { weights, scale: params.real("scale")? as f32, blocks }))
}
