//! Gradients of 16-bit rows to which several heads or passes add.
//!
//! Rounding each time would gather errors with the number of heads. So these wait in the workspace as `f32`, where they
//! are added up as in an `f32` tensor of the caller's, and are rounded once, when all tasks are done. Other gradients
//! are rounded where they are stored, which is once.

use super::Run;
use crate::engine::linear::features::FeatureMap;
use crate::engine::linear::tiles::Rows;
use crate::engine::linear::{Call, Grads, Linear};
use crate::error::Result;
use crate::parallel::{self, Runner};
use crate::tensor::{DType, Layout, Tensor};
use crate::workspace::Carver;

/// Where the sums of `q`, `k` and `v` wait, in elements, where they have to: `[sequences, heads, tokens, channels]`.
pub type Waiting = [Option<usize>; 3];

/// A gradient that waits, and where it goes.
pub struct Sum {
    from: Tensor,
    to: Tensor,
    /// Whether its tokens are queries.
    queries: bool,
}

impl Linear {
    /// Heads and channels of `q`, `k` and `v`, and whether their gradients are added to.
    fn sums(&self) -> [(usize, usize, bool); 3] {
        let (heads, g, map) = (&self.heads, &self.geometry, self.recurrence.features.map);
        // A norm over heads comes last, and a gate reads all three.
        let gated = matches!(map, FeatureMap::Gated { .. });
        let rows = gated || matches!(map, FeatureMap::Power { .. });
        [
            (heads.q, g.d, heads.q < heads.out || rows),
            (heads.k, g.d, heads.k < heads.state || rows),
            (heads.v, g.e, heads.v < heads.state || gated),
        ]
    }

    /// Carves the memory in which gradients of 16-bit rows wait.
    pub fn carve_sums(&self, carver: &mut Carver, sequences: usize, (n_q, n_k): (usize, usize)) -> Waiting {
        let (mut waiting, tokens) = (Waiting::default(), [n_q, n_k, n_k]);
        for (i, (heads, channels, added)) in self.sums().into_iter().enumerate() {
            if self.narrow && added {
                waiting[i] = Some(carver.take(&[sequences, heads, tokens[i], channels]));
            }
        }
        waiting
    }

    /// Puts sums that have to wait in the place of the gradients that the call wants.
    pub fn hold_sums(
        &self,
        call: &Call,
        grads: &mut Grads,
        waiting: &Waiting,
        memory: *mut f32,
    ) -> Result<[Option<Sum>; 3]> {
        let mut sums = [None, None, None];
        let (sequences, own) = (&call.sequences, &mut grads.0);
        for (i, grad) in [&mut own.q, &mut own.k, &mut own.v].into_iter().enumerate() {
            let (Some(to), Some(offset)) = (*grad, waiting[i]) else { continue };
            if to.dtype == DType::F32 {
                continue;
            }
            let queries = i == 0;
            // Packed sequences have as many tokens as all of their longest at the most.
            let n = if queries { sequences.n_q } else { sequences.n_k };
            let (heads, channels, _) = self.sums()[i];
            let layout = Layout::contiguous(&[sequences.batch, heads, n, channels].map(|n| n as i64))?;
            let from = Tensor { data: memory.wrapping_add(offset).cast(), dtype: DType::F32, layout };
            *grad = Some(from);
            sums[i] = Some(Sum { from, to, queries });
        }
        Ok(sums)
    }
}

impl Run<'_> {
    /// Rounds what has waited.
    pub fn round_sums(&self, runner: &dyn Runner, sums: &[Option<Sum>; 3]) -> Result<()> {
        for sum in sums.iter().flatten() {
            let (heads, channels) = (sum.to.extent(1), sum.to.extent(3));
            parallel::run(runner, self.call.n_sequences() * heads, &|task, _| {
                let Some(s) = self.call.sequence(task / heads) else { return };
                let (first, n) = if sum.queries { (s.q0, s.n_q) } else { (s.k0, s.n_k) };
                let at = [s.batch, task % heads, first];
                // SAFETY: both tensors have the rows of these tokens and this head (checked), which are this task's.
                unsafe {
                    let to = Rows::tokens(&sum.to, &at, (n, channels));
                    self.engine.tiles.store(sum.from.address(&at), channels, &to);
                }
            })?;
        }
        Ok(())
    }
}
