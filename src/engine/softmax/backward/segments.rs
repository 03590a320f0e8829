//! Segments and the memory of the others in reverse (`docs/spec/softmax.md` 6).
//!
//! ```text
//! for each segment that a query is in, in order:
//!     P                                         the memory, as forward makes it
//!     H = scale qᵀ do                           of its queries; their softmax by tile.rs, with dq += scale (P / n) do
//!     n dn −= P H / n      dP = H / n where P > 0
//! and in reverse:
//!     dVm = dP / θ + λ dVm                      what a threshold takes away is a constant
//!     dw += dVmᵀ Y         dY = dVm w           Y = clamp(Kᵀ V) − clamp(K_jᵀ V_j)
//!     d(Kᵀ V) += dY        d(K_jᵀ V_j) = −dY    0 where clamped
//! dK += V d(Kᵀ V)ᵀ + K dn / n                   dV += K d(Kᵀ V)
//! ```
//!
//! *Cost*: beside the softmax `16 S D E` FLOPs where every segment has queries, `4 D E` per query, and `6 D E²` per segment.
//! *Workspace*: per worker the matrices of forward, two more, and one for each segment that a query is in; one for each
//! sequence and head.

use super::Run;
use super::tile::Tile;
use crate::engine::call::Sequence;
use crate::engine::softmax::products::{Buffers, Operand, pitch};
use crate::engine::softmax::rows::{KEYS, ROWS, Unit};
use crate::engine::softmax::segments::{Carried, Head, Segments};
use crate::engine::softmax::{Form, Softmax};
use crate::error::Result;
use crate::kernel::matmul;
use crate::parallel::{self, Runner};
use crate::workspace::Carver;
use std::ops::Range;
use std::ptr;

/// Offsets of a worker's matrices, `[D, D]` padded, behind those of forward.
#[derive(Clone, Copy, Debug)]
pub struct Offsets {
    /// Gradients of the memory, as each segment that a query is in has it.
    memories: usize,
    /// Gradient of `Kᵀ V`, and the transpose of such a one.
    all: usize,
    turned: usize,
    /// `n dn`, `f64`.
    norms: usize,
}

impl Offsets {
    /// For so many queries and keys; nothing without segments.
    pub fn new(carver: &mut Carver, engine: &Softmax, (n_q, n_k): (usize, usize)) -> Offsets {
        let (visits, d) = match engine.settings.form {
            Form::Segments(settings) => (n_k.div_ceil(settings.block).min(n_q), engine.d),
            _ => (0, 0),
        };
        let ld = d.next_multiple_of(16);
        Offsets {
            memories: carver.take(&[visits, d, ld]),
            all: carver.take(&[d, ld]),
            turned: carver.take(&[d, ld]),
            norms: carver.take(&[2, ld]),
        }
    }
}

/// One head of a sequence.
struct Reverse<'a> {
    run: &'a Run<'a>,
    unit: &'a Unit<'a>,
    settings: &'a Segments,
    head: Head<'a>,
    base: *mut f32,
}

impl Run<'_> {
    /// Gradients of `w_mem` by a sequence and head.
    fn weights(&self, sequence: usize, head: usize) -> *mut f32 {
        let size = self.engine.d * self.engine.d.next_multiple_of(16);
        let at = self.regions.weights + (sequence * self.engine.heads.0 + head) * size;
        self.workspace.worker(0).wrapping_add(at)
    }

    /// Gradients of a head.
    ///
    /// # Safety
    /// As [`super::tile::run`]; nothing has been added to those of keys and values.
    pub unsafe fn segments(
        &self,
        settings: &Segments,
        (index, sequence): (usize, Sequence),
        head: usize,
        base: *mut f32,
    ) {
        let (engine, call) = (self.engine, self.call);
        let rows = settings.rows(engine, &sequence, 0..0, &(0..0));
        let unit = Unit { engine, call, sequence, index, head, splits: 1, rows };
        let head = Head::new(&unit, settings, &Carried::NONE, base);
        // SAFETY: by contract.
        unsafe { Reverse { run: self, unit: &unit, settings, head, base }.run() }
    }

    /// Zeros: sequences without queries or keys have no part.
    ///
    /// # Safety
    /// No task runs yet.
    pub unsafe fn clear_weights(&self) {
        let n = self.call.sequences.len() * self.engine.heads.0;
        let size = self.engine.d * self.engine.d.next_multiple_of(16);
        if matches!(self.engine.settings.form, Form::Segments(_)) {
            // SAFETY: by contract.
            unsafe { ptr::write_bytes(self.weights(0, 0), 0, n * size) };
        }
    }

    /// Stores the gradient of `w_mem`, which all share.
    pub fn store_weights(&self, runner: &dyn Runner) -> Result<()> {
        let (Some(to), d) = (&self.grads.w_mem, self.engine.d) else { return Ok(()) };
        let (n, heads, ld) = (self.call.sequences.len(), self.engine.heads.0, d.next_multiple_of(16));
        parallel::run(runner, d, &|row, _| {
            for column in 0..d {
                // SAFETY: every sequence and head has a matrix, and no task changes it any more.
                let one = |i: usize, head: usize| unsafe { *self.weights(i, head).add(row * ld + column) };
                let all = (0..n).flat_map(|i| (0..heads).map(move |head| (i, head)));
                let sum: f64 = all.map(|(i, head)| f64::from(one(i, head))).sum();
                // SAFETY: the tensor is `[D, D]`.
                unsafe { self.engine.kernels.common.set(to, &[row, column], sum as f32) };
            }
        })
    }
}

impl Reverse<'_> {
    fn at(&self) -> &Offsets {
        &self.run.regions.at.segments
    }

    fn buffer(&self, offset: usize) -> *mut f32 {
        self.base.wrapping_add(offset)
    }

    /// Gradient of the memory as the `visit`th segment has it.
    fn memory(&self, visit: usize) -> usize {
        self.at().memories + visit * self.unit.engine.d * self.head.ld()
    }

    /// # Safety
    /// As [`Run::segments`].
    unsafe fn run(&self) {
        let (settings, s) = (self.settings, &self.unit.sequence);
        let (at, ld) = (&self.unit.engine.at.matrices, self.head.ld());
        // SAFETY: by contract.
        unsafe {
            if s.n_k == 0 {
                return self.queries(0..s.n_q, &(0..0), None);
            }
            if s.n_q == 0 {
                return;
            }
            self.head.begin();
            self.head.matrix(self.at().all).fill(0.0);
            ptr::write_bytes(self.buffer(self.at().norms), 0, 2 * ld);
            for (visit, segment) in settings.visited(s, 0).enumerate() {
                let keys = settings.keys(s, segment);
                self.head.visit(&keys);
                self.head.matrix(self.memory(visit)).fill(0.0);
                self.queries(settings.queries(s, 0, segment), &keys, Some(visit));
                self.close(visit);
            }
            // The membrane is its gradient from here on, the memory that of the products.
            self.head.load_weight(false);
            self.head.matrix(at.membrane).fill(0.0);
            let visits = settings.visited(s, 0).count();
            for (i, segment) in settings.visited(s, 0).rev().enumerate() {
                self.leave(visits - 1 - i, &settings.keys(s, segment));
            }
            self.head.products(0..s.n_k, at.part, false);
            self.pass(self.at().all, 1.0);
            self.spread(0..s.n_k, self.at().all);
            self.norms();
        }
    }

    /// The softmax of queries of a segment, and what the memory has to do with them.
    ///
    /// # Safety
    /// As [`Run::segments`]; the memory is there.
    unsafe fn queries(&self, queries: Range<usize>, keys: &Range<usize>, visit: Option<usize>) {
        let Unit { engine, call, sequence, index, head, .. } = *self.unit;
        let ld = self.head.ld();
        for first in queries.clone().step_by(ROWS) {
            let of = first..(first + ROWS).min(queries.end);
            let rows = self.settings.rows(engine, &sequence, of, keys);
            let unit = Unit { engine, call, sequence, index, head, splits: 1, rows };
            let mut tile = Tile::new(self.run, &unit, self.base);
            tile.missing = self.settings.missing(keys);
            // SAFETY: by contract.
            unsafe {
                tile.through_softmax();
                if let Some(visit) = visit {
                    let memory = Operand::new(self.buffer(engine.at.matrices.memory), ld);
                    tile.linear(memory, self.buffer(self.memory(visit)));
                }
                tile.finish();
            }
        }
    }

    /// From products of queries and gradients of outputs to gradients of the memory, and of the norms.
    ///
    /// # Safety
    /// As [`Run::segments`]; the products are there, and the memory that they belong to.
    unsafe fn close(&self, visit: usize) {
        let (at, d, ld) = (&self.unit.engine.at.matrices, self.unit.engine.d, self.head.ld());
        // SAFETY: by contract.
        unsafe {
            let (memory, to) = (self.head.matrix(at.memory), self.head.matrix(self.memory(visit)));
            let inverse = std::slice::from_raw_parts(self.buffer(at.norms), ld);
            let norms = std::slice::from_raw_parts_mut(self.buffer(self.at().norms).cast::<f64>(), ld);
            for (memory, to) in memory.chunks_exact(ld).zip(to.chunks_exact_mut(ld)) {
                for e in 0..d {
                    norms[e] -= f64::from(memory[e]) * f64::from(to[e]);
                    to[e] *= match memory[e] {
                        // Below the threshold. A memory that is NaN is above.
                        0.0 => 0.0,
                        _ if self.settings.normed => inverse[e],
                        _ => 1.0,
                    };
                }
            }
        }
    }

    /// Back over a segment: gradients of its products, and of what it has left.
    ///
    /// # Safety
    /// As [`Run::segments`]; the weights are there as they are.
    unsafe fn leave(&self, visit: usize, keys: &Range<usize>) {
        let (engine, ld) = (self.unit.engine, self.head.ld());
        let (at, d) = (&engine.at.matrices, engine.d);
        let Segments { threshold, leak, .. } = *self.settings;
        let product = |to: *mut f32, begun| {
            let c0 = if begun { to.cast_const() } else { ptr::null() };
            matmul::Args {
                lda: ld,
                ldb: ld,
                c0,
                ldc0: ld as isize,
                ..matmul::Args::product(d, d, d, to, ld as isize)
            }
        };
        // SAFETY: by contract; the matrices differ.
        unsafe {
            let carried = self.head.matrix(at.membrane);
            for (carried, own) in carried.iter_mut().zip(self.head.matrix(self.memory(visit))) {
                *carried = leak * *carried + *own / threshold;
            }
            let (carried, dy) = (self.buffer(at.membrane), self.buffer(at.memory));
            let b = self.buffer(at.weight).cast_const();
            (engine.kernels.common.matmul)(&matmul::Args { a: carried, b, ..product(dy, false) });
            for (sum, dy) in self.head.matrix(self.at().all).iter_mut().zip(self.head.matrix(at.memory)) {
                *sum += *dy;
            }
            self.head.products(keys.clone(), at.part, false);
            self.pass(at.memory, -1.0);
            self.spread(keys.clone(), at.memory);
            self.head.clamp(at.part);
            for (part, all) in self.head.matrix(at.part).iter_mut().zip(self.head.matrix(at.all)) {
                *part = *all - *part;
            }
            let (b, to) =
                (self.buffer(at.part).cast_const(), self.run.weights(self.unit.index, self.unit.head));
            let with = matmul::Args { a: carried, a_by_columns: true, b, ..product(to, true) };
            (engine.kernels.common.matmul)(&with);
        }
    }

    /// Gradients, times a sign, of products that are within the limit; those of others are 0.
    ///
    /// # Safety
    /// As [`Run::segments`]; the products are there, not clamped.
    unsafe fn pass(&self, gradients: usize, sign: f32) {
        let limit = self.settings.limit;
        // SAFETY: by contract; the matrices differ.
        let (products, to) =
            unsafe { (self.head.matrix(self.unit.engine.at.matrices.part), self.head.matrix(gradients)) };
        for (x, to) in products.iter().zip(to) {
            *to = if limit > 0.0 && x.abs() > limit { 0.0 } else { sign * *to };
        }
    }

    /// Adds the gradients of a product of keys and values to theirs.
    ///
    /// # Safety
    /// As [`Run::segments`]; the matrix is there.
    unsafe fn spread(&self, keys: Range<usize>, matrix: usize) {
        let (engine, call, ld) = (self.unit.engine, self.unit.call, self.head.ld());
        let (d, tiles, at) = (engine.d, &engine.kernels.common, &self.run.regions.at);
        let (Some(k), Some(v)) = (&call.k, &call.v) else { return };
        let buffers = Buffers { unit: self.unit, base: self.base };
        // SAFETY: by contract; rows of keys and values have gradients, and tiles are of at most 64.
        unsafe {
            for i in (0..d).step_by(16) {
                let (from, to) = (self.buffer(matrix + i * ld), self.buffer(self.at().turned + i));
                tiles.transpose_to(from, ((d - i).min(16), d), ld, to, ld);
            }
            let product = |rows: Operand, n, matrix: usize, to: *mut f32| {
                let (a, lda, b, ldb, ldc0) = (rows.at, rows.ld, self.buffer(matrix), ld, pitch(d) as isize);
                let plain = matmul::Args::product(n, d, d, to, ldc0);
                (tiles.matmul)(&matmul::Args { a, lda, b, ldb, c0: to, ldc0, ..plain });
            };
            for first in keys.clone().step_by(KEYS) {
                let of = first..(first + KEYS).min(keys.end);
                let k = buffers.copy_of(&self.unit.keys_of(k, self.unit.head), &of);
                let v = buffers.copy_of(&self.unit.values_of(v), &of);
                product(k, of.len(), matrix, self.buffer(at.dv + first * pitch(d)));
                product(v, of.len(), self.at().turned, self.buffer(at.dk[0] + first * pitch(d)));
            }
        }
    }

    /// Adds the gradients of the norms to those of the keys.
    ///
    /// # Safety
    /// As [`Run::segments`].
    unsafe fn norms(&self) {
        let (engine, call, s) = (self.unit.engine, self.unit.call, &self.unit.sequence);
        let (Some(k), d, ld) = (&call.k, engine.d, self.head.ld()) else { return };
        if !self.settings.normed {
            return;
        }
        let buffers = Buffers { unit: self.unit, base: self.base };
        // SAFETY: by contract; rows of keys have gradients, and tiles are of at most 64.
        unsafe {
            let inverse = std::slice::from_raw_parts(self.buffer(engine.at.matrices.norms), ld);
            let norms = std::slice::from_raw_parts_mut(self.buffer(self.at().norms).cast::<f64>(), ld);
            for (norm, &inverse) in norms.iter_mut().zip(inverse) {
                *norm *= f64::from(inverse) * f64::from(inverse);
            }
            for first in (0..s.n_k).step_by(KEYS) {
                let of = first..(first + KEYS).min(s.n_k);
                let rows = buffers.copy_of(&self.unit.keys_of(k, self.unit.head), &of);
                for i in 0..of.len() {
                    let to = self.buffer(self.run.regions.at.dk[0] + (first + i) * pitch(d));
                    for (c, &norm) in norms[..d].iter().enumerate() {
                        *to.add(c) += norm as f32 * *rows.at.add(i * rows.ld + c);
                    }
                }
            }
        }
    }
}

impl Tile<'_> {
    /// Gradients of queries that a matrix is multiplied with, and, added, of the matrix.
    ///
    /// # Safety
    /// The sweep is over; the matrices are `[D, E]` padded.
    unsafe fn linear(&mut self, matrix: Operand, to: *mut f32) {
        let (engine, rows, at) = (self.unit.engine, &self.unit.rows, self.at);
        let (d, e, dq, ld) = (engine.d, engine.e, self.buffer(at.dq[0]), matrix.ld as isize);
        // SAFETY: by contract.
        unsafe {
            (engine.kernels.common.matmul)(&matmul::Args {
                a: matrix.at,
                lda: matrix.ld,
                b: self.buffer(at.dout_t),
                ldb: ROWS,
                c0: dq,
                ldc0: ROWS as isize,
                ..matmul::Args::product(d, rows.width, e, dq, ROWS as isize)
            });
            // All see the memory: what was taken out of rows belongs here.
            self.load_whole();
            (engine.kernels.common.matmul)(&matmul::Args {
                a: self.buffer(at.q[0]),
                lda: d.next_multiple_of(16),
                a_by_columns: true,
                b: self.buffer(at.dout),
                ldb: e.next_multiple_of(16),
                c0: to,
                ldc0: ld,
                ..matmul::Args::product(d, e, rows.n, to, ld)
            });
        }
    }
}
