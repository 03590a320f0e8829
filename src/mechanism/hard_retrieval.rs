//! Hard retrieval: each query takes the value of its best key (`docs/spec/softmax.md` 9).
//!
//! ```text
//! i_t = the smallest s with the largest q_t·k_s      o_t = (1 − ε − ε/L) v_{i_t} + ε/L Σ_s v_s      L = max(n_t − 1, 1)
//! ```
//!
//! over the `n_t` keys that the query sees, `ε` the parameter `smoothing`. A query that sees none has output 0 and index
//! −1. A score that is `NaN` counts as the largest: its index is given, and the output is `NaN`.
//!
//! Gradients are straight-through, for the indices that the call gives or, where it gives none, those of the best keys, and
//! as if `ε` were 0: `dv_{i_t} += do_t`, and `dq`, `dk` are those of `softmax(scale · q_t·k_s) v_s`. An index is −1, a query
//! without a value, or that of a key that the query sees.
//!
//! Xu et al., *Learning Hard Retrieval Decoder Attention for Transformers*, arXiv 2009.14658.

use super::Entry;
use crate::engine::Settings;
use crate::engine::softmax::{Attention, Form};
use crate::error::Result;
use crate::plan::{Params, range_error};

pub(super) static ENTRY: Entry = Entry { name: "hard_retrieval", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    let smoothing = params.real("smoothing")?;
    if !(0.0..1.0).contains(&smoothing) {
        return Err(range_error("smoothing", smoothing.to_string(), "0 ≤ ε < 1"));
    }
    // The scale orders nothing, and 1 rounds nothing.
    let form = Form::Best { smoothing: smoothing as f32, scale: params.real("scale")? as f32 };
    Ok(Settings::Softmax(Attention { form, ..Attention::new(1.0) }))
}
