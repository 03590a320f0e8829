//! One tile of queries in reverse.

use super::columns::Sweep;
use super::sums::Sum;
use super::{Offsets, Run};
use crate::engine::linear::Rows as Slice;
use crate::engine::softmax::products::{Buffers, Operand};
use crate::engine::softmax::rows::{ROWS, Unit};
use crate::engine::softmax::{Form, Weights, tile as forward};
use crate::kernel::products;
use crate::tensor::Tensor;
use std::ptr;

/// A tile of queries.
pub struct Tile<'a> {
    pub run: &'a Run<'a>,
    pub unit: &'a Unit<'a>,
    pub buffers: Buffers<'a>,
    pub at: &'a Offsets,
    pub maps: [Map; 2],
    /// How many maps there are, and heads of scores for each head of values.
    pub n: usize,
    pub heads: usize,
    /// Where there are sums over the queries.
    pub sweep: Option<Sweep>,
    /// One more logit without a value.
    pub missing: f32,
    /// Of a probe, the mean of its scores, and `do·v` averaged.
    pub mean: [f32; ROWS],
    pub along: [f32; ROWS],
    /// Which rows of queries, of the probe, and of the outputs' gradients have values that are not finite and are zero in
    /// the operand.
    pub taken: [u64; 3],
}

/// A softmax of each row, as `score_grad` takes it: `P = factor · e^{X − shift}`.
#[derive(Clone, Copy)]
pub struct Map {
    pub shift: [f32; ROWS],
    pub factor: [f32; ROWS],
    /// `Σ_s P dP`.
    pub delta: [f32; ROWS],
    lse: [f32; ROWS],
    /// Sums over distances.
    pub distance: [f32; ROWS],
}

/// Gradients of one tile of queries; those of its keys and values are added to.
///
/// # Safety
/// Tensors have the shapes that `plan::check` made sure of; buffers those that `Offsets` names.
pub unsafe fn run(run: &Run<'_>, unit: &Unit<'_>, base: *mut f32, sweep: Option<Sweep>) {
    let mut tile = Tile { sweep, ..Tile::new(run, unit, base) };
    // SAFETY: by contract.
    unsafe {
        if let Some(settings) = unit.engine.settings.local() {
            tile.load();
            return tile.fit(settings);
        }
        tile.through_softmax();
        match sweep.filter(|sweep| !sweep.second) {
            Some(sweep) => sweep.maps(unit).write(tile.maps),
            None => tile.finish(),
        }
    }
}

impl<'a> Tile<'a> {
    /// A tile that nothing is known of.
    pub fn new(run: &'a Run<'a>, unit: &'a Unit<'a>, base: *mut f32) -> Tile<'a> {
        let empty = [0.0; ROWS];
        let map = Map { shift: [f32::MAX; ROWS], factor: empty, delta: empty, lse: empty, distance: empty };
        Tile {
            run,
            unit,
            buffers: Buffers { unit, base },
            at: &run.regions.at,
            maps: [map; 2],
            n: unit.engine.settings.form.softmaxes(),
            heads: unit.engine.settings.form.score_heads(),
            sweep: None,
            missing: f32::NEG_INFINITY,
            mean: empty,
            along: empty,
            taken: [0; 3],
        }
    }

    /// Everything but the gradients of queries, and what is summed over them.
    ///
    /// # Safety
    /// As [`run`].
    pub unsafe fn through_softmax(&mut self) {
        // SAFETY: by contract.
        unsafe {
            self.load();
            self.give_to_best();
            match self.sweep.filter(|sweep| sweep.second) {
                Some(sweep) => {
                    forward::Tile::empty(self.unit, self.buffers.base).load_queries();
                    self.maps = sweep.maps(self.unit).read();
                }
                None => self.softmaxes(),
            }
            self.sweep();
        }
    }
}

impl Tile<'_> {
    /// Buffer at an offset of the worker's memory.
    pub fn buffer(&self, offset: usize) -> *mut f32 {
        self.buffers.at(offset)
    }

    pub fn query_head(&self) -> usize {
        self.unit.query_head(self.unit.rows.set[0])
    }

    /// Place of the tile's first row in a head of a tensor.
    fn place(&self, head: usize) -> [usize; 3] {
        let s = &self.unit.sequence;
        [s.batch, head, s.q0 + self.unit.rows.token[0]]
    }

    /// Rows of the tile times a factor, `[32][channels]` padded.
    ///
    /// # Safety
    /// The tensor has these; the buffer has 32 rows.
    unsafe fn load_rows(
        &self,
        tensor: &Tensor,
        head: usize,
        scale: f32,
        channels: usize,
        to: usize,
    ) -> Operand {
        let (place, ld) = (self.place(head), channels.next_multiple_of(16));
        let tensor = self.unit.queries(tensor);
        let from = Slice::tokens(&tensor, &place, (self.unit.rows.n, channels));
        let to = self.buffer(to);
        // SAFETY: by contract.
        unsafe { self.unit.engine.kernels.common.load(&from, scale, ptr::null(), to, ld) };
        Operand::new(to, ld)
    }

    /// Rows of the tile with queries last, `[channels][32]`.
    ///
    /// # Safety
    /// As [`Tile::load_rows`]; the buffer has 32 elements for each channel, rounded up to 16.
    unsafe fn turn(&self, rows: Operand, channels: usize, to: usize) {
        for i in (0..self.unit.rows.width).step_by(16) {
            let n = (self.unit.rows.n - i).min(16);
            // SAFETY: by contract.
            unsafe {
                let from = rows.at.add(i * rows.ld);
                let tiles = &self.unit.engine.kernels.common;
                tiles.transpose_to(from, (n, channels), rows.ld, self.buffer(to + i), ROWS);
            }
        }
    }

    /// Rows of gradients of outputs, of queries and of a probe, as products over queries read them.
    ///
    /// # Safety
    /// As [`run`].
    unsafe fn load(&mut self) {
        let (engine, call, at) = (self.unit.engine, self.unit.call, self.at);
        let (Some(q), Some(dout)) = (&call.q, &self.run.grads.out) else { return };
        let (head, n) = (self.query_head(), self.unit.rows.n);
        // SAFETY: by contract.
        unsafe {
            let scale = self.unit.scale(self.unit.rows.set[0]);
            for map in 0..self.heads {
                let rows = self.load_rows(q, head * self.heads + map, scale, engine.d, at.q[map]);
                self.taken[map] = self.buffers.take_out(rows, n, engine.d);
            }
            if let Some(probe) = &call.probe {
                let rows = self.load_rows(probe, head, 1.0, engine.d, at.q[1]);
                self.taken[1] = self.buffers.take_out(rows, n, engine.d);
            }
            let rows = self.load_rows(dout, head, 1.0, engine.e, at.dout);
            self.turn(rows, engine.e, at.dout_t);
            self.taken[2] = self.buffers.take_out(rows, n, engine.e);
        }
    }

    /// Queries and gradients of outputs again, with what was taken out.
    ///
    /// # Safety
    /// As [`run`].
    pub unsafe fn load_whole(&self) {
        let (engine, at, head) = (self.unit.engine, self.at, self.query_head());
        let (Some(q), Some(dout)) = (&self.unit.call.q, &self.run.grads.out) else { return };
        // SAFETY: by contract.
        unsafe {
            let scale = self.unit.scale(self.unit.rows.set[0]);
            if self.taken[0] != 0 {
                self.load_rows(q, head, scale, engine.d, at.q[0]);
            }
            if self.taken[2] != 0 {
                self.load_rows(dout, head, 1.0, engine.e, at.dout);
            }
        }
    }

    /// For each row the sum over channels of a buffer `[E][32]` times the gradients of outputs.
    ///
    /// # Safety
    /// The buffer is there.
    pub unsafe fn with_dout(&self, buffer: usize) -> [f32; ROWS] {
        let mut col = [0.0; ROWS];
        // SAFETY: by contract.
        unsafe { self.columns(self.unit.engine.e, self.at.dout_t, buffer, &mut col) };
        col
    }

    /// Sums over the `n` rows of the product of two buffers `[n][32]`.
    ///
    /// # Safety
    /// They are there.
    unsafe fn columns(&self, n: usize, a: usize, b: usize, sums: &mut [f32; ROWS]) {
        let (a, b) = (self.buffer(a), self.buffer(b));
        let (d, row, col) = (self.unit.rows.width, ptr::null_mut(), sums.as_mut_ptr());
        // SAFETY: by contract.
        unsafe {
            (self.unit.engine.kernels.sums)(&products::Args { n, d, a, lda: ROWS, b, ldb: ROWS, row, col });
        }
    }

    /// Maxima, normalisers and `Δ`.
    ///
    /// # Safety
    /// As [`run`].
    unsafe fn softmaxes(&mut self) {
        let (engine, call, n) = (self.unit.engine, self.unit.call, self.unit.rows.n);
        let mut tile = forward::Tile::empty(self.unit, self.buffers.base);
        // SAFETY: by contract.
        unsafe {
            if engine.settings.weights != Weights::Softmax {
                tile.load_queries();
                return;
            }
            if let (Some(out), Some(lse)) = (&call.out, &call.lse) {
                tile.load_queries();
                let rows = self.load_rows(out, self.query_head(), 1.0, engine.e, engine.at.rows);
                self.turn(rows, engine.e, engine.at.acc[0]);
                let (delta, place) = (self.with_dout(engine.at.acc[0]), self.place(self.query_head()));
                let map = &mut self.maps[0];
                engine.kernels.common.gather(lse, &place, 2, n, map.lse.as_mut_ptr());
                map.shift[..n].copy_from_slice(&map.lse[..n]);
                map.factor[..n].fill(1.0);
                map.delta = delta;
                return;
            }
            tile.beside.missing = self.missing;
            tile.sum_up(self.unit.rows.keys(), true);
            tile.clear_unsummed();
            let sums = [0, 1].map(|i| match (i, engine.settings.form) {
                (1, form) if form.streams() == 1 => [0.0; ROWS],
                _ => self.with_dout(engine.at.acc[i]),
            });
            for (i, map) in self.maps.iter_mut().enumerate().take(self.n) {
                tile.end(i, self.heads, &mut map.factor, &mut map.lse);
                map.shift[..n].copy_from_slice(&tile.running[i].max[..n]);
                (0..n).for_each(|r| map.delta[r] = map.factor[r] * sums[i][r]);
            }
            match (engine.settings.form, &call.lam) {
                (Form::Probe, _) => {
                    let Map { factor, delta, .. } = &mut self.maps[0];
                    for r in 0..n {
                        self.along[r] = factor[r] * sums[0][r];
                        self.mean[r] = factor[r] * tile.running[1].sum[r];
                        delta[r] = self.along[r] * (1.0 + self.mean[r]) - factor[r] * sums[1][r];
                    }
                }
                (Form::Difference, Some(lam)) => {
                    let lam = engine.kernels.common.value(lam, &[self.query_head()]);
                    self.maps[1].factor.iter_mut().for_each(|factor| *factor *= -lam);
                    // Its weights have the factor, its Δ has not.
                    let total: f64 = self.maps[1].delta[..n].iter().map(|&x| f64::from(x)).sum();
                    self.add_sum(Sum::Lam as usize, -total);
                }
                (Form::Blend, _) => self.blend(),
                _ => {}
            }
        }
    }

    /// Adds to a sum of this query head.
    ///
    /// # Safety
    /// As [`run`].
    pub unsafe fn add_sum(&self, sum: usize, value: f64) {
        // SAFETY: the sums of a sequence and head are those of one task.
        unsafe { *self.run.sums(self.unit.index, self.query_head()).add(sum) += value }
    }

    /// Gradients of the queries, and sums over them.
    ///
    /// # Safety
    /// As [`run`]; the sweep is over.
    pub unsafe fn finish(&self) {
        let (engine, call, grads) = (self.unit.engine, self.unit.call, self.run.grads);
        let (head, n) = (self.query_head(), self.unit.rows.n);
        let total = |sums: &[f32; ROWS]| -> f64 { sums[..n].iter().map(|&x| f64::from(x)).sum() };
        // SAFETY: by contract.
        unsafe {
            self.add_sinks();
            for map in 0..self.heads {
                self.add_sum(Sum::Slope as usize + map, -total(&self.maps[map].distance));
            }
            if let (Some(q), Some(_)) = (&call.q, &grads.scale_bh) {
                // What `dq` is without its scale, times what `q` is without it.
                self.buffers.load_queries(q, |set| self.unit.query_head(set), |_| 1.0, engine.at.q[0]);
                let mut sums = [0.0; ROWS];
                self.columns(engine.d, engine.at.q[0], self.at.dq[0], &mut sums);
                self.add_sum(Sum::Scale as usize, total(&sums));
            }
            let scale = self.unit.scale(self.unit.rows.set[0]);
            if let Some(dq) = &grads.q {
                for map in 0..self.heads {
                    self.store(self.at.dq[map], scale, dq, head * self.heads + map);
                }
            }
            if let Some(dprobe) = &grads.probe {
                self.store(self.at.dq[1], 1.0, dprobe, head);
            }
        }
    }

    /// Gradients of sinks.
    ///
    /// # Safety
    /// As [`run`].
    unsafe fn add_sinks(&self) {
        let (unit, tiles) = (self.unit, &self.unit.engine.kernels.common);
        let Some(sink) = &unit.call.sink else { return };
        for (i, map) in self.maps.iter().enumerate().take(self.n) {
            // SAFETY: by contract.
            unsafe {
                let logit = tiles.value(sink, &[self.query_head() * self.heads + i]);
                let lam = unit.call.lam.as_ref().filter(|_| i == 1);
                let factor = lam.map_or(1.0, |lam| -tiles.value(lam, &[self.query_head()]));
                let mut sum = 0.0;
                for r in (0..unit.rows.n).filter(|&r| map.lse[r] != f32::NEG_INFINITY) {
                    let delta = map.delta[r] + self.mean[r] * self.along[r];
                    let share = (f64::from(logit) - f64::from(map.lse[r])).exp();
                    sum -= share * f64::from(factor * delta);
                }
                self.add_sum(Sum::Sink as usize + i, sum);
            }
        }
    }

    /// Sums `[D][32]` times a factor to the rows of a tensor.
    ///
    /// # Safety
    /// As [`run`]; the tensor's rows are this task's.
    pub unsafe fn store(&self, from: usize, scale: f32, to: &Tensor, head: usize) {
        let (engine, n) = (self.unit.engine, self.unit.rows.n);
        let (d, d16) = (engine.d, engine.d.next_multiple_of(16));
        let (sums, staging) = (self.buffer(from), self.buffer(engine.at.rows));
        let (place, tiles) = (self.place(head), &engine.kernels.common);
        // SAFETY: by contract.
        unsafe {
            (0..d * ROWS).for_each(|i| *sums.add(i) *= scale);
            for c in (0..d).step_by(16) {
                let columns = (d - c).min(16);
                tiles.transpose_to(sums.add(c * ROWS), (columns, n), ROWS, staging.add(c), d16);
            }
            tiles.store(staging, d16, &Slice::tokens(&self.unit.queries(to), &place, (n, d)));
        }
    }
}
