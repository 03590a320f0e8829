//! Gated DeltaNet: the delta rule after a decay per token (`docs/spec/linear.md` 7; Qwen3-Next, Qwen3.5).
//!
//! ```text
//! S̃ = e^{g_t} S_{t−1}      S_t = S̃ + β_t k_t (v_t − S̃ᵀ k_t)ᵀ      o_t = scale · q_tᵀ S_t
//! ```
//!
//! Yang et al., *Gated Delta Networks*, arXiv 2412.06464.

use super::{Entry, delta_rule};
use crate::engine::linear::Decay;

pub(super) static ENTRY: Entry =
    Entry { name: "gated_delta_rule", assemble: |params| delta_rule::assemble(params, Decay::Token) };
