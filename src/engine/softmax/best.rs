//! The best key of each query in place of a softmax (`docs/spec/softmax.md` 9).

use super::rows::ROWS;
use super::tile::Tile;
use crate::kernel::best_key;
use crate::kernel::online_softmax::MASKED;
use std::ops::Range;

impl Tile<'_> {
    /// Best keys so far; if values are summed up, weights of 1 for the keys that are seen in place of the scores.
    ///
    /// # Safety
    /// The first buffer holds scores.
    pub unsafe fn best(&mut self, keys: &Range<usize>, masked: bool) -> Option<[f32; ROWS]> {
        let (engine, rows) = (self.buffers.unit.engine, &self.buffers.unit.rows);
        let (x, mut key) = (self.buffers.at(engine.at.x[0]), [0.0; ROWS]);
        // SAFETY: by contract.
        unsafe {
            let (max, key) = (self.running[0].max.as_mut_ptr(), key.as_mut_ptr());
            (engine.kernels.best)(&best_key::Args { n: keys.len(), w: rows.width, x, ld: ROWS, max, key });
        }
        for (best, &key) in self.best.iter_mut().zip(&key).filter(|(_, key)| **key >= 0.0) {
            *best = Some(keys.start + key as usize);
        }
        if engine.settings.form.reads_values() {
            for (i, s) in keys.clone().enumerate() {
                for r in 0..rows.width {
                    let hidden = masked && !(rows.first[r]..rows.end[r]).contains(&s);
                    // SAFETY: key i of 64, row r of 32.
                    unsafe { *x.add(i * ROWS + r) = if hidden { f32::from_bits(MASKED) } else { 1.0 } };
                }
            }
        }
        None
    }

    /// The best key of a row when it has seen all of its keys.
    pub fn best_of(&self, row: usize) -> Option<usize> {
        let rows = &self.buffers.unit.rows;
        // Scores that are all −∞ are alike.
        self.best[row].or((rows.first[row] < rows.end[row]).then_some(rows.first[row]))
    }

    /// Values of the best keys with their share of the others.
    ///
    /// # Safety
    /// As [`Tile::sum_up`].
    pub unsafe fn finish_best(&mut self, smoothing: f32) {
        let (unit, buffers) = (self.buffers.unit, self.buffers);
        let (rows, s, acc) = (&unit.rows, &unit.sequence, unit.engine.at.acc[0]);
        let (mut share, mut best) = ([0.0; ROWS], [None; ROWS]);
        for r in 0..rows.n {
            let seen = rows.end[r] - rows.first[r];
            share[r] = smoothing / (seen.max(2) - 1) as f32;
            best[r] = self.best_of(r);
        }
        // SAFETY: by contract; a best key is one of the sequence.
        unsafe {
            buffers.scale_sums(acc, share.as_ptr());
            for r in 0..rows.n {
                let (head, token) = (unit.query_head(rows.set[r]), s.q0 + rows.token[r]);
                if let Some(to) = &unit.call.index {
                    *to.address(&[s.batch, head, token]) = best[r].map_or(-1, |key| key as i32);
                }
                let (Some(v), Some(key)) = (&unit.call.v, best[r]) else { continue };
                let value = buffers.copy_of(&unit.values_of(v), &(key..key + 1));
                let poison = if self.running[0].max[r].is_nan() { f32::NAN } else { 0.0 };
                for e in 0..unit.engine.e {
                    let (to, value) = (buffers.sum(acc, r, e), *value.at.add(e));
                    *to = match smoothing {
                        0.0 => value + poison,
                        _ => *to + (1.0 - smoothing - share[r]) * value + poison,
                    };
                }
            }
            if let Some(out) = &unit.call.out {
                buffers.store_sums(acc, out);
            }
        }
    }
}
