//! Forgetting transformer: softmax attention with a forget gate (`docs/spec/softmax.md` 4).
//!
//! ```text
//! o_t = Σ_s softmax_s(scale · q_t·k_s + Σ_{s<j≤t} g_j) v_s
//! ```
//!
//! `prune_log_tol` leaves out keys of a row whose shares of its weight sum up to less than the exponential of it, where
//! norms and gates tell so; beside a bias or ALiBi slopes it has no effect.
//!
//! Lin et al., *Forgetting Transformer*, arXiv 2503.02130.

use super::Entry;
use super::softmax::windowed;
use crate::engine::Settings;
use crate::engine::softmax::Attention;
use crate::error::Result;
use crate::plan::{Params, range_error};

pub(super) static ENTRY: Entry = Entry { name: "fox", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    let prune = params.real("prune_log_tol").ok();
    if let Some(given) = prune.filter(|&given| given > 0.0) {
        return Err(range_error("prune_log_tol", given.to_string(), "at most 0"));
    }
    Ok(Settings::Softmax(Attention { prune, ..windowed(params, params.real("scale")?)? }))
}
