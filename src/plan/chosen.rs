//! Keys that a caller says queries have chosen: `index` of a backward call.

use super::check::{Bound, Pass};
use crate::catalog::{Mode, Role};
use crate::engine::call::Sequences;
use crate::error::{Error, Result};
use crate::tensor::Index;

impl Bound {
    /// Indices are −1, or those of keys that the queries see.
    pub fn check_chosen(&self, pass: Pass, mode: Mode) -> Result<()> {
        let role = Role::INDEX;
        let Some(index) = self.get(role).filter(|_| pass == Pass::Backward) else { return Ok(()) };
        let sequences = Sequences { slots: None, ..self.call(mode).sequences };
        let (heads, tokens) = (index.extent(1), index.extent(2));
        for s in (0..sequences.len()).filter_map(|i| sequences.get(i)) {
            let keys = self.get(Role::KEY_LEN).map_or(s.n_k as i64, |len| Index(len).get(s.index));
            for (head, token) in (0..heads).flat_map(|head| (0..s.n_q).map(move |token| (head, token))) {
                let given = Index(index.index(s.batch).index(head)).get(s.q0 + token);
                let position = s.n_k as i64 - s.n_q as i64 + token as i64;
                let end = if mode == Mode::Causal { keys.min(position + 1) } else { keys };
                if !(-1..end.max(0)).contains(&given) {
                    let at = (s.batch * heads + head) * tokens + s.q0 + token;
                    let why = "an index is -1 or that of a key that the query sees";
                    return Err(Error::IndexValue { role, at, given, why });
                }
            }
        }
        Ok(())
    }
}
