//! One tile of queries on its way through its keys.

use super::Form;
use super::Weights;
use super::products::{Buffers, Operand};
use super::rows::{KEYS, ROWS, Unit, tiles_of};
use super::terms::Terms;
use crate::kernel::online_softmax::{self, MASKED};
use crate::kernel::{elementwise, products};
use crate::tensor::Tensor;
use half::bf16;
use std::ops::Range;
use std::ptr;

/// A softmax on its way: maximum and sum of each row.
#[derive(Clone, Copy)]
pub struct Running {
    pub max: [f32; ROWS],
    pub sum: [f32; ROWS],
}

impl Running {
    /// Before the first key. Weights that are no softmax have a factor of 1 from the start: `e^0`.
    pub fn empty(weights: Weights) -> Running {
        let max = if weights == Weights::Softmax { f32::NEG_INFINITY } else { 0.0 };
        Running { max: [max; ROWS], sum: [0.0; ROWS] }
    }
}

/// What a softmax over a segment has beside its keys.
pub struct Beside {
    /// One more logit without a value.
    pub missing: f32,
    /// A matrix `[D, E]` that the queries are multiplied with.
    pub linear: Option<Operand>,
}

/// A tile of queries with its softmaxes; of a probe, the second one's sum is that of the weighed scores.
pub struct Tile<'a> {
    pub buffers: Buffers<'a>,
    pub running: [Running; 2],
    /// The key that each row's maximum came from, where that is asked for.
    pub best: [Option<usize>; ROWS],
    pub beside: Beside,
    /// Sums of each stream's weights as they were rounded.
    rounded: [[f32; ROWS]; 2],
    /// Nothing has been summed up yet.
    first: [bool; 2],
}

/// Runs one unit over its share of the keys; the result goes to `part` if there is one, else to the outputs.
pub fn run(unit: &Unit<'_>, base: *mut f32, split: usize, part: Option<*mut f32>) {
    let mut tile = Tile::empty(unit, base);
    // SAFETY: tensors have the shapes that `plan::check` made sure of; buffers those that `Offsets` names.
    unsafe {
        tile.sum_up(share(unit.rows.keys(), split, unit.splits), split + 1 == unit.splits);
        match part {
            Some(part) => tile.store_part(part),
            None => tile.finish(),
        }
    }
}

/// Run `i` of the keys, cut into `n` at the ends of tiles.
fn share(keys: Range<usize>, i: usize, n: usize) -> Range<usize> {
    let first = keys.start / KEYS;
    let tiles = (keys.end.div_ceil(KEYS) - first).div_ceil(n);
    let at = |i: usize| ((first + i * tiles) * KEYS).clamp(keys.start, keys.end);
    at(i)..at(i + 1)
}

impl<'a> Tile<'a> {
    /// A tile that has seen nothing.
    pub fn empty(unit: &'a Unit<'a>, base: *mut f32) -> Tile<'a> {
        let running = [Running::empty(unit.engine.settings.weights); 2];
        let beside = Beside { missing: f32::NEG_INFINITY, linear: None };
        let (best, rounded, first) = ([None; ROWS], [[0.0; ROWS]; 2], [true; 2]);
        Tile { buffers: Buffers { unit, base }, running, best, beside, rounded, first }
    }

    /// Sums have come from elsewhere.
    pub fn summed(&mut self) {
        self.first = [false; 2];
    }

    /// Nothing has been summed up.
    pub fn restart(&mut self) {
        self.first = [true; 2];
    }

    /// Sums of nothing are zero.
    ///
    /// # Safety
    /// As [`Tile::sum_up`].
    pub unsafe fn clear_unsummed(&self) {
        let engine = self.buffers.unit.engine;
        for stream in (0..engine.settings.form.streams()).filter(|&stream| self.first[stream]) {
            // SAFETY: by contract.
            unsafe { self.buffers.clear_sums(engine.at.acc[stream]) };
        }
    }

    /// Sums up these keys, and those of the memory after the last run.
    ///
    /// # Safety
    /// Tensors and buffers are those of the call.
    pub unsafe fn sum_up(&mut self, keys: Range<usize>, last: bool) {
        let (unit, buffers) = (self.buffers.unit, self.buffers);
        let (at, call, form) = (&unit.engine.at, unit.call, unit.engine.settings.form);
        // SAFETY: by contract.
        unsafe {
            self.load_queries();
            if !unit.rows.wide {
                // Columns that are no rows are computed with, and never written.
                for x in at.x.into_iter().take(form.streams()) {
                    ptr::write_bytes(buffers.at(x), 0, KEYS * ROWS);
                }
            }
            let (softmaxes, heads) = (form.softmaxes(), form.score_heads());
            let mut terms: [Terms; 2] =
                std::array::from_fn(|i| Terms::new(&buffers, i.min(softmaxes - 1), heads));
            let Some(k) = call.k else { return };
            self.walk(&Source { k, v: call.v, keys, all: false }, &mut terms);
            if let Some(memory) = call.memory.filter(|_| last) {
                let (k, v) = (unit.as_keys(&memory.k), Some(unit.as_keys(&memory.v)));
                self.walk(&Source { k, v, keys: 0..memory.len(), all: true }, &mut terms);
            }
        }
    }

    /// Sums up the keys of a source, tile by tile.
    ///
    /// # Safety
    /// As [`Tile::sum_up`]; queries are loaded.
    unsafe fn walk(&mut self, source: &Source, terms: &mut [Terms; 2]) {
        let (unit, buffers) = (self.buffers.unit, self.buffers);
        let (at, form) = (&unit.engine.at, unit.engine.settings.form);
        let (heads, pairs) = (form.score_heads(), buffers.pairs());
        // SAFETY: by contract; where scores are of pairs, the rows are those of one head.
        let scale = if pairs.scores { unsafe { unit.scale(unit.rows.set[0]) } } else { 1.0 };
        for keys in tiles_of(source.keys.clone()) {
            let masked = !source.all && !unit.rows.see_all(&keys);
            // SAFETY: by contract.
            unsafe {
                let v = source.v.filter(|_| form.reads_values()).map(|v| self.values(&v, &keys, masked));
                for (stream, terms) in terms.iter_mut().enumerate().take(form.softmaxes()) {
                    let head = unit.head * heads + stream % heads;
                    let keys_of = unit.keys_of(&source.k, head);
                    let k = match pairs.scores {
                        true => buffers.key_pairs(&keys_of, &keys),
                        false => buffers.rows_of(&keys_of, &keys, false),
                    };
                    if pairs.scores {
                        buffers.score_pairs(k, keys.len(), at.q[stream], at.x[stream], scale);
                    } else if form != Form::Blend || stream == 0 {
                        buffers.scores(k, keys.len(), at.q[stream % heads], at.x[stream]);
                    }
                    if form == Form::Blend && stream == 0 {
                        let (x, copy) = (buffers.at(at.x[0]), buffers.at(at.x[1]));
                        ptr::copy_nonoverlapping(x, copy, keys.len() * ROWS);
                    }
                    terms.apply(&buffers, &keys, masked, at.x[stream]);
                    let factor = match form {
                        Form::Best { .. } => self.best(&keys, masked),
                        _ => self.weights(stream, keys.len()),
                    };
                    let Some(v) = &v else { continue };
                    if form == Form::Probe {
                        self.probe(k, v, &keys, masked, &factor);
                    }
                    self.add(stream, stream, v, &keys, &factor);
                }
            }
        }
    }

    /// Queries of every stream.
    ///
    /// # Safety
    /// As [`Tile::sum_up`].
    pub unsafe fn load_queries(&self) {
        let (unit, buffers) = (self.buffers.unit, self.buffers);
        let (at, call, settings) = (&unit.engine.at, unit.call, &unit.engine.settings);
        let Some(q) = call.q.map(|q| unit.queries(&q)) else { return };
        let pairs = buffers.pairs().scores;
        // SAFETY: by contract.
        let scale = |set| unsafe { unit.scale(set) };
        // SAFETY: by contract.
        let load = |tensor: &Tensor, head: &dyn Fn(usize) -> usize, scale: &dyn Fn(usize) -> f32, to| unsafe {
            match pairs {
                true => buffers.load_query_pairs(tensor, head, to),
                false => buffers.load_queries(tensor, head, scale, to),
            }
        };
        match (settings.form, call.probe) {
            (Form::Difference, _) => {
                for stream in 0..2 {
                    load(&q, &|set| 2 * unit.query_head(set) + stream, &scale, at.q[stream]);
                }
            }
            (Form::Probe, Some(probe)) => {
                load(&q, &|set| unit.query_head(set), &scale, at.q[0]);
                load(&probe, &|set| unit.query_head(set), &|_| 1.0, at.q[1]);
            }
            _ => load(&q, &|set| unit.query_head(set) / unit.engine.shared, &scale, at.q[0]),
        }
    }

    /// Weights of a tile in place of its scores; the factor of what was summed up before, if it is not 1.
    ///
    /// # Safety
    /// The stream's buffer holds scores.
    unsafe fn weights(&mut self, stream: usize, n: usize) -> Option<[f32; ROWS]> {
        let Unit { engine, rows, .. } = self.buffers.unit;
        let running = &mut self.running[stream];
        let (mut factor, mut changed) = ([1.0; ROWS], false);
        let x = self.buffers.at(engine.at.x[stream]);
        if let Some(weights) = engine.kernels.weights {
            // SAFETY: by contract; a tile is `[n][32]`.
            unsafe { weights(&elementwise::Args { n: n * ROWS, src: x, dst: x }) };
            return None;
        }
        // SAFETY: by contract.
        unsafe {
            (engine.kernels.online)(&online_softmax::Args {
                n,
                w: if rows.n <= 4 { 4 } else { rows.width },
                x,
                ld: ROWS,
                max: running.max.as_mut_ptr(),
                sum: running.sum.as_mut_ptr(),
                factor: factor.as_mut_ptr(),
                changed: &mut changed,
            });
        }
        changed.then_some(factor)
    }

    /// The second score of a probe, times the weights, summed up with and without the values.
    ///
    /// # Safety
    /// The first buffer holds weights.
    unsafe fn probe(
        &mut self,
        k: Operand,
        v: &Values,
        keys: &Range<usize>,
        masked: bool,
        factor: &Option<[f32; ROWS]>,
    ) {
        let (engine, buffers) = (self.buffers.unit.engine, self.buffers);
        let (x, y) = (buffers.at(engine.at.x[0]), buffers.at(engine.at.x[1]));
        let n = keys.len() * ROWS;
        // SAFETY: by contract.
        unsafe {
            match buffers.pairs().scores {
                true => buffers.score_pairs(k, keys.len(), engine.at.q[1], engine.at.x[1], 1.0),
                false => buffers.scores(k, keys.len(), engine.at.q[1], engine.at.x[1]),
            }
            if masked || Terms::may_mask(&buffers) {
                // What is masked has the weight −0, which times 0 stays; its score may not be finite.
                for i in (0..n).filter(|&i| (*x.add(i)).to_bits() == MASKED) {
                    *y.add(i) = 0.0;
                }
            }
            (engine.kernels.common.product)(&elementwise::Args { n, src: x, dst: y });
            let sum = &mut self.running[1].sum;
            if let Some(factor) = factor {
                sum.iter_mut().zip(factor).for_each(|(sum, factor)| *sum *= factor);
            }
            let (d, col) = (buffers.unit.rows.width, sum.as_mut_ptr());
            let (b, row) = (ptr::null(), ptr::null_mut());
            (engine.kernels.sums)(&products::Args { n: keys.len(), d, a: y, lda: ROWS, b, ldb: 0, row, col });
            self.add(1, 1, v, keys, factor);
        }
    }

    /// A tile of values; in a tile that is not seen whole, what is not finite is taken out.
    ///
    /// # Safety
    /// The tensor has these keys.
    pub unsafe fn values(&self, v: &Tensor, keys: &Range<usize>, masked: bool) -> Values {
        let (unit, buffers) = (self.buffers.unit, self.buffers);
        let of = unit.values_of(v);
        let guarded = masked || Terms::may_mask(&buffers);
        // SAFETY: by contract.
        unsafe {
            if buffers.pairs().values {
                let (operand, poison) = buffers.value_pairs(&of, keys, guarded);
                return Values { tensor: *v, operand, poison };
            }
            if !guarded {
                let operand = buffers.rows_of(&of, keys, !unit.rows.wide);
                return Values { tensor: *v, operand, poison: 0 };
            }
            let (operand, poison) = buffers.finite_copy_of(&of, keys);
            Values { tensor: *v, operand, poison }
        }
    }

    /// `acc = acc · factor + Vᵀ X`, what is not finite for the rows that see it only.
    ///
    /// # Safety
    /// Buffer `x` holds weights, `acc` sums unless these are the first.
    pub unsafe fn add(
        &mut self,
        x: usize,
        acc: usize,
        v: &Values,
        keys: &Range<usize>,
        factor: &Option<[f32; ROWS]>,
    ) {
        let (unit, buffers) = (self.buffers.unit, self.buffers);
        let at = &unit.engine.at;
        let (factors, factor) = (factor, factor.as_ref().map_or(ptr::null(), |factor| factor.as_ptr()));
        let (first, rounded) = (std::mem::replace(&mut self.first[acc], false), buffers.pairs().values);
        let (x, stream, acc) = (at.x[x], acc, at.acc[acc]);
        // SAFETY: by contract.
        unsafe {
            match rounded {
                true => {
                    let sums = buffers.add_value_pairs(v.operand, keys.len(), x, acc, first, factor);
                    for (r, sum) in self.rounded[stream].iter_mut().enumerate() {
                        *sum = factors.map_or(*sum, |factors| *sum * factors[r]) + sums[r];
                    }
                }
                false => buffers.add_values(v.operand, keys.len(), x, acc, first, factor),
            }
            for s in (0..keys.len()).filter(|s| v.poison & 1 << s != 0) {
                let run = unit.run(&(keys.start + s..keys.end));
                for e in 0..unit.engine.e {
                    let at = [run.entry, unit.head, run.row, e];
                    let value = unit.engine.kernels.common.value(&v.tensor, &at);
                    let value = if rounded { bf16::from_f32(value).to_f32() } else { value };
                    for r in (0..unit.rows.n).filter(|_| !value.is_finite()) {
                        let weight = *buffers.at(x).add(s * ROWS + r);
                        if weight.to_bits() != MASKED {
                            *buffers.sum(acc, r, e) += weight * value;
                        }
                    }
                }
            }
        }
    }

    /// Sums and softmaxes of a run of keys.
    ///
    /// # Safety
    /// `part` has the elements of a part; what follows a sum is its own.
    unsafe fn store_part(&mut self, part: *mut f32) {
        let engine = self.buffers.unit.engine;
        let len = ROWS * engine.e.next_multiple_of(16);
        // SAFETY: by contract.
        unsafe { self.clear_unsummed() };
        for stream in 0..engine.settings.form.streams() {
            // SAFETY: by contract.
            unsafe {
                let to = part.add(stream * (len + 2 * ROWS));
                ptr::copy_nonoverlapping(self.buffers.at(engine.at.acc[stream]), to, len);
                to.add(len).cast::<Running>().write(self.running[stream]);
            }
        }
    }

    /// Outputs.
    ///
    /// # Safety
    /// As [`Tile::sum_up`].
    pub unsafe fn finish(&mut self) {
        let (unit, buffers) = (self.buffers.unit, self.buffers);
        let (at, form) = (&unit.engine.at, unit.engine.settings.form);
        let softmaxes = form.softmaxes();
        let (mut factor, mut lse) = ([[0.0; ROWS]; 2], [0.0; ROWS]);
        // SAFETY: by contract.
        unsafe {
            self.clear_unsummed();
            if let Form::Best { smoothing, .. } = form {
                return self.finish_best(smoothing);
            }
            if unit.engine.settings.weights == Weights::Softmax {
                for (stream, factor) in factor.iter_mut().enumerate().take(softmaxes) {
                    self.end(stream, form.score_heads(), factor, &mut lse);
                }
                self.combine(&mut factor);
                for (stream, factor) in factor.iter().enumerate().take(form.streams()) {
                    buffers.scale_sums(at.acc[stream], factor.as_ptr());
                }
            }
            if let Some(matrix) = self.beside.linear {
                buffers.add_values(matrix, unit.engine.d, at.q[0], at.acc[0], false, ptr::null());
            }
            if form.streams() == 2 {
                let len = ROWS * unit.engine.e.next_multiple_of(16);
                let (sum, other) = (buffers.at(at.acc[0]), buffers.at(at.acc[1]));
                (0..len).for_each(|i| *sum.add(i) -= *other.add(i));
            }
            if let Some(out) = &unit.call.out {
                buffers.store_sums(at.acc[0], &unit.queries(out));
            }
            if let Some(to) = &unit.call.lse {
                for (i, &lse) in lse[..unit.rows.n].iter().enumerate() {
                    let (head, token) =
                        (unit.query_head(unit.rows.set[i]), unit.sequence.q0 + unit.rows.token[i]);
                    *to.f32_at(&[unit.sequence.batch, head, token]) = lse;
                }
            }
            if let Some(to) = &unit.call.to_columns {
                for (i, &lse) in lse[..unit.rows.n].iter().enumerate() {
                    *to.at(unit.head_of_all(i), unit.rows.token[i]) = lse;
                }
            }
        }
    }

    /// The end of a softmax.
    ///
    /// # Safety
    /// As [`Tile::sum_up`].
    pub unsafe fn end(&self, stream: usize, heads: usize, factor: &mut [f32; ROWS], lse: &mut [f32; ROWS]) {
        let (unit, running) = (self.buffers.unit, &self.running[stream]);
        let mut sinks = [self.beside.missing; ROWS];
        let sunk = unit.call.sink.is_some() || self.beside.missing > f32::NEG_INFINITY;
        if let Some(sink) = &unit.call.sink {
            for (to, &set) in sinks.iter_mut().zip(&unit.rows.set[..unit.rows.n]) {
                // SAFETY: a sink for each head.
                *to = unsafe {
                    unit.engine.kernels.common.value(sink, &[unit.query_head(set) * heads + stream])
                };
            }
        }
        let mut end = |sum: &[f32; ROWS], factor: &mut [f32; ROWS]| {
            // SAFETY: vectors of 32.
            unsafe {
                (unit.engine.kernels.end)(&online_softmax::EndArgs {
                    w: unit.rows.width,
                    max: running.max.as_ptr(),
                    sum: sum.as_ptr(),
                    sink: if sunk { sinks.as_ptr() } else { ptr::null() },
                    factor: factor.as_mut_ptr(),
                    lse: lse.as_mut_ptr(),
                });
            }
        };
        if self.buffers.pairs().values {
            end(&self.rounded[stream], factor);
            return end(&running.sum, &mut [0.0; ROWS]);
        }
        end(&running.sum, factor);
    }

    /// Factors of the two sums, of which the second is subtracted.
    ///
    /// # Safety
    /// As [`Tile::sum_up`].
    unsafe fn combine(&self, factor: &mut [[f32; ROWS]; 2]) {
        let unit = self.buffers.unit;
        match (unit.engine.settings.form, &unit.call.lam) {
            (Form::Difference, Some(lam)) => {
                for (factor, &set) in factor[1].iter_mut().zip(&unit.rows.set[..unit.rows.n]) {
                    // SAFETY: a value for each head.
                    *factor *= unsafe { unit.engine.kernels.common.value(lam, &[unit.query_head(set)]) };
                }
            }
            (Form::Blend, _) => {
                let Some(blend) = &unit.call.blend else { return };
                let [first, second] = factor;
                let sets = &unit.rows.set[..unit.rows.n];
                for ((first, second), &set) in first.iter_mut().zip(second).zip(sets) {
                    // SAFETY: a value for each head.
                    let part = unsafe { unit.engine.kernels.common.value(blend, &[unit.query_head(set)]) };
                    (*first, *second) = (*first * part, *second * (part - 1.0));
                }
            }
            (Form::Probe, _) => {
                let [first, second] = factor;
                second.copy_from_slice(first);
                let rounded = self.buffers.pairs().values;
                let sums = if rounded { &self.rounded[1] } else { &self.running[1].sum };
                for (factor, sum) in first.iter_mut().zip(sums) {
                    *factor *= 1.0 + sum * *factor;
                }
            }
            _ => {}
        }
    }
}

/// Keys that a tile of queries walks, and their values if there are any.
struct Source {
    k: Tensor,
    v: Option<Tensor>,
    keys: Range<usize>,
    /// Every row sees all of them.
    all: bool,
}

/// A tile of values, and which of its rows have elements that are not finite and are zero in the operand.
pub struct Values {
    tensor: Tensor,
    operand: Operand,
    poison: u64,
}
