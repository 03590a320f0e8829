//! Focal attention: a scale per batch entry and head (`docs/spec/softmax.md` 3).
//!
//! `softmax` with role `scale_bh` in place of the scale.
//!
//! *Learning to Focus*, arXiv 2511.06818.

use super::Entry;
use super::softmax::windowed;
use crate::engine::Settings;

pub(super) static ENTRY: Entry =
    Entry { name: "focal", assemble: |params| Ok(Settings::Softmax(windowed(params, 1.0)?)) };
