//! Doubly normalised attention: over queries, then over keys (`docs/spec/softmax.md` 8).
//!
//! ```text
//! c_s = ln Σ_t e^{scale · q_t·k_s}      o_t = Σ_s (u softmax_s(scale · q_t·k_s − c_s) + (1 − u) softmax_s(scale · q_t·k_s)) v_s
//! ```
//!
//! `u` is role `blend`, 1 without it. Queries from `query_len` on do not exist: they count in no `c_s`, and their outputs
//! are 0. A sequence has at most 262144 keys.
//!
//! Ding et al., *Attention that does not Explain Away*, arXiv 2009.14308.

use super::Entry;
use crate::engine::Settings;
use crate::engine::softmax::{Attention, Form};

pub(super) static ENTRY: Entry = Entry {
    name: "dnas",
    assemble: |params| {
        let attention = Attention::new(params.real("scale")? as f32);
        Ok(Settings::Softmax(Attention { form: Form::Blend, ..attention }))
    },
};
