//! TransNormerLLM, Lightning Attention and MiniMax: [`super::retention`] with `scale` 1 and, in the models,
//! the parameter-free norm over all heads, `normalize = srms_all` (`docs/spec/linear.md` 3).
//!
//! Qin et al., *Lightning Attention-2*, arXiv 2401.04658; TransNormerLLM, arXiv 2307.14995; MiniMax-01,
//! arXiv 2501.08313.

use super::{Entry, retention};

pub(super) static ENTRY: Entry = Entry { name: "lightning", assemble: retention::assemble };
