//! Differential attention: two softmaxes, one subtracted from the other (`docs/spec/softmax.md` 7).
//!
//! ```text
//! o_h = (softmax(scale · q_{2h} k_{2h'}ᵀ) − lam_h softmax(scale · q_{2h+1} k_{2h'+1}ᵀ)) v_{h'}
//! ```
//!
//! Ye et al., *Differential Transformer*, arXiv 2410.05258.

use super::Entry;
use super::softmax::windowed;
use crate::engine::Settings;
use crate::engine::softmax::{Attention, Form};
use crate::error::Result;
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "diff", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    let attention = windowed(params, params.real("scale")?)?;
    Ok(Settings::Softmax(Attention { form: Form::Difference, ..attention }))
}
