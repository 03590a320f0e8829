//! Linear attention via orthogonal memory, its global part (`docs/spec/linear.md` 11).
//!
//! ```text
//! H_t = ((t − 1) H_{t−1} + w x_t) / t      o_t = Σ_i softmax_i(scale · H_{t,i} (q_t·w_i)) H_{t,i} w_i
//! ```
//!
//! `x` is the role `kv`, key and value at once; `w` the role `basis`. Without an order of tokens every query reads
//! the mean over all of them.
//!
//! Zhang et al., *Linear Attention via Orthogonal Memory*, arXiv 2312.11135.

use super::Entry;
use crate::engine::Settings;
use crate::engine::orthogonal_memory::Basis;
use crate::error::Result;
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "lavo", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    Ok(Settings::OrthogonalMemory(Basis {
        n_rows: params.required_size("M", "the number of rows of the basis")? as usize,
        scale: params.real("scale")? as f32,
    }))
}
