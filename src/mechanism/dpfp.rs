//! Deterministic parameter-free projection (`docs/spec/random_features.md` 9).
//!
//! ```text
//! r = [relu(x) | relu(−x)]      φ(x) = [r ⊙ roll(r, 1) | … | r ⊙ roll(r, ν)]      roll(r, j)_i = r_{i−j}
//! ```
//!
//! Features of `k` take the factor `feature_scale_k` besides. Most features are 0; where a query shares none with
//! its keys, the output is 0.
//!
//! Schlag et al., *Linear Transformers Are Secretly Fast Weight Programmers*, arXiv 2102.11174.

use super::Entry;
use super::common::denominator;
use crate::engine::Settings;
use crate::engine::linear::{FeatureMap, Features, Recurrence};
use crate::error::Result;
use crate::plan::{MAX_EXTENT, Params};

pub(super) static ENTRY: Entry = Entry { name: "dpfp", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    // As many features as the largest dimension has channels.
    let largest = (MAX_EXTENT / (2 * params.desc.dim_qk)).max(1);
    let nu = params.integer_up_to("nu", largest)? as usize;
    let key_scale = params.real("feature_scale_k")? as f32;
    Ok(Settings::Linear(Recurrence {
        features: Features { map: FeatureMap::Rolled { nu }, key_scale, ..Features::default() },
        normaliser: denominator(params)?,
        ..Recurrence::default()
    }))
}
