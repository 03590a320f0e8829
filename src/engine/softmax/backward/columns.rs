//! Sums over the queries in reverse (`docs/spec/softmax.md` 8): two sweeps, as the gradient of a score needs a sum over its
//! column.
//!
//! ```text
//! Z = X − c    ξ = e^Z    W = softmax(Z)    P = softmax(X)
//! dZ = u W (dP − Σ W dP)                                   the first sweep sums up Σ_t dZ by keys
//! dX = dZ − ξ Σ_t dZ + (1 − u) P (dP − Σ P dP)             the second has everything
//! ```
//!
//! The softmaxes of each tile of queries are kept from the first sweep for the second.

use super::Run;
use super::sums::Sum;
use super::tile::{Map, Tile};
use crate::engine::call::Sequence;
use crate::engine::softmax::call::Call;
use crate::engine::softmax::columns::Columns;
use crate::engine::softmax::rows::{KEYS, ROWS, Unit};
use crate::engine::softmax::{Attention, Form, Softmax, tile as forward};
use crate::kernel::online_softmax::MASKED;
use crate::kernel::{elementwise, products};
use crate::workspace::Carver;
use std::ops::Range;
use std::{ptr, slice};

/// Offsets of what a query head keeps, none where there are no sums over the queries.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// `c` and `Σ_t dZ`, by keys.
    columns: usize,
    sums: usize,
    /// Two [`Map`]s for each tile of queries.
    maps: usize,
}

impl Kept {
    /// For sequences of these lengths.
    pub fn new(carver: &mut Carver, there: bool, n_q: usize, n_k: usize) -> Kept {
        let (n_q, n_k) = if there { (n_q, n_k) } else { (0, 0) };
        let map = size_of::<Map>() / size_of::<f32>();
        let keys = n_k.next_multiple_of(KEYS);
        Kept {
            columns: carver.take(&[keys]),
            sums: carver.take(&[keys]),
            maps: carver.take(&[n_q.div_ceil(ROWS), 2, map]),
        }
    }
}

/// One of the two sweeps of a query head.
#[derive(Clone, Copy)]
pub struct Sweep {
    sums: *mut f32,
    maps: *mut [Map; 2],
    pub second: bool,
}

impl Sweep {
    /// Where the softmaxes of a tile of queries are kept.
    pub fn maps(&self, unit: &Unit<'_>) -> *mut [Map; 2] {
        self.maps.wrapping_add(unit.rows.token[0] / ROWS)
    }
}

impl Run<'_> {
    /// The call with the sums of a query head, and its sweeps.
    ///
    /// # Safety
    /// Tensors and buffers are those of the call; the worker is the task's.
    pub unsafe fn sum_columns(
        &self,
        (index, sequence): (usize, Sequence),
        head: usize,
        worker: usize,
    ) -> (Call, [Sweep; 2]) {
        let (engine, base, at) = (self.engine, self.worker(worker), &self.regions.at.kept);
        let settings = Attention { form: Form::Plain, ..engine.settings };
        let (heads, shared) = ((engine.heads.0, engine.heads.0), engine.sets());
        let sums = Softmax { settings, heads, shared, ..engine.clone() };
        let from = self.offset(worker) + at.columns;
        let columns = Columns::of_head(*self.workspace, from, sequence.n_k, index * engine.heads.0 + head);
        let call = self.call.exchanged(columns);
        if let Some(sequence) = call.sequences.get(index) {
            for first in (0..sequence.n_q).step_by(ROWS) {
                forward::run(
                    &Unit::of_head(&sums, &call, (index, sequence), (head, 0), first),
                    base,
                    0,
                    None,
                );
            }
        }
        let (sums, maps) = (base.wrapping_add(at.sums), base.wrapping_add(at.maps).cast());
        // SAFETY: the buffer has a sum for each key.
        unsafe { ptr::write_bytes(sums, 0, sequence.n_k) };
        let sweep = |second| Sweep { sums, maps, second };
        (Call { columns: Some(columns), ..*self.call }, [sweep(false), sweep(true)])
    }
}

impl Tile<'_> {
    /// Shares of the two softmaxes, and the gradient of these.
    ///
    /// # Safety
    /// As [`super::tile::run`]; maxima and `Δ` are there.
    pub unsafe fn blend(&mut self) {
        let (unit, rows) = (self.unit, &self.unit.rows);
        let Some(blend) = &unit.call.blend else { return };
        let [first, second] = &mut self.maps;
        // Of a query that does not count nothing is known.
        let seen = (0..rows.n).filter(|&r| rows.first[r] < rows.end[r]);
        let total: f64 = seen.map(|r| f64::from(first.delta[r]) - f64::from(second.delta[r])).sum();
        // SAFETY: a value for each head.
        let share = unsafe { unit.engine.kernels.common.value(blend, &[unit.query_head(rows.set[0])]) };
        first.factor.iter_mut().for_each(|factor| *factor *= share);
        second.factor.iter_mut().for_each(|factor| *factor *= 1.0 - share);
        // SAFETY: by contract.
        unsafe { self.add_sum(Sum::Lam as usize, total) };
    }

    /// `ξ`, from the scores less the sums, for the second sweep.
    ///
    /// # Safety
    /// As [`super::tile::run`]; the scores are there.
    pub unsafe fn keep_shares(&self, map: usize, keys: &Range<usize>) {
        if map == 0 && self.sweep.is_some_and(|sweep| sweep.second) {
            let (engine, n) = (self.unit.engine, keys.len() * ROWS);
            let (src, dst) = (self.buffer(engine.at.x[0]), self.buffer(self.at.y));
            // SAFETY: tiles have 64 by 32 elements.
            unsafe { (engine.kernels.common.exp)(&elementwise::Args { n, src, dst }) };
        }
    }

    /// What the columns have to do with the gradients `dx` of a map; whether these are not to be summed up yet.
    ///
    /// # Safety
    /// As [`super::tile::run`]; weights and gradients of the map are there.
    pub unsafe fn through_columns(&self, map: usize, keys: &Range<usize>, dx: usize) -> bool {
        let Some(sweep) = self.sweep else { return false };
        let (engine, n) = (self.unit.engine, keys.len());
        let sums = sweep.sums.wrapping_add(keys.start);
        let tile = |offset: usize| {
            // SAFETY: tiles have 64 by 32 elements, and nothing else uses them as long as the borrow is.
            unsafe { slice::from_raw_parts_mut(self.buffer(offset), n * ROWS) }
        };
        if !sweep.second {
            let (d, a, row) = (self.unit.rows.width, self.buffer(dx).cast_const(), sums);
            let (b, col) = (ptr::null(), ptr::null_mut());
            // SAFETY: by contract; a sum for each key.
            unsafe {
                (engine.kernels.sums)(&products::Args { n, d, a, lda: ROWS, b, ldb: 0, row, col });
            }
            return true;
        }
        if map == 0 {
            // SAFETY: a sum for each key.
            let sums = unsafe { slice::from_raw_parts(sums, n) };
            let rows = tile(dx).chunks_exact_mut(ROWS).zip(tile(self.at.y).chunks_exact(ROWS));
            let weights = tile(engine.at.x[0]).chunks_exact(ROWS);
            for (((dx, shares), weights), &sum) in rows.zip(weights).zip(sums) {
                for ((dx, &share), weight) in dx.iter_mut().zip(shares).zip(weights) {
                    *dx -= if weight.to_bits() == MASKED { 0.0 } else { share * sum };
                }
            }
            return self.n == 2;
        }
        for (to, from) in [(self.at.dp, self.at.dx), (engine.at.x[0], engine.at.x[1])] {
            tile(to).iter_mut().zip(&*tile(from)).for_each(|(to, from)| *to += from);
        }
        false
    }
}
