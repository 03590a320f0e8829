//! Linear attention with the kernel `a0 + a1 q·k` (`docs/spec/linear.md` 8).
//!
//! ```text
//! o_i = Σ_j (a0 + a1 q_i·k_j) v_j / (Σ_j (a0 + a1 q_i·k_j) + ε)
//! ```
//!
//! It is `linear` over the features `[√a0, √a1 x]`. In causal mode with `T < S` the queries are the last `T`
//! positions.
//!
//! Gerami and Duraiswami, arXiv 2510.21956.

use super::Entry;
use super::common::{denominator, unit_rows};
use crate::engine::Settings;
use crate::engine::linear::{Features, Recurrence};
use crate::error::Result;
use crate::plan::{Params, range_error};

pub(super) static ENTRY: Entry = Entry { name: "linear1p", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    let coef = params.reals("coef")?;
    if coef.iter().any(|&a| a < 0.0) {
        return Err(range_error("coef", format!("{coef:?}"), "two numbers ≥ 0: features are √a0 and √a1 x"));
    }
    let roots = (coef[0].sqrt() as f32, coef[1].sqrt() as f32);
    Ok(Settings::Linear(Recurrence {
        features: Features { constant: Some(roots), ..unit_rows(params)? },
        scale: 1.0,
        normaliser: denominator(params)?,
        right_aligned: true,
        ..Recurrence::default()
    }))
}
