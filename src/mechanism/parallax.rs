//! Parallax: softmax attention less the covariance of values and keys along a probe (`docs/spec/softmax.md` 11).
//!
//! ```text
//! P = softmax(scale · q_t·k_s)      t_s = probe_t·k_s      o_t = Σ_s P_s (1 + Σ P t − t_s) v_s
//! ```
//!
//! *Parallax*, arXiv 2605.29157.

use super::Entry;
use super::softmax::windowed;
use crate::engine::Settings;
use crate::engine::softmax::{Attention, Form};
use crate::error::Result;
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "parallax", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    let attention = windowed(params, params.real("scale")?)?;
    Ok(Settings::Softmax(Attention { form: Form::Probe, ..attention }))
}
