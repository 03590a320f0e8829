//! DAPE V2: a small convolution over the map of scores, across heads and along keys (`docs/spec/softmax.md` 12).
//!
//! ```text
//! u = [scale · q·k ; −slope_h (p_t − s)]      X = u_1 + u_2 + b₂ + w₂ * leaky(b₁ + w₁ * u)      o = softmax(X) v
//! ```
//!
//! Sizes `F`, the channels between the convolutions, and `K`, their taps, an odd number, have to be given.
//!
//! Zheng et al., *DAPE V2*, arXiv 2410.04798.

use super::Entry;
use crate::engine::Settings;
use crate::engine::softmax::{Attention, Convolution, Form};
use crate::error::Result;
use crate::plan::{Params, range_error};

/// Most taps.
const MOST: i64 = 31;

pub(super) static ENTRY: Entry = Entry { name: "dape_v2", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    let width = params.required_size("F", "the channels between the convolutions")?;
    let taps = params.required_size("K", "the taps of the convolutions")?;
    if taps % 2 == 0 || taps > MOST {
        return Err(range_error("K", taps.to_string(), "an odd number, at most 31"));
    }
    let convolution = Convolution {
        width: width as usize,
        taps: taps as usize,
        leaky: params.real("leaky_slope")? as f32,
        zero_edge: params.word("edge") == Some("zero"),
    };
    let attention = Attention::new(params.real("scale")? as f32);
    Ok(Settings::Softmax(Attention { form: Form::Convolution(convolution), ..attention }))
}
