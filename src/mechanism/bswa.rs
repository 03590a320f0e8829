//! Block sliding window attention (`docs/spec/softmax.md` 5): `softmax` over the block of the query, up to itself, and
//! `mem_blocks` blocks before it.
//!
//! Hwang et al., *TransformerFAM*, arXiv 2404.09173.

use super::Entry;
use super::softmax::capped;
use crate::engine::Settings;
use crate::engine::softmax::{Attention, Reach};
use crate::error::{Error, Result};
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "bswa", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    let size = |name| {
        let given = params.integer(name).and_then(|size| usize::try_from(size).ok());
        given.ok_or(Error::Internal("a size is not in the catalogue"))
    };
    let reach = Reach::Blocks { block: size("block")?, memory: size("mem_blocks")? };
    let attention = Attention { reach, ..Attention::new(params.real("scale")? as f32) };
    Ok(Settings::Softmax(capped(params, attention)?))
}
