//! Hedgehog: learned softmax features (`docs/spec/random_features.md` 9).
//!
//! ```text
//! y = x W + b      form = split:  φ(x) = [softmax(y) | softmax(−y)], each at least feature_eps
//!                  form = concat: φ(x) = softmax([2y | −2y])
//! ```
//!
//! `split` has weights per head, `w_q`, `w_k [H, D, F]`, and optional biases; `concat` one `w_qk [D, F]` for all.
//! Without the size `F` there are no weights, and `y = x`.
//!
//! Zhang et al., *The Hedgehog & the Porcupine*, arXiv 2402.04347.

use super::Entry;
use super::common::denominator;
use crate::engine::Settings;
use crate::engine::linear::{FeatureMap, Features, Projection, Recurrence};
use crate::error::Result;
use crate::plan::Params;

pub(super) static ENTRY: Entry = Entry { name: "hedgehog", assemble };

fn assemble(params: &Params) -> Result<Settings> {
    let joint = params.word("form") == Some("concat");
    let floor = params.real("feature_eps")? as f32;
    let projection = match params.size("F") {
        None => Projection::None,
        Some(width) if joint => Projection::Shared { width: width as usize },
        Some(width) => Projection::PerHead { width: width as usize },
    };
    Ok(Settings::Linear(Recurrence {
        features: Features { map: FeatureMap::Mirrored { joint, floor }, projection, ..Features::default() },
        normaliser: denominator(params)?,
        ..Recurrence::default()
    }))
}
