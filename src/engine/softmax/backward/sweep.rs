//! The sweep of a tile of queries over its keys: weights and their gradients, and what these go to.

use super::tile::Tile;
use super::{along_outputs, rows_of_queries};
use crate::engine::softmax::Form;
use crate::engine::softmax::rows::{ROWS, tiles_of};
use crate::engine::softmax::terms::Terms;
use crate::kernel::{elementwise, score_grad, score_terms};
use crate::tensor::Tensor;
use std::ops::Range;
use std::ptr;

/// Keys that a sweep takes, and their values.
pub struct Source {
    pub k: Tensor,
    pub v: Tensor,
    pub keys: Range<usize>,
    /// Every row sees all of them.
    pub all: bool,
    /// Which of the rows of gradients is that of key 0, and whether those of keys and of values are wanted.
    pub first: usize,
    pub wanted: [bool; 2],
}

impl Tile<'_> {
    /// All keys that some row sees.
    ///
    /// # Safety
    /// As [`super::tile::run`]; the maps are there.
    pub unsafe fn sweep(&mut self) {
        let (unit, buffers, at) = (self.unit, self.buffers, self.at);
        let (engine, call, form) = (unit.engine, unit.call, unit.engine.settings.form);
        let (Some(k), Some(v)) = (call.k, call.v) else { return };
        // SAFETY: by contract.
        unsafe {
            for dq in at.dq.into_iter().take(rows_of_queries(form)) {
                ptr::write_bytes(self.buffer(dq), 0, engine.d * ROWS);
            }
            let (n_maps, heads) = (self.n, self.heads);
            let mut terms: [Terms; 2] =
                std::array::from_fn(|i| Terms::new(&buffers, i.min(n_maps - 1), heads).without_cap());
            let wanted = [self.run.grads.k, self.run.grads.v].map(|to| to.is_some());
            let wanted = [wanted[0], wanted[1] && self.run.best.is_none()];
            let own = Source { k, v, keys: unit.rows.keys(), all: false, first: 0, wanted };
            self.walk(&own, &mut terms);
            if let Some(memory) = self.memory() {
                self.walk(&memory, &mut terms);
            }
        }
    }

    /// The keys of a source.
    ///
    /// # Safety
    /// As [`Tile::sweep`].
    unsafe fn walk(&mut self, source: &Source, terms: &mut [Terms; 2]) {
        let (unit, buffers, at, heads) = (self.unit, self.buffers, self.at, self.heads);
        let (engine, Source { k, v, .. }) = (unit.engine, source);
        let form = engine.settings.form;
        // The first of two sweeps is for one map.
        let swept = if self.sweep.is_some_and(|sweep| !sweep.second) { 1 } else { self.n };
        // SAFETY: by contract.
        unsafe {
            for keys in tiles_of(source.keys.clone()) {
                let masked = !source.all && !unit.rows.see_all(&keys);
                along_outputs(&buffers, v, &keys, (at.dout_t, at.dp));
                for (map, terms) in terms.iter_mut().enumerate().take(swept) {
                    let head = unit.head * heads + map % heads;
                    let rows = buffers.rows_of(&unit.keys_of(k, head), &keys, false);
                    if form != Form::Blend || map == 0 {
                        buffers.scores(rows, keys.len(), engine.at.q[map], engine.at.x[map]);
                    }
                    if form == Form::Blend && map == 0 {
                        let (x, copy) = (self.buffer(engine.at.x[0]), self.buffer(engine.at.x[1]));
                        ptr::copy_nonoverlapping(x, copy, keys.len() * ROWS);
                    }
                    if form == Form::Probe {
                        buffers.scores(rows, keys.len(), engine.at.q[1], engine.at.x[1]);
                    }
                    self.cap(keys.len(), engine.at.x[map]);
                    terms.apply(&buffers, &keys, masked, engine.at.x[map]);
                    let dx = if map + 1 < self.n { at.dx } else { at.dp };
                    self.keep_shares(map, &keys);
                    self.gradients(map, &keys, dx);
                    if self.through_columns(map, &keys, dx) {
                        continue;
                    }
                    let map = map % heads;
                    self.add_bias(map, heads, &keys, self.buffer(dx));
                    self.add_gates(&keys, self.buffer(dx));
                    let dy = if engine.settings.softcap > 0.0 { at.y } else { dx };
                    self.products(map, source, &keys, rows, masked, dy);
                }
            }
        }
    }

    /// Caps scores, and keeps them.
    ///
    /// # Safety
    /// As [`super::tile::run`]; the scores are there.
    unsafe fn cap(&self, n: usize, x: usize) {
        let (engine, x) = (self.unit.engine, self.buffer(x));
        let cap = engine.settings.softcap;
        if cap > 0.0 {
            let plain = score_terms::Args::plain(n, self.unit.rows.width, x, ROWS);
            // SAFETY: by contract.
            unsafe {
                (engine.kernels.terms)(&score_terms::Args { cap, ..plain });
                ptr::copy_nonoverlapping(x, self.buffer(self.at.y), n * ROWS);
            }
        }
    }

    /// Weights in place of scores, and gradients of these.
    ///
    /// # Safety
    /// As [`super::tile::run`]; scores and gradients of weights are there.
    unsafe fn gradients(&mut self, map: usize, keys: &Range<usize>, dx: usize) {
        let (engine, rows) = (self.unit.engine, &self.unit.rows);
        let mut position = [0.0; ROWS];
        for (i, position) in position[..rows.n].iter_mut().enumerate() {
            *position = (rows.position[i] - keys.start as i64) as f32;
        }
        let (x, dp) = (self.buffer(engine.at.x[map]), self.buffer(self.at.dp));
        let (y, t, dx) = (self.buffer(self.at.y), self.buffer(engine.at.x[1]), self.buffer(dx));
        let probe = engine.settings.form == Form::Probe;
        let slopes = self.run.grads.alibi_slopes.is_some();
        if let Some(weights) = engine.kernels.weights {
            // SAFETY: by contract; tiles are `[n][32]`.
            unsafe {
                let n = keys.len() * ROWS;
                slopes_of_relu(std::slice::from_raw_parts(x, n), std::slice::from_raw_parts_mut(dx, n));
                weights(&elementwise::Args { n, src: x, dst: x });
            }
            return;
        }
        let own = &mut self.maps[map];
        // SAFETY: by contract; vectors of 32.
        unsafe {
            (self.run.engine.backward.score_grad)(&score_grad::Args {
                dx,
                shift: own.shift.as_ptr(),
                factor: own.factor.as_ptr(),
                delta: own.delta.as_ptr(),
                cap: engine.settings.softcap,
                y,
                t: if probe { t } else { ptr::null_mut() },
                mean: self.mean.as_ptr(),
                along: self.along.as_ptr(),
                position: if slopes { position.as_ptr() } else { ptr::null() },
                distance: own.distance.as_mut_ptr(),
                ..score_grad::Args::plain(keys.len(), rows.width, ROWS, x, dp)
            });
        }
    }

    /// Adds the gradients of sums of gates, up to each query and less those up to each key.
    ///
    /// The sums over a row are 0 but for rounding where there is no sink. They are added all the same: what a pair adds on
    /// one side of a gate and takes off on the same side is gone without a trace, so that only the pairs that the gate is
    /// between count, whose weights it makes small.
    ///
    /// # Safety
    /// As [`super::tile::run`]; `dx` is there.
    unsafe fn add_gates(&self, keys: &Range<usize>, dx: *const f32) {
        if self.run.grads.g.is_none() {
            return;
        }
        let (rows, gates) = (&self.unit.rows, self.buffer(self.at.gates).cast::<f64>());
        let mut by_row = [0.0; ROWS];
        for (i, key) in keys.clone().enumerate() {
            // SAFETY: by contract; a sum for each key, and positions of causal rows are those of keys.
            unsafe {
                let dx = std::slice::from_raw_parts(dx.add(i * ROWS), rows.n);
                let mut lanes = [0.0; 8];
                for dx in dx.chunks(8) {
                    lanes.iter_mut().zip(dx).for_each(|(sum, &dx)| *sum += f64::from(dx));
                }
                by_row.iter_mut().zip(dx).for_each(|(sum, &dx)| *sum += f64::from(dx));
                *gates.add(key) -= lanes.iter().sum::<f64>();
            }
        }
        for (sum, &position) in by_row.iter().zip(&rows.position[..rows.n]) {
            // SAFETY: as above.
            unsafe { *gates.add(position as usize) += sum };
        }
    }
}

/// Gradients of scores, in place of those of the weights `max(x, 0)`; what is masked has none.
fn slopes_of_relu(x: &[f32], dx: &mut [f32]) {
    for (dx, &x) in dx.iter_mut().zip(x) {
        *dx = match x {
            _ if x <= 0.0 => 0.0,
            _ if x.is_nan() => x,
            _ => *dx,
        };
    }
}
