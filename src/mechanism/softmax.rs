//! Exact softmax attention (`docs/spec/softmax.md` 2).
//!
//! ```text
//! o_t = Σ_s softmax_s(cap(scale · q_t·k_s) − slope_h |p_t − s| + bias_ts) v_s
//! ```
//!
//! over the keys that `key_len`, the mode and the window leave; a `sink` is one more logit without a value.
//!
//! Dao et al., *FlashAttention*, arXiv 2205.14135; Press et al. (ALiBi), arXiv 2108.12409.

use super::Entry;
use crate::engine::Settings;
use crate::engine::softmax::{Attention, Reach};
use crate::error::Result;
use crate::plan::{Params, range_error};

pub(super) static ENTRY: Entry = Entry {
    name: "softmax",
    assemble: |params| Ok(Settings::Softmax(windowed(params, params.real("scale")?)?)),
};

/// Attention with the parameters of `softmax` but `scale`.
pub(super) fn windowed(params: &Params, scale: f64) -> Result<Attention> {
    let bound = |name| params.integer(name).and_then(|bound| usize::try_from(bound).ok());
    let (left, right) = (bound("window_left"), bound("window_right"));
    if let Some(right) = right.filter(|_| params.desc.modes.causal()) {
        return Err(range_error("window_right", right.to_string(), "-1 in modes causal and step"));
    }
    capped(params, Attention { reach: Reach::Window { left, right }, ..Attention::new(scale as f32) })
}

/// The same with `softcap`, where the mechanism has one.
pub(super) fn capped(params: &Params, attention: Attention) -> Result<Attention> {
    let softcap = params.real("softcap").unwrap_or(0.0) as f32;
    Ok(Attention { softcap, ..attention })
}
