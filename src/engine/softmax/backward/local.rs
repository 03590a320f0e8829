//! Gradients of local linear attention (`docs/spec/softmax.md` 10).
//!
//! ```text
//! c = (g − b) / Σa      α = −w (c + z·u)      a = w (1 − z·ρ)
//! dX = −α (1 − z·ρ) − ridge w u·ρ             dZ = α ρ + a u
//! dV += a/Σa do         dK += scale dX q + dZ         dq = scale Σ dX k − ρ Σ α − u Σ a         dridge = −ω u·ρ
//! ```
//!
//! The fit runs as in forward, with a second solution ([`crate::engine::softmax::local`]); then comes one more sweep.

use super::along_outputs;
use super::sums::Sum;
use super::tile::Tile;
use crate::engine::softmax::local::{Fit, Local, Reverse, Vector, sweep};
use crate::engine::softmax::products::{Operand, pitch};
use crate::engine::softmax::rows::{KEYS, ROWS};
use crate::kernel::matmul;
use crate::kernel::online_softmax::MASKED;
use crate::workspace::Carver;
use std::ops::Range;
use std::{ptr, slice};

/// Offsets of the fits' buffers.
#[derive(Clone, Copy, Debug)]
pub struct Fits {
    /// `ρ` and `u` `[32][D]` padded, and `u` with queries last.
    rows: [usize; 2],
    turned: usize,
    /// Two vectors of `f64` of each query.
    vectors: usize,
}

impl Fits {
    /// Of `d` channels; none without a fit.
    pub fn new(carver: &mut Carver, there: bool, d: usize) -> Fits {
        let (rows, d) = if there { (ROWS, d) } else { (0, 0) };
        let d16 = d.next_multiple_of(16);
        Fits {
            rows: [carver.take(&[rows, d16]), carver.take(&[rows, d16])],
            turned: carver.take(&[d16, rows]),
            vectors: carver.take(&[2, rows, 2, d]),
        }
    }
}

/// What the fits of a tile's rows are, for the last sweep.
struct Rows {
    /// `1/Σa`, `b`, `q·ρ`, `q·u`, `ridge u·ρ`.
    part: [f32; ROWS],
    mean: [f32; ROWS],
    at: [[f32; ROWS]; 2],
    ridge: [f32; ROWS],
    /// `Σ α` and `Σ a`.
    sums: [[f64; ROWS]; 2],
}

impl Tile<'_> {
    /// Gradients of a tile of queries.
    ///
    /// # Safety
    /// As [`super::tile::run`]; the rows are loaded.
    pub unsafe fn fit(&mut self, settings: &Local) {
        let (unit, at, n) = (self.unit, self.at, self.unit.rows.n);
        let (engine, Some(v)) = (unit.engine, &unit.call.v) else { return };
        let (d, d16) = (engine.d, engine.d.next_multiple_of(16));
        let reverse = Reverse { dout_t: at.dout_t, dp: at.dp, vectors: at.fits.vectors };
        let mut fit = Fit::new(unit, self.buffers.base, settings, Some(reverse));
        // SAFETY: by contract.
        unsafe {
            fit.run();
            let mean = self.with_dout(engine.at.acc[0]);
            fit.slopes(&mean);
            let part = fit.sums.map(|sum| if sum == 0.0 { 0.0 } else { sum.recip() });
            let turned = [engine.at.q[1], at.fits.turned];
            let both = [(Vector::Fit, turned[0]), (Vector::Slope, turned[1])];
            let products = both.map(|(which, to)| fit.load_direction(which, to));
            let mut taken = [0; 2];
            for (i, (which, _)) in both.into_iter().enumerate() {
                let to = self.buffer(at.fits.rows[i]);
                ptr::write_bytes(to, 0, ROWS * d16);
                for row in 0..n {
                    let from = fit.vector(which, row).iter();
                    from.enumerate().for_each(|(c, &x)| *to.add(row * d16 + c) = x as f32);
                }
                taken[i] = self.buffers.take_out(Operand::new(to, d16), n, d);
            }
            let mut rows = Rows { part, mean, at: products, ridge: [0.0; ROWS], sums: [[0.0; ROWS]; 2] };
            for row in 0..n {
                let [fitted, slope] = [Vector::Fit, Vector::Slope].map(|which| fit.vector(which, row));
                let product: f64 = fitted.iter().zip(slope).map(|(fit, slope)| *fit * *slope).sum();
                rows.ridge[row] = (f64::from(fit.ridge[row]) * product) as f32;
                self.add_ridge(row, -f64::from(fit.tile.running[0].sum[row]) * product);
            }
            ptr::write_bytes(self.buffer(at.dq[0]), 0, d * ROWS);
            sweep(&self.buffers, &fit.tile.running[0], |keys, k, _| {
                along_outputs(&self.buffers, v, keys, (at.dout_t, at.dp));
                self.buffers.scores(k, keys.len(), turned[0], engine.at.x[1]);
                self.buffers.scores(k, keys.len(), turned[1], at.y);
                self.through_fit(keys.len(), &mut rows);
                self.add_keys(keys, k, taken);
            });
            let Some(dq) = &self.run.grads.q else { return };
            let scale = unit.scale(unit.rows.set[0]);
            for i in 0..d {
                let of = |offset: usize| slice::from_raw_parts_mut(self.buffer(offset + i * ROWS), n);
                let (to, fit, slope) = (of(at.dq[0]), of(turned[0]), of(turned[1]));
                for (r, to) in to.iter_mut().enumerate() {
                    let rest = f64::from(fit[r]) * rows.sums[0][r] + f64::from(slope[r]) * rows.sums[1][r];
                    *to = (f64::from(scale) * f64::from(*to) - rest) as f32;
                }
            }
            self.store(at.dq[0], 1.0, dq, self.query_head());
        }
    }

    /// The gradient of a row's ridge.
    ///
    /// # Safety
    /// As [`super::tile::run`].
    unsafe fn add_ridge(&self, row: usize, value: f64) {
        let (s, head) = (&self.unit.sequence, self.query_head());
        // SAFETY: the gradient has the shape of the ridge: where it has rows, this one is the task's.
        unsafe {
            match &self.run.grads.ridge {
                Some(to) if to.layout.rank == 3 => {
                    let at = [s.batch, head, s.q0 + self.unit.rows.token[row]];
                    self.unit.engine.kernels.common.set(to, &at, value as f32);
                }
                _ => self.add_sum(Sum::Scale as usize, value),
            }
        }
    }

    /// Weights of values over their sum, `a`, `α` and gradients of scores, in place of weights, products with `ρ`, with
    /// `u`, and of gradients of outputs with values.
    ///
    /// # Safety
    /// As [`super::tile::run`]; these are there.
    unsafe fn through_fit(&self, n: usize, rows: &mut Rows) {
        let engine = self.unit.engine;
        let tile = |offset: usize| {
            // SAFETY: tiles have 64 by 32 elements, and differ.
            unsafe {
                slice::from_raw_parts_mut(self.buffer(offset), n.min(KEYS) * ROWS).chunks_exact_mut(ROWS)
            }
        };
        let (x, along) = (tile(engine.at.x[0]), tile(engine.at.x[1]));
        for (((x, along), slope), dx) in x.zip(along).zip(tile(self.at.y)).zip(tile(self.at.dp)) {
            for r in 0..ROWS {
                let w = x[r];
                if w.to_bits() == MASKED {
                    (along[r], slope[r], dx[r]) = (0.0, 0.0, 0.0);
                    continue;
                }
                let left = 1.0 - (along[r] - rows.at[0][r]);
                let inner = (dx[r] - rows.mean[r]) * rows.part[r] + (slope[r] - rows.at[1][r]);
                let (a, alpha) = (w * left, -w * inner);
                dx[r] = -alpha * left - w * rows.ridge[r];
                // What is seen is no −0.
                (x[r], along[r], slope[r]) = (a * rows.part[r] + 0.0, a, alpha);
                rows.sums[0][r] += f64::from(alpha);
                rows.sums[1][r] += f64::from(a);
            }
        }
    }

    /// Gradients of values, keys and queries from those of a tile.
    ///
    /// # Safety
    /// As [`super::tile::run`]; [`Tile::through_fit`] has run.
    unsafe fn add_keys(&self, keys: &Range<usize>, k: Operand, taken: [u64; 2]) {
        let (engine, grads, at, n) = (self.unit.engine, self.run.grads, self.at, keys.len());
        let (d, e, x) = (engine.d, engine.e, engine.at.x[0]);
        // SAFETY: by contract.
        unsafe {
            if grads.v.is_some() {
                let dv = self.buffer(at.dv + keys.start * pitch(e));
                self.over_queries(n, x, at.dout, e, dv);
                self.over_taken_queries(n, self.taken[2], (x, x), at.dout_t, e, dv);
            }
            if grads.k.is_some() {
                let dk = self.buffer(at.dk[0] + keys.start * pitch(d));
                for (y, rows, taken, turned) in [
                    (at.dp, at.q[0], self.taken[0], engine.at.q[0]),
                    (at.y, at.fits.rows[0], taken[0], engine.at.q[1]),
                    (engine.at.x[1], at.fits.rows[1], taken[1], at.fits.turned),
                ] {
                    self.over_queries(n, y, rows, d, dk);
                    self.over_taken_queries(n, taken, (y, x), turned, d, dk);
                }
            }
            if grads.q.is_some() {
                let dq = self.buffer(at.dq[0]);
                (engine.kernels.common.matmul)(&matmul::Args {
                    a: k.at,
                    lda: k.ld,
                    a_by_columns: true,
                    b: self.buffer(at.dp),
                    ldb: ROWS,
                    c0: dq,
                    ldc0: ROWS as isize,
                    ..matmul::Args::product(d, self.unit.rows.width, n, dq, ROWS as isize)
                });
            }
        }
    }
}
