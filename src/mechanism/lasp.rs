//! Sequence parallelism of linear attention: a sequence in `ranks` equal segments (`docs/spec/linear.md` 10).
//!
//! The outputs are those of `inner`; the messages are the states that ranks would send each other. See
//! [`crate::engine::segments`] for how the segments run at the same time.
//!
//! Sun et al., *Linear Attention Sequence Parallelism*, arXiv 2404.02882.

use super::Entry;
use crate::engine::linear::{Correction, Decay, Gain, Recurrence};
use crate::engine::{Settings, segments};
use crate::error::{Error, Result};
use crate::plan::{Params, range_error};

pub(super) static ENTRY: Entry = Entry { name: "lasp", assemble };

/// Most segments.
const MAX_RANKS: i64 = 1 << 16;

fn assemble(params: &Params) -> Result<Settings> {
    let ranks = params.integer("ranks").ok_or(Error::Internal("lasp has ranks"))?;
    if !(1..=MAX_RANKS).contains(&ranks) {
        return Err(range_error("ranks", ranks.to_string(), "1 to 65536"));
    }
    let scale = params.real("scale")? as f32;
    let inner = match params.word("inner") {
        Some("lightning") => Recurrence { decay: Decay::Head, scale, ..Recurrence::default() },
        Some("gated_delta_rule") => Recurrence {
            decay: Decay::Token,
            gain: Gain::Beta,
            correction: Correction::Delta,
            scale,
            ..Recurrence::default()
        },
        _ => return Err(Error::Internal("an inner of the catalogue is not known here")),
    };
    Ok(Settings::Segments(segments::Settings { ranks: ranks as usize, inner }))
}
