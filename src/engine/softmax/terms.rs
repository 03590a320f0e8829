//! What a tile of scores gets besides the product: cap, ALiBi, bias, decay, mask.

use super::decay::Decay;
use super::products::Buffers;
use super::rows::{KEYS, ROWS};
use crate::engine::linear::Rows as Slice;
use crate::kernel::score_terms;
use std::ops::Range;
use std::ptr;

/// What a term adds for rows, or for keys, that it says nothing of.
static ZEROS: [f32; KEYS] = [0.0; KEYS];

/// Terms of one stream of scores.
pub struct Terms {
    /// Number of the stream, and how many there are for each query head.
    stream: usize,
    streams: usize,
    /// Soft cap; 0: none.
    cap: f32,
    slope: Option<[f32; ROWS]>,
    decay: Option<Decay>,
}

impl Terms {
    /// What does not change from tile to tile.
    ///
    /// # Safety
    /// The tensors of the call have the shapes of the catalogue.
    pub unsafe fn new(tile: &Buffers<'_>, stream: usize, streams: usize) -> Terms {
        let (unit, tiles) = (tile.unit, &tile.unit.engine.kernels.common);
        let slope = unit.call.alibi_slopes.map(|slopes| {
            let mut slope = [0.0; ROWS];
            for (slope, &set) in slope.iter_mut().zip(&unit.rows.set[..unit.rows.n]) {
                // SAFETY: a slope for each head.
                *slope = unsafe { tiles.value(&slopes, &[unit.query_head(set) * streams + stream]) };
            }
            slope
        });
        // SAFETY: by contract.
        let decay = unit.call.g.map(|g| unsafe { Decay::new(tile, g) });
        Terms { stream, streams, cap: unit.engine.settings.softcap, slope, decay }
    }

    /// The same for scores that are capped already.
    pub fn without_cap(self) -> Terms {
        Terms { cap: 0.0, ..self }
    }

    /// Whether a score may be `−inf` although the mask leaves it.
    pub fn may_mask(tile: &Buffers<'_>) -> bool {
        tile.unit.call.bias.is_some()
    }

    /// Applies them to the scores of `keys`; the mask too if some row does not see all of them.
    ///
    /// # Safety
    /// `x` has the tile's scores; the tensors of the call have the shapes of the catalogue.
    pub unsafe fn apply(&mut self, tile: &Buffers<'_>, keys: &Range<usize>, masked: bool, x: usize) {
        let (engine, rows) = (tile.unit.engine, &tile.unit.rows);
        let plain = score_terms::Args::plain(keys.len(), rows.width, tile.at(x), ROWS);
        let mut terms = score_terms::Args { cap: self.cap, ..plain };
        let (mut position, mut first, mut end) = ([0.0; ROWS], [0.0; ROWS], [0.0; ROWS]);
        if let Some(slope) = &self.slope {
            for (i, position) in position[..rows.n].iter_mut().enumerate() {
                *position = (rows.position[i] - keys.start as i64) as f32;
            }
            (terms.slope, terms.position) = (slope.as_ptr(), position.as_ptr());
        }
        if tile.unit.call.base.is_some() {
            let zeros = ZEROS.as_ptr();
            (terms.row, terms.key) = ([tile.at(engine.at.shift).cast_const(), zeros], [zeros; 2]);
        }
        if let Some(columns) = tile.unit.call.columns.filter(|_| self.stream == 0) {
            terms.row = [ZEROS.as_ptr(); 2];
            terms.key = [columns.at(tile.unit.head_of_all(0), keys.start), ZEROS.as_ptr()];
        }
        // SAFETY: by contract; a tile of terms has as many elements as one of scores.
        unsafe {
            if tile.unit.call.bias.is_some() {
                match tile.unit.call.bias_of_block {
                    true => load_block_bias(tile, keys),
                    false => self.load_bias(tile, keys),
                }
                terms.tile = tile.at(engine.at.terms);
            }
            if let Some(decay) = &mut self.decay {
                if !Decay::is_shared(tile) {
                    // The decay needs the tile of terms for itself.
                    (engine.kernels.terms)(&terms);
                    terms = plain;
                }
                decay.advance(tile, keys, &mut terms);
            }
        }
        if masked {
            for i in 0..rows.n {
                first[i] = rows.first[i].saturating_sub(keys.start).min(KEYS) as f32;
                end[i] = rows.end[i].saturating_sub(keys.start).min(KEYS) as f32;
            }
            // What is no row sees everything: its scores stay finite.
            end[rows.n..].fill(KEYS as f32);
            (terms.first, terms.end) = (first.as_ptr(), end.as_ptr());
        }
        if !terms.is_plain() {
            // SAFETY: vectors of 32, tiles of 64 by 32.
            unsafe { (engine.kernels.terms)(&terms) };
        }
    }

    /// The bias of a tile.
    ///
    /// # Safety
    /// As [`Terms::apply`]; there is a bias.
    unsafe fn load_bias(&self, tile: &Buffers<'_>, keys: &Range<usize>) {
        let (engine, unit, s) = (tile.unit.engine, tile.unit, &tile.unit.sequence);
        let (rows, tiles) = (&unit.rows, &engine.kernels.common);
        let Some(bias) = &unit.call.bias else { return };
        let staging = tile.at(engine.at.rows);
        // SAFETY: by contract; axes of one element are those of all batches or heads.
        unsafe {
            for run in rows.runs() {
                let head = unit.query_head(rows.set[run.start]) * self.streams + self.stream;
                let batch = s.batch.min(bias.extent(0) - 1);
                let at =
                    [batch, head.min(bias.extent(1) - 1), s.q0 + rows.token[run.start], s.k0 + keys.start];
                let from = Slice { tensor: bias, at: &at, rows: 2, columns: 3, n: run.len(), d: keys.len() };
                tiles.load(&from, 1.0, ptr::null(), staging.add(run.start * KEYS), KEYS);
            }
            transpose(tile, keys.len());
        }
    }
}

/// The bias of a tile where each block has the same: nothing is added where a row does not see the block.
///
/// # Safety
/// There is a bias `[1, 1, C, C]`, and what a row sees begins with its block.
unsafe fn load_block_bias(tile: &Buffers<'_>, keys: &Range<usize>) {
    let (engine, rows) = (tile.unit.engine, &tile.unit.rows);
    let Some(bias) = &tile.unit.call.bias else { return };
    let staging = tile.at(engine.at.rows);
    // SAFETY: 32 rows of 64; a position lies in the block that the row sees.
    unsafe {
        ptr::write_bytes(staging, 0, ROWS * KEYS);
        for i in (0..rows.n).filter(|&i| rows.first[i] < rows.end[i]) {
            let first = rows.first[i];
            let seen = first.max(keys.start)..rows.end[i].min(keys.end);
            if !seen.is_empty() {
                let at = [0, 0, rows.position[i] as usize - first, seen.start - first];
                let to = staging.add(i * KEYS + seen.start - keys.start);
                engine.kernels.common.gather(bias, &at, 3, seen.len(), to);
            }
        }
        transpose(tile, keys.len());
    }
}

/// Rows of terms to the tile, which has queries last.
///
/// # Safety
/// The rows are there, `n ≤ 64` to each.
unsafe fn transpose(tile: &Buffers<'_>, n: usize) {
    let (engine, rows) = (tile.unit.engine, &tile.unit.rows);
    for i in (0..rows.width).step_by(16) {
        let (src, to) = (tile.at(engine.at.rows + i * KEYS), tile.at(engine.at.terms + i));
        // SAFETY: by contract.
        unsafe {
            engine.kernels.common.transpose_to(src, ((rows.n - i).min(16), n), KEYS, to, ROWS);
        }
    }
}
