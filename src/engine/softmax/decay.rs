//! The decay of a forget gate, `G_p − G_s` with `G` the running sum of log gates (`docs/spec/softmax.md` 4).
//!
//! Sums are kept in `f64` from the first key that the rows see, and a difference of two goes to the tile as a pair of
//! `f32`: a sum of thousands of gates has lost the difference of its neighbours in one `f32`. Each tile of queries sums
//! anew: an addition per key, where it costs thousands of products, saves a buffer as long as the sequence. A gate of
//! `−inf` hides the keys before it: it moves the first key that a row sees and is left out of the sum.

use super::products::Buffers;
use super::rows::{KEYS, ROWS, Rows, Unit, tiles_of};
use crate::engine::linear::Tiles;
use crate::kernel::score_terms;
use crate::tensor::Tensor;
use std::ops::Range;

/// Running sums of a tile of queries.
pub struct Decay {
    g: Tensor,
    /// Up to the last key so far, of the head of each row.
    last: [f64; ROWS],
    /// As two `f32`: up to the position of each row, and up to each key of a tile.
    rows: [[f32; ROWS]; 2],
    keys: [[f32; KEYS]; 2],
}

/// A sum as `f32` and what that lost.
fn split(x: f64) -> [f32; 2] {
    let high = x as f32;
    [high, (x - f64::from(high)) as f32]
}

/// The log gates of `keys` of a query head, in order.
///
/// # Safety
/// `g` is `[B, H, S]` with these.
unsafe fn gates(unit: &Unit<'_>, g: &Tensor, set: usize, keys: &Range<usize>) -> [f32; KEYS] {
    let (s, mut gates) = (&unit.sequence, [0.0; KEYS]);
    let at = [s.batch, unit.query_head(set), s.k0 + keys.start];
    let tiles: &Tiles = &unit.engine.kernels.common;
    // SAFETY: by contract; at most 64.
    unsafe { tiles.gather(g, &at, 2, keys.len(), gates.as_mut_ptr()) };
    gates
}

/// Rows see nothing before the last gate of `−inf` up to their own position, and no tile of keys whose decay since the last
/// key that they see is below their limit, nor what comes before it.
///
/// # Safety
/// `g` is `[B, H, S]` of the call.
pub unsafe fn hide(unit: &mut Unit<'_>, g: &Tensor, limits: &[f64; ROWS]) {
    let keys = unit.rows.keys();
    for run in collect(&unit.rows) {
        let (set, least) = (unit.rows.set[run.start], run.clone().map(|i| unit.rows.end[i]).min());
        // Backwards: the sum of the gates behind a key, and of those behind the last key of each row.
        let (mut end, mut sum, mut last) = (keys.end, 0.0, [0.0; ROWS]);
        while end > keys.start {
            let rows = &mut unit.rows;
            for i in run.clone().filter(|&i| sum - last[i] < limits[i]) {
                if end < rows.end[i] {
                    rows.first[i] = rows.first[i].max(end);
                }
            }
            if run.clone().all(|i| end <= rows.first[i]) {
                break;
            }
            let tile = ((end - 1) / KEYS * KEYS).max(keys.start)..end;
            // SAFETY: by contract.
            let gates = unsafe { gates(unit, g, set, &tile) };
            let rows = &mut unit.rows;
            for (s, &gate) in tile.clone().zip(&gates).rev() {
                if least <= Some(s + 1) {
                    run.clone().filter(|&i| rows.end[i] == s + 1).for_each(|i| last[i] = sum);
                }
                sum += finite(gate);
                for i in run.clone().filter(|_| gate == f32::NEG_INFINITY) {
                    if s as i64 <= rows.position[i] {
                        rows.first[i] = rows.first[i].max(s).min(rows.end[i]);
                    }
                }
            }
            end = tile.start;
        }
    }
}

/// The runs of a tile; those that are not there are empty.
fn collect(rows: &Rows) -> [Range<usize>; ROWS] {
    let mut runs = rows.runs();
    std::array::from_fn(|_| runs.next().unwrap_or(0..0))
}

impl Decay {
    /// Sums up to the rows' positions.
    ///
    /// # Safety
    /// `g` is `[B, H, S]` of the call.
    pub unsafe fn new(tile: &Buffers<'_>, g: Tensor) -> Decay {
        let (unit, rows) = (tile.unit, &tile.unit.rows);
        let mut row = [0.0; ROWS];
        let start = rows.keys().start;
        for run in rows.runs() {
            let end = run.clone().map(|i| rows.position[i] + 1).max().unwrap_or(0).max(start as i64) as usize;
            let own = run.clone().map(|i| rows.position[i]).min().unwrap_or(0);
            let mut sum = 0.0;
            for keys in tiles_of(start..end) {
                // SAFETY: a position is that of a key.
                let gates = unsafe { gates(unit, &g, rows.set[run.start], &keys) };
                for (s, &gate) in keys.zip(&gates) {
                    sum += if s == start { 0.0 } else { finite(gate) };
                    // Mostly, all rows come later.
                    if s as i64 >= own {
                        run.clone().filter(|&i| rows.position[i] == s as i64).for_each(|i| row[i] = sum);
                    }
                }
            }
        }
        let mut rows = [[0.0; ROWS]; 2];
        for (i, &sum) in row.iter().enumerate() {
            [rows[0][i], rows[1][i]] = split(sum);
        }
        Decay { g, last: [0.0; ROWS], rows, keys: [[0.0; KEYS]; 2] }
    }

    /// Whether the terms of a tile are two vectors: its rows share a head.
    pub fn is_shared(tile: &Buffers<'_>) -> bool {
        tile.unit.rows.runs().nth(1).is_none()
    }

    /// Terms of the next tile of keys: two vectors where rows share a head, else elements of the tile of terms, which
    /// are the same bits.
    ///
    /// # Safety
    /// Tiles come in order; the tile of terms is there.
    pub unsafe fn advance(&mut self, tile: &Buffers<'_>, keys: &Range<usize>, terms: &mut score_terms::Args) {
        let (unit, rows) = (tile.unit, &tile.unit.rows);
        let start = rows.keys().start;
        let shared = Decay::is_shared(tile);
        let to = tile.at(unit.engine.at.terms);
        for run in rows.runs() {
            // SAFETY: keys of the sequence.
            let gates = unsafe { gates(unit, &self.g, rows.set[run.start], keys) };
            let mut sum = self.last[run.start];
            for (i, (s, &gate)) in keys.clone().zip(&gates).enumerate() {
                sum += if s == start { 0.0 } else { finite(gate) };
                let [high, low] = split(sum);
                [self.keys[0][i], self.keys[1][i]] = [high, low];
                for r in run.clone().filter(|_| !shared) {
                    let term = (self.rows[0][r] - high) + (self.rows[1][r] - low);
                    // SAFETY: key i of 64, row r of 32.
                    unsafe { *to.add(i * ROWS + r) = term };
                }
            }
            self.last[run.start] = sum;
        }
        if shared {
            terms.row = [self.rows[0].as_ptr(), self.rows[1].as_ptr()];
            terms.key = [self.keys[0].as_ptr(), self.keys[1].as_ptr()];
        } else {
            terms.tile = to;
        }
    }
}

/// A gate that hides what is before it is no decay.
fn finite(gate: f32) -> f64 {
    if gate == f32::NEG_INFINITY { 0.0 } else { gate.into() }
}
