//! One block of a transformer with feedback attention memory (`docs/spec/softmax.md` 5).
//!
//! ```text
//! out_t     = softmax over { k_s : s ≤ S − T + t } ∪ { fam_k }
//! fam_out_i = softmax over { k_s : s ≥ S − T }     ∪ { fam_k }
//! ```
//!
//! `k`, `v` are the blocks that are remembered, then the current one, whose queries `q` are; `F` rows of `fam_q`, `fam_k`,
//! `fam_v` are what the block before left, and `F` is theirs to say. Without `fam_out` only the first is computed.
//!
//! Hwang et al., *TransformerFAM*, arXiv 2404.09173.

use super::Entry;
use crate::engine::Settings;
use crate::engine::softmax::{Attention, Form};

pub(super) static ENTRY: Entry = Entry {
    name: "fam_block",
    assemble: |params| {
        let attention = Attention::new(params.real("scale")? as f32);
        Ok(Settings::Softmax(Attention { form: Form::Memory, ..attention }))
    },
};
