//! The best key of each query in reverse (`docs/spec/softmax.md` 9): straight through the choice, `dv_{i_t} += do_t`, and
//! scores have the gradients of a softmax of theirs over all values.
//!
//! Indices that the call gives are a pass over the keys less.

use super::tile::Tile;
use crate::engine::softmax::products::pitch;
use crate::engine::softmax::rows::{ROWS, Unit};
use crate::engine::softmax::{Attention, Form, Softmax, tile as forward};

impl Softmax {
    /// The softmax whose gradients the scores have, and what finds the best keys.
    pub fn retrieval(&self) -> Option<(Softmax, Softmax)> {
        let Form::Best { scale, .. } = self.settings.form else { return None };
        let with = |form, scale| {
            let settings = Attention { form, scale, ..self.settings };
            Softmax { settings, ..self.clone() }
        };
        let best = Form::Best { smoothing: 0.0, scale };
        Some((with(Form::Plain, scale), with(best, self.settings.scale)))
    }
}

impl Tile<'_> {
    /// Gradients of outputs to the values that these are.
    ///
    /// # Safety
    /// As [`super::tile::run`]; the gradients are loaded.
    pub unsafe fn give_to_best(&self) {
        let Some(best) = self.run.best.filter(|_| self.run.grads.v.is_some()) else { return };
        let e = self.unit.engine.e;
        // SAFETY: by contract; an index is that of a key of the sequence, as `plan::chosen` made sure.
        unsafe {
            let keys = match self.unit.call.index {
                Some(_) => self.given(),
                None => self.found(best),
            };
            for (r, key) in keys.iter().enumerate().take(self.unit.rows.n) {
                let Some(key) = key else { continue };
                let dv = self.buffer(self.at.dv + key * pitch(e));
                (0..e).for_each(|c| *dv.add(c) += *self.buffer(self.at.dout_t).add(c * ROWS + r));
            }
        }
    }

    /// Keys by the indices of the call.
    ///
    /// # Safety
    /// As [`Tile::give_to_best`].
    unsafe fn given(&self) -> [Option<usize>; ROWS] {
        let (rows, s, mut keys) = (&self.unit.rows, &self.unit.sequence, [None; ROWS]);
        let Some(index) = &self.unit.call.index else { return keys };
        for (key, &token) in keys.iter_mut().zip(&rows.token[..rows.n]) {
            // SAFETY: an index for each head and query.
            let given = unsafe { *index.address::<i32>(&[s.batch, self.query_head(), s.q0 + token]) };
            *key = usize::try_from(given).ok();
        }
        keys
    }

    /// The best keys.
    ///
    /// # Safety
    /// As [`Tile::give_to_best`].
    unsafe fn found(&self, best: &Softmax) -> [Option<usize>; ROWS] {
        let Unit { call, sequence, index, head, .. } = *self.unit;
        let (set, first) = (self.unit.rows.set[0], self.unit.rows.token[0]);
        let unit = Unit::of_head(best, call, (index, sequence), (head, set), first);
        let mut tile = forward::Tile::empty(&unit, self.buffers.base);
        // SAFETY: by contract; scores need no buffer that is in use.
        unsafe { tile.sum_up(unit.rows.keys(), true) };
        std::array::from_fn(|row| (row < unit.rows.n).then(|| tile.best_of(row)).flatten())
    }
}
