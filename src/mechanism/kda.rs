//! Kimi delta attention: the delta rule after a decay per token and key channel (`docs/spec/linear.md` 7).
//!
//! ```text
//! S̃ = diag(e^{g_t}) S_{t−1}      S_t = S̃ + β_t k_t (v_t − S̃ᵀ k_t)ᵀ      o_t = scale · q_tᵀ S_t
//! ```
//!
//! Kimi Linear, arXiv 2510.26692.

use super::{Entry, delta_rule};
use crate::engine::linear::Decay;

pub(super) static ENTRY: Entry =
    Entry { name: "kda", assemble: |params| delta_rule::assemble(params, Decay::Channel) };
