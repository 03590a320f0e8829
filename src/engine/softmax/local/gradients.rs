//! The iterative solver: conjugate gradients, preconditioned by the diagonal.

use super::{Fit, ROWS, Vector, dot, sweep, weigh};
use crate::kernel::matmul;
use std::{ptr, slice};

impl Fit<'_> {
    /// Fits of all rows; a row ends where its residual is small enough, or its numbers are none.
    ///
    /// # Safety
    /// As [`Fit::run`]; the maxima are known.
    pub(super) unsafe fn iterate(&mut self, most: usize, tolerance: f64) {
        // SAFETY: by contract.
        unsafe {
            self.moments();
            self.approach((Vector::Mean, Vector::Fit), most, tolerance);
            if self.reverse.is_some() {
                self.approach((Vector::Along, Vector::Slope), most, tolerance);
            }
        }
    }

    /// Solutions of all rows for a right-hand side, from 0 on.
    ///
    /// # Safety
    /// As [`Fit::iterate`]; the diagonals are there.
    unsafe fn approach(&mut self, (side, solution): (Vector, Vector), most: usize, tolerance: f64) {
        let n = self.tile.buffers.unit.rows.n;
        let (mut active, mut rz, mut least) = ([false; ROWS], [0.0; ROWS], [0.0; ROWS]);
        // SAFETY: by contract; the vectors of a row differ.
        unsafe {
            for row in 0..n {
                let residual = self.vector(Vector::Residual, row);
                residual.copy_from_slice(self.vector(side, row));
                self.vector(Vector::Direction, row).fill(0.0);
                least[row] = tolerance * dot(residual, residual).sqrt();
                rz[row] = self.turn(row, 0.0);
                active[row] = least[row] > 0.0 && rz[row].is_finite();
            }
            for _ in 0..most {
                if !active.contains(&true) {
                    return;
                }
                self.multiply();
                for row in 0..n {
                    active[row] = active[row] && self.advance(row, solution, &mut rz[row], least[row]);
                }
            }
        }
    }

    /// `μ` and the diagonal of `A`.
    ///
    /// # Safety
    /// As [`Fit::iterate`].
    unsafe fn moments(&self) {
        let buffers = self.tile.buffers;
        let (engine, n) = (buffers.unit.engine, buffers.unit.rows.n);
        let (at, d, d16) = (&engine.at.sums, engine.d, engine.d.next_multiple_of(16));
        // SAFETY: by contract.
        unsafe {
            for row in 0..n {
                let ridge = f64::from(self.ridge[row]) * f64::from(self.tile.running[0].sum[row]);
                self.vector(Vector::Mean, row).fill(0.0);
                self.vector(Vector::Diagonal, row).fill(ridge);
            }
            sweep(&buffers, &self.tile.running[0], |keys, k, _| {
                self.along_outputs(keys);
                for row in 0..n {
                    self.differences(row, keys.len(), k);
                    self.add_mean(row, keys.len());
                    self.add_along(row, keys.len());
                    let diagonal = self.vector(Vector::Diagonal, row);
                    for s in 0..keys.len() {
                        let z = slice::from_raw_parts(buffers.at(at.z + s * d16), d);
                        let wz = slice::from_raw_parts(buffers.at(at.wz + s * d16), d);
                        for ((x, &z), &wz) in diagonal.iter_mut().zip(z).zip(wz) {
                            *x += f64::from(z) * f64::from(wz);
                        }
                    }
                }
            });
        }
    }

    /// `Σ w (k·p − q·p) k` of all rows, and the sums of its weights.
    ///
    /// # Safety
    /// As [`Fit::iterate`].
    unsafe fn multiply(&mut self) {
        let buffers = self.tile.buffers;
        let (engine, running) = (buffers.unit.engine, self.tile.running[0]);
        let c = buffers.at(engine.at.sums.product);
        // SAFETY: by contract; the product is `[D][32]`.
        unsafe {
            let at = self.load_direction(Vector::Direction, engine.at.q[1]);
            self.sums = [0.0; ROWS];
            ptr::write_bytes(c, 0, engine.d * ROWS);
            let sums = &mut self.sums;
            sweep(&buffers, &running, |keys, k, _| {
                weigh(&buffers, k, keys.len(), &at, sums);
                (engine.kernels.common.matmul)(&matmul::Args {
                    a: k.at,
                    lda: k.ld,
                    a_by_columns: true,
                    b: buffers.at(engine.at.x[1]),
                    ldb: ROWS,
                    c0: c,
                    ldc0: ROWS as isize,
                    ..matmul::Args::product(engine.d, buffers.unit.rows.width, keys.len(), c, ROWS as isize)
                });
            });
        }
    }

    /// One step of a row whose product is there; whether there is another.
    ///
    /// # Safety
    /// As [`Fit::iterate`].
    unsafe fn advance(&self, row: usize, solution: Vector, rz: &mut f64, least: f64) -> bool {
        let buffers = self.tile.buffers;
        let ridge = f64::from(self.ridge[row]) * f64::from(self.tile.running[0].sum[row]);
        // SAFETY: by contract; the vectors differ.
        unsafe {
            let (fit, residual) = (self.vector(solution, row), self.vector(Vector::Residual, row));
            let (p, q) = (self.vector(Vector::Direction, row), self.query(row));
            // `weigh` has weighed the negative of `z·p`.
            let image = |i: usize| {
                let product = *buffers.at(buffers.unit.engine.at.sums.product).add(i * ROWS + row);
                f64::from(self.sums[row]) * f64::from(q[i]) - f64::from(product) + ridge * p[i]
            };
            let curvature: f64 = p.iter().enumerate().map(|(i, p)| p * image(i)).sum();
            let length = *rz / curvature;
            if !length.is_finite() || curvature <= 0.0 {
                return false;
            }
            for i in 0..p.len() {
                fit[i] += length * p[i];
                residual[i] -= length * image(i);
            }
            let before = *rz;
            *rz = self.turn(row, before);
            dot(residual, residual).sqrt() > least && rz.is_finite()
        }
    }

    /// The next direction of a row; `r · D⁻¹ r` after it was `before`.
    ///
    /// # Safety
    /// As [`Fit::iterate`].
    unsafe fn turn(&self, row: usize, before: f64) -> f64 {
        // SAFETY: by contract; the vectors differ.
        let (residual, diagonal, p) = unsafe {
            let vector = |which| self.vector(which, row);
            (vector(Vector::Residual), vector(Vector::Diagonal), vector(Vector::Direction))
        };
        let after: f64 = residual.iter().zip(&*diagonal).map(|(r, d)| r * r / d).sum();
        let kept = if before > 0.0 { after / before } else { 0.0 };
        for ((p, r), d) in p.iter_mut().zip(residual).zip(diagonal) {
            *p = *r / *d + kept * *p;
        }
        after
    }
}
