//! Segmented recurrent transformer, cross-attention (`docs/spec/softmax.md` 6): a softmax over the segment of the keys that
//! belongs to the query, and a thresholded memory of the rest.
//!
//! ```text
//! X   = (clamp(Kᵀ V) − clamp(K_jᵀ V_j)) w_memᵀ      Vm = leak Vm + X      P = max(Vm/threshold − 1, 0)
//! o_t = softmax_{s in segment j}(scale · q_t·k_s) v_s + scale q_t P / ‖k‖
//! ```
//!
//! With `gen_len` the queries of a sequence may come in pieces, down to single ones in mode step: `query_start` says
//! where a call stands, and `Vm`, `P` and, where they are kept, `clamp(Kᵀ V)` and `‖k‖` are carried.
//!
//! Long et al., *Segmented Recurrent Transformer*, arXiv 2305.16340.

use super::Entry;
use super::common::same_heads;
use crate::catalog::Mode;
use crate::engine::Settings;
use crate::engine::softmax::{Attention, Form, Segments};
use crate::error::{Error, Result};
use crate::plan::{Params, range_error};

pub(super) static ENTRY: Entry = Entry { name: "srformer", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    let desc = &params.desc;
    same_heads(params, "equal to desc.heads_k: the memory is per head")?;
    if desc.dim_v != desc.dim_qk {
        let (what, given) = ("desc.dim_v", desc.dim_v);
        return Err(Error::InvalidArgument {
            what,
            given,
            expected: "equal to desc.dim_qk for this mechanism",
        });
    }
    let gen_len = match params.integer("gen_len") {
        Some(given) if given < 1 => return Err(range_error("gen_len", given.to_string(), "at least 1")),
        None if desc.modes.contains(Mode::Step) => {
            let expected = "a value in mode step: the queries of a whole sequence";
            return Err(range_error("gen_len", "not given".into(), expected));
        }
        given => given.map(|length| length as usize),
    };
    let block = params.integer("block").ok_or(Error::Internal("block is not in the catalogue"))?;
    let real = |name| params.real(name).map(|x| x as f32);
    let segments = Segments {
        block: block as usize,
        threshold: real("threshold")?,
        leak: real("leak")?,
        limit: real("kv_limit")?,
        zero_keys: params.word("pad") == Some("zero_key"),
        normed: params.word("normalize") != Some("none"),
        gen_len,
    };
    let form = Form::Segments(segments);
    Ok(Settings::Softmax(Attention { form, ..Attention::new(real("scale")?) }))
}
