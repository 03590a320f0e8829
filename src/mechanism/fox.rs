//! Forgetting transformer: softmax attention with a forget gate (`docs/spec/softmax.md` 4).
//!
//! ```text
//! o_t = Σ_s softmax_s(scale · q_t·k_s + Σ_{s<j≤t} g_j) v_s
//! ```
//!
//! Lin et al., *Forgetting Transformer*, arXiv 2503.02130.

use super::Entry;
use super::softmax::windowed;
use crate::engine::Settings;

pub(super) static ENTRY: Entry =
    Entry { name: "fox", assemble: |params| Ok(Settings::Softmax(windowed(params, params.real("scale")?)?)) };
