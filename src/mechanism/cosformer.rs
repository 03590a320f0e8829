//! cosFormer: linear attention weighted by the cosine of the distance (`docs/spec/random_features.md` 9).
//!
//! ```text
//! φ_i(x) = [relu(x) sin θ_i | relu(x) cos θ_i]      θ_i = π i/(2 period)      o = φ(q)ᵀ Σ φ(k) vᵀ / max(d, ε)
//! ```
//!
//! Positions count from `position0` in every sequence of a call; a call whose last position is beyond `period`,
//! where weights would turn negative, is refused.
//!
//! Qin et al., *cosFormer: Rethinking Softmax in Attention*, arXiv 2202.08791.

use super::Entry;
use super::common::denominator;
use crate::engine::Settings;
use crate::engine::linear::{FeatureMap, Features, Recurrence};
use crate::error::Result;
use crate::plan::{Params, range_error};

pub(super) static ENTRY: Entry = Entry { name: "cosformer", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    let (period, position0) = (params.real("period")?, params.integer_up_to("position0", 1 << 52)?);
    if period <= 0.0 || period < position0 as f64 {
        let expected = format!("> 0 and at least position0 = {position0}");
        return Err(range_error("period", period.to_string(), &expected));
    }
    Ok(Settings::Linear(Recurrence {
        features: Features { map: FeatureMap::Cosine { period, position0 }, ..Features::default() },
        normaliser: denominator(params)?,
        ..Recurrence::default()
    }))
}
