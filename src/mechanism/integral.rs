//! Integral attention: logits averaged over `signals` sub-queries (`docs/spec/softmax.md` 7), which is `softmax` with
//! a scale of `1/(signals · √(D/signals))`.
//!
//! *Integral Transformer*, arXiv 2508.18387.

use super::Entry;
use super::softmax::windowed;
use crate::engine::Settings;
use crate::error::Result;
use crate::plan::{Params, range_error};

pub(super) static ENTRY: Entry = Entry { name: "integral", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    let (signals, d) = (params.integer("signals").unwrap_or(1), params.desc.dim_qk);
    if signals < 1 || d % signals != 0 {
        return Err(range_error("signals", signals.to_string(), &format!("a divisor of dim_qk = {d}")));
    }
    Ok(Settings::Softmax(windowed(params, params.real("scale")?)?))
}
