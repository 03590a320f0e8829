//! Gradients of convolutions over the map of scores (`docs/spec/softmax.md` 12).
//!
//! ```text
//! P = softmax(X)      dV += P do      dP = do·v      dX = P (dP − Σ P dP)
//! dhid[s] = Σ_j W₂[j]ᵀ dX[s − j + ⌊κ/2⌋]             dpre = dhid leaky'(pre)
//! dS[s]   = dX[s] + Σ_j W₁[j]ᵀ dpre[s − j + ⌊κ/2⌋]    for keys that the query sees
//! dW₂[j] += Σ_s hid[s + j − ⌊κ/2⌋] dX[s]ᵀ             dW₁[j] += Σ_s u[s + j − ⌊κ/2⌋] dpre[s]ᵀ
//! dq = scale Σ dS k      dK += scale dS q
//! ```
//!
//! Query by query over all of its keys, heads across the lanes as in forward, so that taps stacked are one product and the map
//! is kept for one query only. A task is a sequence: its keys' and values' gradients lie in the workspace, `S (D + E)` to
//! each key head. Gradients of weights are sums of `f32` over 16 queries, then of `f64`, sequences in order.

use crate::engine::linear::Rows as Slice;
use crate::engine::softmax::Softmax;
use crate::engine::softmax::call::Call;
use crate::engine::softmax::dape::{Convolution, Maps, Queries};
use crate::engine::softmax::products::pitch;
use crate::error::Result;
use crate::kernel::{dots, matmul, online_softmax, products};
use crate::parallel::{self, Runner};
use crate::simd::prefetch::Ahead;
use crate::tensor::{DType, Tensor};
use crate::workspace::{Carver, Workspace};
use std::ops::Range;
use std::{ptr, slice};

/// Queries whose gradients of weights are summed up in `f32`.
const QUERIES: usize = 16;

/// Offsets of a worker's buffers, in elements.
#[derive(Clone, Copy, Debug)]
struct Offsets {
    maps: Maps,
    /// Weights with taps reversed, from the outputs to the inputs: `[κ][F][H]` of the scores alone, and `[κ][H][F]`.
    first: usize,
    second: usize,
    /// The first convolution before its slopes, and gradients there, `[S + 2⌊κ/2⌋][F]`.
    pre: usize,
    dpre: usize,
    /// `[S][H]`: gradients of weights, of corrected scores with `2⌊κ/2⌋` rows of zeros on both sides, of scores.
    dp: usize,
    dx: usize,
    ds: usize,
    delta: usize,
    /// Rows of a query.
    dout: usize,
    dq: usize,
    /// Of all key heads `[Hk][S][…]` padded.
    dk: usize,
    dv: usize,
    /// Gradients of weights and biases over some queries.
    weights: Weights,
    len: usize,
}

/// Offsets of gradients of weights `[κ][2H][F]`, `[F]`, `[κ][F][H]`, `[H]`, padded, one after the other.
#[derive(Clone, Copy, Debug)]
struct Weights {
    at: [usize; 5],
}

impl Weights {
    fn new(carver: &mut Carver, heads: usize, settings: &Convolution) -> Weights {
        let up = |n: usize| n.next_multiple_of(16);
        let (c, f, h, taps) = (up(2 * heads), up(settings.width), up(heads), settings.taps);
        let start = carver.take(&[taps, c, f]);
        let at = [start, carver.take(&[f]), carver.take(&[taps, f, h]), carver.take(&[h]), carver.take(&[])];
        Weights { at }
    }

    fn len(&self) -> usize {
        self.at[4] - self.at[0]
    }
}

/// Where things lie in the workspace of a call: sums of `f64` of each sequence, then the workers.
struct Regions {
    at: Offsets,
    sums: usize,
    len: usize,
}

impl Regions {
    fn new(
        engine: &Softmax,
        settings: &Convolution,
        sequences: usize,
        n_k: usize,
        workers: usize,
    ) -> Result<Regions> {
        let up = |n: usize| n.next_multiple_of(16);
        let (heads, d, e) = (engine.heads.0, engine.d, engine.e);
        let (f, h, taps) = (up(settings.width), up(heads), settings.taps);
        let half = taps / 2;
        let mut carver = Carver::default();
        let at = Offsets {
            maps: Maps::new(&mut carver, (heads, d, e), n_k, Some(settings)),
            first: carver.take(&[taps, f, h]),
            second: carver.take(&[taps, h, f]),
            pre: carver.take(&[n_k + 2 * half, f]),
            dpre: carver.take(&[n_k + 2 * half, f]),
            dp: carver.take(&[n_k, h]),
            dx: carver.take(&[n_k + 4 * half, h]),
            ds: carver.take(&[n_k, h]),
            delta: carver.take(&[h]),
            dout: carver.take(&[heads, up(e)]),
            dq: carver.take(&[heads, up(d)]),
            dk: carver.take(&[engine.heads.1, n_k, pitch(d)]),
            dv: carver.take(&[engine.heads.1, n_k, pitch(e)]),
            weights: Weights::new(&mut carver, heads, settings),
            len: carver.finish()?,
        };
        let mut carver = Carver::default();
        carver.take(&[sequences, at.weights.len(), 2]);
        let sums = carver.finish()?;
        carver.take(&[workers, at.len]);
        Ok(Regions { at, sums, len: carver.finish()? })
    }
}

/// Elements of workspace for all workers together.
pub fn workspace(
    engine: &Softmax,
    settings: &Convolution,
    sequences: usize,
    n_k: usize,
    workers: usize,
) -> Option<usize> {
    Regions::new(engine, settings, sequences, n_k, workers).ok().map(|regions| regions.len)
}

/// Runs a call in reverse.
pub fn run(
    engine: &Softmax,
    settings: &Convolution,
    runner: &dyn Runner,
    (call, grads): (&Call, &Call),
    workspace: &Workspace,
) -> Result<()> {
    let (n, n_k) = (call.sequences.len(), call.sequences.longest().1);
    let regions = Regions::new(engine, settings, n, n_k, runner.max_workers())?;
    let at = &regions.at;
    let len = at.weights.len();
    parallel::run(runner, n, &|index, worker| {
        let Some(sequence) = call.sequences.get(index) else { return };
        let base = workspace.worker(0).wrapping_add(regions.sums + worker * at.len);
        let queries = Queries { engine, settings, call, sequence, base, maps: &at.maps, tile: sequence.n_k };
        let sums = workspace.worker(0).cast::<f64>().wrapping_add(index * len);
        // SAFETY: tensors have the shapes that `plan::check` made sure of; buffers those that `Offsets` names, and each
        // sequence has its sums.
        unsafe {
            let sums = slice::from_raw_parts_mut(sums, len);
            Run { queries, grads, at }.run(sums);
        }
    })?;
    // SAFETY: no task runs any more.
    let sums = unsafe { slice::from_raw_parts(workspace.worker(0).cast::<f64>(), n * len) };
    store_weights(engine, settings, grads, at, sums);
    Ok(())
}

/// Gradients of weights and biases: sums over the sequences.
fn store_weights(engine: &Softmax, settings: &Convolution, grads: &Call, at: &Offsets, sums: &[f64]) {
    let (heads, width, up) = (engine.heads.0, settings.width, |n: usize| n.next_multiple_of(16));
    let len = at.weights.len();
    let shapes: [[usize; 4]; 4] = [
        [settings.taps, 2 * heads, width, up(2 * heads)],
        [1, 1, width, 1],
        [settings.taps, width, heads, up(width)],
        [1, 1, heads, 1],
    ];
    for (i, ([taps, rows, columns, padded], to)) in shapes.into_iter().zip(&grads.convolutions).enumerate() {
        let Some(to) = to else { continue };
        let first = at.weights.at[i] - at.weights.at[0];
        for tap in 0..taps {
            for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
                let place = first + (tap * padded + row) * up(columns) + column;
                let total: f64 = sums.chunks_exact(len).map(|own| own[place]).sum();
                let at = if i % 2 == 0 { &[column, row, tap][..] } else { &[column][..] };
                // SAFETY: the gradient has the shape of the weights.
                unsafe { engine.kernels.common.set(to, at, total as f32) };
            }
        }
    }
}

/// A sequence in reverse.
struct Run<'a> {
    queries: Queries<'a>,
    grads: &'a Call,
    at: &'a Offsets,
}

impl Run<'_> {
    fn buffer(&self, offset: usize) -> *mut f32 {
        self.queries.at(offset)
    }

    /// # Safety
    /// Tensors and buffers are those of the call.
    unsafe fn run(&self, sums: &mut [f64]) {
        let (s, at, engine) = (&self.queries.sequence, self.at, self.queries.engine);
        let weights = at.weights.at[0];
        // SAFETY: by contract.
        unsafe {
            sums.fill(0.0);
            self.load();
            for first in (0..s.n_q).step_by(QUERIES) {
                ptr::write_bytes(self.buffer(weights), 0, sums.len());
                (first..(first + QUERIES).min(s.n_q)).for_each(|token| self.query(token));
                let own = slice::from_raw_parts(self.buffer(weights), sums.len());
                sums.iter_mut().zip(own).for_each(|(sum, &x)| *sum += f64::from(x));
            }
            let tensors = [(&self.grads.k, at.dk, engine.d), (&self.grads.v, at.dv, engine.e)];
            for (head, (to, from, channels)) in (0..engine.heads.1).flat_map(|i| tensors.map(|t| (i, t))) {
                let (Some(to), ld) = (to, pitch(channels)) else { continue };
                let place = [s.batch, head, s.k0];
                let rows = Slice::tokens(to, &place, (s.n_k, channels));
                engine.kernels.common.store(self.buffer(from + head * self.head(ld)), ld, &rows);
            }
        }
    }

    /// Elements of a key head.
    fn head(&self, ld: usize) -> usize {
        self.queries.sequence.n_k * ld
    }

    /// Weights, and zeros where there are none.
    ///
    /// # Safety
    /// As [`Run::run`].
    unsafe fn load(&self) {
        let (queries, at) = (&self.queries, self.at);
        let (engine, n_k) = (queries.engine, queries.sequence.n_k);
        let (heads, _, f, h) = queries.sizes();
        let Convolution { width, taps, .. } = *queries.settings;
        let (half, tiles) = (taps / 2, &engine.kernels.common);
        let [Some(first), _, Some(second), _] = &queries.call.convolutions else { return };
        // SAFETY: by contract; what is no weight is zero.
        unsafe {
            queries.load();
            for (offset, len) in [
                (at.first, taps * f * h),
                (at.second, taps * h * f),
                (at.dpre, (n_k + 2 * half) * f),
                (at.dp, n_k * h),
                (at.dx, (n_k + 4 * half) * h),
                (at.ds, n_k * h),
                (at.dk, engine.heads.1 * self.head(pitch(engine.d))),
                (at.dv, engine.heads.1 * self.head(pitch(engine.e))),
            ] {
                ptr::write_bytes(self.buffer(offset), 0, len);
            }
            for tap in 0..taps {
                let index = [0, 0, taps - 1 - tap];
                let from = Slice { tensor: first, at: &index, rows: 0, columns: 1, n: width, d: heads };
                tiles.load(&from, 1.0, ptr::null(), self.buffer(at.first + tap * f * h), h);
                let from = Slice { tensor: second, at: &index, rows: 0, columns: 1, n: heads, d: width };
                tiles.load(&from, 1.0, ptr::null(), self.buffer(at.second + tap * h * f), f);
            }
        }
    }

    /// One query of all heads.
    ///
    /// # Safety
    /// As [`Run::run`]; weights are loaded.
    unsafe fn query(&self, token: usize) {
        let (queries, at) = (&self.queries, self.at);
        let (engine, s, maps) = (queries.engine, &queries.sequence, queries.maps);
        let (heads, _, f, _) = queries.sizes();
        let (d, e, tiles) = (engine.d, engine.e, &engine.kernels.common);
        let (Some(q), Some(dout)) = (&queries.call.q, &self.grads.out) else { return };
        let (n, half, index) =
            (s.n_k - s.n_q + token + 1, queries.settings.taps / 2, [s.batch, 0, s.q0 + token]);
        let (d16, e16, scale) = (d.next_multiple_of(16), e.next_multiple_of(16), engine.settings.scale);
        // SAFETY: by contract; a tile has all keys.
        unsafe {
            let row = |tensor, d| Slice { tensor, at: &index, rows: 1, columns: 3, n: heads, d };
            tiles.load(&row(q, d), scale, ptr::null(), self.buffer(maps.q), d16);
            tiles.load(&row(dout, e), 1.0, ptr::null(), self.buffer(at.dout), e16);
            queries.score(token, (0, n), n);
            queries.hide(n);
            let hidden = self.buffer(maps.hidden);
            ptr::copy_nonoverlapping(hidden, self.buffer(at.pre), (n + 2 * half) * f);
            queries.leak(0, n);
            queries.correct(n);
            self.weights(n);
            self.convolutions(n);
            self.add_weights(n);
            self.keys(n);
            let Some(dq) = &self.grads.q else { return };
            let own = slice::from_raw_parts_mut(self.buffer(at.dq), heads * d16);
            own.iter_mut().for_each(|x| *x *= scale);
            tiles.store(self.buffer(at.dq), d16, &row(dq, d));
        }
    }

    /// Rows of keys or values of a head.
    ///
    /// # Safety
    /// As [`Run::query`]; the buffer is that of keys or of values.
    unsafe fn rows(&self, tensor: &Option<Tensor>, head: usize, (n, channels): (usize, usize), to: usize) {
        let (s, tiles) = (&self.queries.sequence, &self.queries.engine.kernels.common);
        let Some(tensor) = tensor else { return };
        let place = [s.batch, head, s.k0];
        let from = Slice::tokens(tensor, &place, (n, channels));
        // SAFETY: by contract; the buffer has all keys of the sequence.
        unsafe { tiles.load(&from, 1.0, ptr::null(), self.buffer(to), pitch(channels)) };
    }

    /// Query heads of a key head.
    fn sets(&self, head: usize) -> Range<usize> {
        let sets = self.queries.engine.sets();
        head * sets..(head + 1) * sets
    }

    /// Weights, gradients of values, and gradients of corrected scores.
    ///
    /// # Safety
    /// As [`Run::query`]; corrected scores are there.
    unsafe fn weights(&self, n: usize) {
        let (queries, at, maps) = (&self.queries, self.at, self.queries.maps);
        let (engine, (_, _, _, h)) = (queries.engine, queries.sizes());
        let (e, e16, ld) = (engine.e, engine.e.next_multiple_of(16), pitch(engine.e));
        let (x, dp, mut changed) = (self.buffer(maps.x), self.buffer(at.dp), false);
        // SAFETY: by contract.
        unsafe {
            slice::from_raw_parts_mut(self.buffer(maps.max), h).fill(f32::NEG_INFINITY);
            ptr::write_bytes(self.buffer(maps.sum), 0, h);
            (engine.kernels.online)(&online_softmax::Args {
                n,
                w: h,
                x,
                ld: h,
                max: self.buffer(maps.max),
                sum: self.buffer(maps.sum),
                factor: self.buffer(maps.factor),
                changed: &mut changed,
            });
            let vector = |offset: usize| slice::from_raw_parts_mut(self.buffer(offset), h);
            let (sums, delta) = (vector(maps.sum), vector(at.delta));
            for row in slice::from_raw_parts_mut(x, n * h).chunks_exact_mut(h) {
                row.iter_mut().zip(&*sums).for_each(|(x, sum)| *x /= sum);
            }
            for head in 0..engine.heads.1 {
                let sets = self.sets(head);
                self.rows(&queries.call.v, head, (n, e), maps.v);
                let (a, m) = (self.buffer(at.dout + sets.start * e16).cast_const(), sets.len());
                let (b, c) = (self.buffer(maps.v), dp.add(sets.start));
                let product =
                    dots::Args { m, n, k: e, a, lda: e16, b, ldb: ld, ahead: Ahead::default(), c, ldc: h };
                engine.kernels.few.dots(product, DType::F32);
                if self.grads.v.is_some() {
                    let dv = self.buffer(at.dv + head * self.head(ld));
                    (engine.kernels.common.matmul)(&matmul::Args {
                        a: x.add(sets.start),
                        lda: h,
                        b: a,
                        ldb: e16,
                        c0: dv,
                        ldc0: ld as isize,
                        ..matmul::Args::product(n, e, sets.len(), dv, ld as isize)
                    });
                }
            }
            delta.fill(0.0);
            let (a, b, row, col) = (x.cast_const(), dp.cast_const(), ptr::null_mut(), delta.as_mut_ptr());
            (engine.kernels.sums)(&products::Args { n, d: h, a, lda: h, b, ldb: h, row, col });
            let rows = |from: *mut f32| slice::from_raw_parts_mut(from, n * h).chunks_exact_mut(h);
            let dx = self.buffer(at.dx + 2 * (queries.settings.taps / 2) * h);
            for ((dx, x), dp) in rows(dx).zip(rows(x)).zip(rows(dp)) {
                for (((dx, x), dp), delta) in dx.iter_mut().zip(x).zip(dp).zip(&*delta) {
                    *dx = *x * (*dp - delta);
                }
            }
        }
    }

    /// Gradients of scores from those of corrected scores.
    ///
    /// # Safety
    /// As [`Run::query`]; these are there.
    unsafe fn convolutions(&self, n: usize) {
        let (queries, at) = (&self.queries, self.at);
        let (engine, (heads, _, f, h)) = (queries.engine, queries.sizes());
        let Convolution { width, taps, leaky, .. } = *queries.settings;
        let half = taps / 2;
        let (dpre, ds) = (self.buffer(at.dpre), self.buffer(at.ds));
        // SAFETY: by contract; taps of a row are rows that follow each other.
        unsafe {
            (engine.kernels.common.matmul)(&matmul::Args {
                a: self.buffer(at.dx),
                lda: h,
                b: self.buffer(at.second),
                ldb: f,
                ..matmul::Args::product(n + 2 * half, width, taps * h, dpre, f as isize)
            });
            for r in 0..n + 2 * half {
                let row = slice::from_raw_parts_mut(dpre.add(r * f), width);
                let pre = slice::from_raw_parts(self.buffer(at.pre + r * f), width);
                if queries.is_empty(0, r) {
                    row.fill(0.0);
                    continue;
                }
                for (x, &pre) in row.iter_mut().zip(pre) {
                    *x *= if pre > 0.0 { 1.0 } else { leaky };
                }
            }
            (engine.kernels.common.matmul)(&matmul::Args {
                a: dpre,
                lda: f,
                b: self.buffer(at.first),
                ldb: h,
                c0: self.buffer(at.dx + 2 * half * h),
                ldc0: h as isize,
                ..matmul::Args::product(n, heads, taps * f, ds, h as isize)
            });
        }
    }

    /// Gradients of weights and biases.
    ///
    /// # Safety
    /// As [`Run::query`]; gradients of corrected scores and between the convolutions are there.
    unsafe fn add_weights(&self, n: usize) {
        let (queries, at) = (&self.queries, self.at);
        let (engine, (heads, c, f, h)) = (queries.engine, queries.sizes());
        let (width, taps) = (queries.settings.width, queries.settings.taps);
        let half = taps / 2;
        let (dx, dpre) = (self.buffer(at.dx + 2 * half * h), self.buffer(at.dpre));
        // What stands before a convolution, its rows and columns, and gradients behind it.
        let first = (queries.maps.scores, taps * c, (n + 2 * half, width), (dpre.cast_const(), f), c);
        let second = (queries.maps.hidden, taps * f, (n, heads), (dx.cast_const(), h), f);
        for (i, (inputs, m, (n, columns), (b, ldb), lda)) in [first, second].into_iter().enumerate() {
            let [to, bias] = [2 * i, 2 * i + 1].map(|i| self.buffer(at.weights.at[i]));
            // SAFETY: by contract; taps of a row are rows that follow each other, and padding is zero.
            unsafe {
                if self.grads.convolutions[2 * i].is_some() {
                    (engine.kernels.common.matmul)(&matmul::Args {
                        a: self.buffer(inputs),
                        lda,
                        a_by_columns: true,
                        b,
                        ldb,
                        c0: to,
                        ldc0: ldb as isize,
                        ..matmul::Args::product(m, columns, n, to, ldb as isize)
                    });
                }
                let (a, row, d) = (b, ptr::null_mut(), columns);
                let none = ptr::null();
                (engine.kernels.sums)(&products::Args { n, d, a, lda: ldb, b: none, ldb: 0, row, col: bias });
            }
        }
    }

    /// Gradients of keys, and of the query before its scale.
    ///
    /// # Safety
    /// As [`Run::query`]; gradients of scores are there.
    unsafe fn keys(&self, n: usize) {
        let (queries, at, maps) = (&self.queries, self.at, self.queries.maps);
        let (engine, (_, _, _, h)) = (queries.engine, queries.sizes());
        let (d, d16, ld) = (engine.d, engine.d.next_multiple_of(16), pitch(engine.d));
        for head in 0..engine.heads.1 {
            let sets = self.sets(head);
            let own = matmul::Args {
                a: self.buffer(at.ds + sets.start),
                lda: h,
                b: self.buffer(maps.q + sets.start * d16),
                ldb: d16,
                ..matmul::Args::product(0, d, 0, ptr::null_mut(), 0)
            };
            // SAFETY: by contract.
            unsafe {
                if self.grads.k.is_some() {
                    let (c, ldc) = (self.buffer(at.dk + head * self.head(ld)), ld as isize);
                    let shape = matmul::Args { m: n, k: sets.len(), c, ldc, ..own };
                    (engine.kernels.common.matmul)(&matmul::Args { c0: c, ldc0: ldc, ..shape });
                }
                if self.grads.q.is_some() {
                    self.rows(&queries.call.k, head, (n, d), maps.k);
                    let (c, ldc) = (self.buffer(at.dq + sets.start * d16), d16 as isize);
                    let (b, ldb) = (self.buffer(maps.k), ld);
                    let shape = matmul::Args { m: sets.len(), k: n, c, ldc, b, ldb, ..own };
                    (engine.kernels.common.matmul)(&matmul::Args { a_by_columns: true, ..shape });
                }
            }
        }
    }
}
