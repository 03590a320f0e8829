//! Attention with bounded memory: each of `M` slots holds a softmax-weighted mean over time
//! (`docs/spec/sparse.md` 7).
//!
//! ```text
//! z_t = log Σ_{j ≤ t} e^{s_j}      K̄_t[m] = Σ_j e^{s_jm − z_tm} k_j      V̄ likewise
//! o_t = softmax_m(scale · q_t·K̄_t[m])ᵀ V̄_t
//! ```
//!
//! It is [`super::gsa`] with `g_t = z_{t−1} − z_t` and `slot_write = e^{s_t − z_t}`, which the engine makes of the
//! role `slot_logits`. Without an order of tokens every query reads the last memory.
//!
//! Peng et al., *ABC: Attention with Bounded-memory Control*, arXiv 2110.02488.

use super::{Entry, gsa};
use crate::engine::slots::Gates;

pub(super) static ENTRY: Entry =
    Entry { name: "abc", assemble: |params| gsa::assemble(params, Gates::Logits) };
