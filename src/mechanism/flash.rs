//! FLASH (`docs/spec/linear.md` 9): a gated attention unit inside blocks of `block` tokens, linear attention to the rest.
//!
//! ```text
//! heads h_n = γ_n ⊙ z + β_n:  quad_q, lin_q, quad_k, lin_k
//! o_i = gate_i ⊙ (Σ_{j in the block} max(quad_q_i·quad_k_j · scale + bias_ij, 0)² v_j + lin_scale · lin_q_iᵀ S)
//! S = Σ lin_k_j v_jᵀ      over all blocks before; without an order of tokens, over all tokens
//! ```
//!
//! Hua et al., *Transformer Quality in Linear Time*, arXiv 2202.10447.

use super::{Entry, gau};
use crate::engine::Settings;
use crate::engine::gated_unit::Blocks;
use crate::error::Result;
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "flash", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    // Without it the scale is one by the length: that of a block, or of the sequence.
    let scale = params.real("lin_scale").ok().map(|scale| scale as f32);
    let block = params.integer_up_to("block", i64::MAX)? as usize;
    gau::assemble(params, Some(Blocks { block, scale }))
}
