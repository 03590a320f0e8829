//! Convolution over the map of scores (`docs/spec/softmax.md` 12): attention whose scores get a correction from those of all
//! heads at neighbouring keys.
//!
//! ```text
//! u   = [scale q·k ; −slope (p_t − s) + bias]            [keys, 2H], zero for keys that the query does not see
//! hid = leaky(b₁ + Σ_j W₁[j] u[s + j − ⌊κ/2⌋])            [keys, F]
//! X   = u_scores + u_positions + b₂ + Σ_j W₂[j] hid[s + j − ⌊κ/2⌋]     [keys, H], then softmax and values
//! ```
//!
//! Query by query, heads across the lanes: rows of neighbouring keys follow each other in memory, so that each
//! convolution is one product with its taps stacked. *Tasks*: sequence × [`QUERIES`] queries. *Cost*: `6 F κ + 2 (D + E)`
//! FLOPs per pair and head. *Workspace* per worker: the weights, and tiles of `64 + 4⌊κ/2⌋` keys.

use super::Softmax;
use super::call::Call;
use super::products::pitch;
use super::rows::{KEYS, tiles_of};
use crate::engine::call::Sequence;
use crate::engine::linear::Rows as Slice;
use crate::error::Result;
use crate::kernel::{dots, matmul, online_softmax};
use crate::parallel::{self, Runner};
use crate::simd::prefetch::Ahead;
use crate::tensor::DType;
use crate::workspace::{Carver, Workspace};
use std::{ptr, slice};

/// Queries of a task.
const QUERIES: usize = 16;

/// Parameters of the mechanism.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Convolution {
    /// Channels between the convolutions.
    pub width: usize,
    /// Taps, an odd number.
    pub taps: usize,
    /// Slope of negative values.
    pub leaky: f32,
    /// Between the convolutions there is nothing past the last key of the sequence.
    pub zero_edge: bool,
}

/// Offsets of a worker's buffers.
#[derive(Clone, Copy, Debug)]
pub struct Maps {
    first: usize,
    first_bias: usize,
    second: usize,
    second_bias: usize,
    slopes: usize,
    /// Scores and positions `[2H]`, from twice the halo before a tile of keys to as much after it.
    pub scores: usize,
    /// What is between the convolutions, `[F]`, half as far.
    pub hidden: usize,
    /// Corrected scores `[H]`, then weights.
    pub x: usize,
    pub q: usize,
    pub k: usize,
    pub v: usize,
    acc: usize,
    pub max: usize,
    pub sum: usize,
    pub factor: usize,
}

impl Maps {
    /// For these heads and channels, and tiles of so many keys; none without a convolution.
    pub fn new(
        carver: &mut Carver,
        (heads, d, e): (usize, usize, usize),
        tile: usize,
        settings: Option<&Convolution>,
    ) -> Maps {
        let there = usize::from(settings.is_some());
        let none = Convolution { width: 0, taps: 1, leaky: 0.0, zero_edge: false };
        let settings = settings.unwrap_or(&none);
        let heads = there * heads;
        let (c, h) = ((2 * heads).next_multiple_of(16), heads.next_multiple_of(16));
        let f = settings.width.next_multiple_of(16);
        let (taps, keys) = (settings.taps, there * (tile + 4 * (settings.taps / 2)));
        Maps {
            first: carver.take(&[taps, c, f]),
            first_bias: carver.take(&[f]),
            second: carver.take(&[taps, f, h]),
            second_bias: carver.take(&[h]),
            slopes: carver.take(&[h]),
            scores: carver.take(&[keys, c]),
            hidden: carver.take(&[keys, f]),
            x: carver.take(&[keys, h]),
            q: carver.take(&[heads, d.next_multiple_of(16)]),
            k: carver.take(&[keys, pitch(d)]),
            v: carver.take(&[keys, pitch(e)]),
            acc: carver.take(&[heads, e.next_multiple_of(16)]),
            max: carver.take(&[h]),
            sum: carver.take(&[h]),
            factor: carver.take(&[h]),
        }
    }
}

/// Runs a call.
pub fn run(
    engine: &Softmax,
    settings: &Convolution,
    runner: &dyn Runner,
    call: &Call,
    workspace: &Workspace,
) -> Result<()> {
    let tiles = call.sequences.longest().0.div_ceil(QUERIES);
    let tasks = call.sequences.len() * tiles;
    parallel::run(runner, tasks, &|task, worker| {
        // The queries that see most first.
        let (index, tile) = ((tasks - 1 - task) / tiles, (tasks - 1 - task) % tiles);
        let Some(sequence) = call.sequences.get(index) else { return };
        let (start, end) = (tile * QUERIES, ((tile + 1) * QUERIES).min(sequence.n_q));
        let (maps, base) = (&engine.at.maps, workspace.worker(worker));
        let queries = Queries { engine, settings, call, sequence, base, maps, tile: KEYS };
        // SAFETY: tensors have the shapes that `plan::check` made sure of; buffers those that `Maps` names.
        unsafe {
            if start < end {
                queries.load();
            }
            (start..end).for_each(|token| queries.run(token));
        }
    })
}

/// Some queries of a sequence.
pub struct Queries<'a> {
    pub engine: &'a Softmax,
    pub settings: &'a Convolution,
    pub call: &'a Call,
    pub sequence: Sequence,
    pub base: *mut f32,
    pub maps: &'a Maps,
    /// Keys of a tile.
    pub tile: usize,
}

impl Queries<'_> {
    pub fn at(&self, offset: usize) -> *mut f32 {
        self.base.wrapping_add(offset)
    }

    /// Heads; elements between the rows of scores, of hidden channels, of corrected scores.
    pub fn sizes(&self) -> (usize, usize, usize, usize) {
        let heads = self.engine.heads.0;
        let up = |n: usize| n.next_multiple_of(16);
        (heads, up(2 * heads), up(self.settings.width), up(heads))
    }

    /// Weights, tap by tap with channels in rows, and slopes.
    ///
    /// # Safety
    /// Tensors and buffers are those of the call.
    pub unsafe fn load(&self) {
        let (at, tiles) = (self.maps, &self.engine.kernels.common);
        let (heads, c, f, h) = self.sizes();
        let Convolution { width, taps, .. } = *self.settings;
        // SAFETY: by contract; what is no weight is zero.
        unsafe {
            ptr::write_bytes(self.at(at.first), 0, taps * c * f);
            ptr::write_bytes(self.at(at.second), 0, taps * f * h);
            for (offset, n) in [(at.first_bias, f), (at.second_bias, h), (at.slopes, h)] {
                ptr::write_bytes(self.at(offset), 0, n);
            }
            ptr::write_bytes(self.at(at.hidden), 0, (self.tile + 4 * (taps / 2)) * f);
            ptr::write_bytes(self.at(at.x), 0, self.tile * h);
            let [Some(first), Some(first_bias), Some(second), Some(second_bias)] = self.call.convolutions
            else {
                return;
            };
            for tap in 0..taps {
                let index = [0, 0, tap];
                let from = Slice { tensor: &first, at: &index, rows: 1, columns: 0, n: 2 * heads, d: width };
                tiles.load(&from, 1.0, ptr::null(), self.at(at.first + tap * c * f), f);
                let from = Slice { tensor: &second, at: &index, rows: 1, columns: 0, n: width, d: heads };
                tiles.load(&from, 1.0, ptr::null(), self.at(at.second + tap * f * h), h);
            }
            tiles.gather(&first_bias, &[0], 0, width, self.at(at.first_bias));
            tiles.gather(&second_bias, &[0], 0, heads, self.at(at.second_bias));
            if let Some(slopes) = &self.call.alibi_slopes {
                tiles.gather(slopes, &[0], 0, heads, self.at(at.slopes));
            }
        }
    }

    /// One query of all heads.
    ///
    /// # Safety
    /// As [`Queries::load`], which has run.
    unsafe fn run(&self, token: usize) {
        let (engine, s, at) = (self.engine, &self.sequence, self.maps);
        let (heads, _, _, h) = self.sizes();
        let (d, e, tiles) = (engine.d, engine.e, &engine.kernels.common);
        let (d16, e16) = (d.next_multiple_of(16), e.next_multiple_of(16));
        let (Some(q), Some(out)) = (&self.call.q, &self.call.out) else { return };
        // SAFETY: by contract.
        unsafe {
            let index = [s.batch, 0, s.q0 + token];
            let from = Slice { tensor: q, at: &index, rows: 1, columns: 3, n: heads, d };
            tiles.load(&from, engine.settings.scale, ptr::null(), self.at(at.q), d16);
            ptr::write_bytes(self.at(at.acc), 0, heads * e16);
            slice::from_raw_parts_mut(self.at(at.max), h).fill(f32::NEG_INFINITY);
            ptr::write_bytes(self.at(at.sum), 0, h);
            let seen = s.n_k - s.n_q + token + 1;
            for keys in tiles_of(0..seen) {
                self.score(token, (keys.start, KEYS), seen);
                self.hide(keys.len());
                self.leak(keys.start, keys.len());
                self.correct(keys.len());
                self.sum_up(keys.start, keys.len());
            }
            for head in 0..heads {
                let part = (*self.at(at.sum + head)).recip();
                let row = slice::from_raw_parts_mut(self.at(at.acc + head * e16), e);
                row.iter_mut().for_each(|x| *x *= part);
            }
            let to = Slice { tensor: out, at: &index, rows: 1, columns: 3, n: heads, d: e };
            tiles.store(self.at(at.acc), e16, &to);
        }
    }

    /// Scores and positions of `n` keys from `start` on and of those around them.
    ///
    /// # Safety
    /// Tensors and buffers are those of the call; queries are loaded, and the keys no more than a tile.
    pub unsafe fn score(&self, token: usize, (start, n): (usize, usize), seen: usize) {
        let (engine, s, at) = (self.engine, &self.sequence, self.maps);
        let (heads, c, _, _) = self.sizes();
        let (d, sets, halo) = (engine.d, engine.sets(), 2 * (self.settings.taps / 2));
        let (first, end) = (start.saturating_sub(halo), (start + n + halo).min(seen));
        // Row 0 is key `start − halo`, which may not be there.
        let row = |key: usize| self.at(at.scores + (key + halo - start) * c);
        let Some(k) = &self.call.k else { return };
        // SAFETY: by contract; a tile has its keys and twice the halo.
        unsafe {
            ptr::write_bytes(self.at(at.scores), 0, (n + 2 * halo) * c);
            for head in 0..engine.heads.1 {
                let (ld, index) = (pitch(d), [s.batch, head, s.k0 + first]);
                let from = Slice::tokens(k, &index, (end - first, d));
                engine.kernels.common.load(&from, 1.0, ptr::null(), self.at(at.k), ld);
                let lda = d.next_multiple_of(16);
                let product = dots::Args {
                    m: sets,
                    n: end - first,
                    k: d,
                    a: self.at(at.q + head * sets * lda),
                    lda,
                    b: self.at(at.k),
                    ldb: ld,
                    ahead: Ahead::default(),
                    c: row(first).add(head * sets),
                    ldc: c,
                };
                engine.kernels.few.dots(product, DType::F32);
            }
            let slopes = slice::from_raw_parts(self.at(at.slopes), heads);
            for key in first..end {
                let positions = slice::from_raw_parts_mut(row(key).add(heads), heads);
                let distance = (seen - 1 - key) as f32;
                for (head, (x, slope)) in positions.iter_mut().zip(slopes).enumerate() {
                    *x = -slope * distance;
                    if let Some(bias) = &self.call.bias {
                        let batch = s.batch.min(bias.extent(0) - 1);
                        let head = head.min(bias.extent(1) - 1);
                        *x += engine.kernels.common.value(bias, &[batch, head, s.q0 + token, s.k0 + key]);
                    }
                }
            }
        }
    }

    /// The first convolution, of a tile of `n` keys and half of those around it.
    ///
    /// # Safety
    /// As [`Queries::score`], which has run.
    pub unsafe fn hide(&self, n: usize) {
        let (engine, at) = (self.engine, self.maps);
        let (_, c, f, _) = self.sizes();
        let Convolution { width, taps, .. } = *self.settings;
        let (hidden, half) = (self.at(at.hidden), taps / 2);
        // SAFETY: by contract; taps of a row are rows that follow each other.
        unsafe {
            (engine.kernels.common.matmul)(&matmul::Args {
                a: self.at(at.scores),
                lda: c,
                b: self.at(at.first),
                ldb: f,
                c0: self.at(at.first_bias),
                ldc0: 0,
                ..matmul::Args::product(n + 2 * half, width, taps * c, hidden, f as isize)
            });
        }
    }

    /// Whether there is nothing between the convolutions in this row, which is key `start + row − ⌊κ/2⌋`.
    pub fn is_empty(&self, start: usize, row: usize) -> bool {
        let (half, key) = (self.settings.taps / 2, start + row);
        key < half || (self.settings.zero_edge && key - half >= self.sequence.n_k)
    }

    /// What is between the convolutions, from what the first has given.
    ///
    /// # Safety
    /// As [`Queries::hide`], which has run.
    pub unsafe fn leak(&self, start: usize, n: usize) {
        let (_, _, f, _) = self.sizes();
        let Convolution { width, taps, leaky, .. } = *self.settings;
        for r in 0..n + 2 * (taps / 2) {
            // SAFETY: by contract.
            let row = unsafe { slice::from_raw_parts_mut(self.at(self.maps.hidden + r * f), width) };
            if self.is_empty(start, r) {
                row.fill(0.0);
            } else {
                row.iter_mut().for_each(|x| *x = if *x > 0.0 { *x } else { leaky * *x });
            }
        }
    }

    /// The second convolution: corrected scores of a tile of `n` keys.
    ///
    /// # Safety
    /// As [`Queries::leak`], which has run.
    pub unsafe fn correct(&self, n: usize) {
        let (engine, at) = (self.engine, self.maps);
        let (heads, c, f, h) = self.sizes();
        let (taps, half) = (self.settings.taps, self.settings.taps / 2);
        let (hidden, x) = (self.at(at.hidden), self.at(at.x));
        // SAFETY: by contract; taps of a row are rows that follow each other.
        unsafe {
            (engine.kernels.common.matmul)(&matmul::Args {
                a: hidden,
                lda: f,
                b: self.at(at.second),
                ldb: h,
                c0: self.at(at.second_bias),
                ldc0: 0,
                ..matmul::Args::product(n, heads, taps * f, x, h as isize)
            });
            for r in 0..n {
                let own = slice::from_raw_parts(self.at(at.scores + (r + 2 * half) * c), 2 * heads);
                let row = slice::from_raw_parts_mut(x.add(r * h), heads);
                let (scores, positions) = own.split_at(heads);
                for ((x, score), position) in row.iter_mut().zip(scores).zip(positions) {
                    *x += score + position;
                }
            }
        }
    }

    /// Weights and values of a tile of `n` keys.
    ///
    /// # Safety
    /// As [`Queries::run`]; the corrected scores are there.
    unsafe fn sum_up(&self, start: usize, n: usize) {
        let (engine, s, at) = (self.engine, &self.sequence, self.maps);
        let (_, _, _, h) = self.sizes();
        let (e, sets) = (engine.e, engine.sets());
        let (e16, mut changed) = (e.next_multiple_of(16), false);
        let Some(v) = &self.call.v else { return };
        // SAFETY: by contract.
        unsafe {
            (engine.kernels.online)(&online_softmax::Args {
                n,
                w: h,
                x: self.at(at.x),
                ld: h,
                max: self.at(at.max),
                sum: self.at(at.sum),
                factor: self.at(at.factor),
                changed: &mut changed,
            });
            for head in 0..engine.heads.1 {
                let (ld, index) = (pitch(e), [s.batch, head, s.k0 + start]);
                let from = Slice::tokens(v, &index, (n, e));
                engine.kernels.common.load(&from, 1.0, ptr::null(), self.at(at.v), ld);
                let c = self.at(at.acc + head * sets * e16);
                (engine.kernels.common.matmul)(&matmul::Args {
                    a: self.at(at.x + head * sets),
                    lda: h,
                    a_by_columns: true,
                    b: self.at(at.v),
                    ldb: ld,
                    c0: c,
                    ldc0: e16 as isize,
                    pre: self.at(at.factor + head * sets),
                    ..matmul::Args::product(sets, e, n, c, e16 as isize)
                });
            }
        }
    }
}
