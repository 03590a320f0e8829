//! The direct solver: `A` of each query, and its factorisation.

use super::{Fit, ROWS, Vector, sweep};
use crate::kernel::matmul;
use std::ops::Range;
use std::{ptr, slice};

impl Fit<'_> {
    /// Fits of all rows by factorisation.
    ///
    /// # Safety
    /// As [`Fit::run`]; the maxima are known.
    pub(super) unsafe fn solve(&mut self, precise: bool) {
        let n = self.tile.buffers.unit.rows.n;
        let at_once = if precise { 1 } else { self.tile.buffers.unit.engine.at.sums.at_once };
        for first in (0..n).step_by(at_once) {
            let rows = first..(first + at_once).min(n);
            // SAFETY: by contract.
            unsafe {
                if precise {
                    self.sum_up_precisely(first);
                } else {
                    self.sum_up(&rows);
                }
                for row in rows.clone() {
                    self.factor(row, (!precise).then(|| row - first));
                }
            }
        }
    }

    /// `μ` and the lower triangles of `Σ w z zᵀ` of some rows.
    ///
    /// # Safety
    /// As [`Fit::solve`].
    unsafe fn sum_up(&self, rows: &Range<usize>) {
        let buffers = self.tile.buffers;
        let engine = buffers.unit.engine;
        let (at, d, d16) = (&engine.at.sums, engine.d, engine.d.next_multiple_of(16));
        let matrix = |row: usize| buffers.at(at.matrices + (row - rows.start) * d * d16);
        // SAFETY: by contract; blocks of 32 rows stay inside a matrix.
        unsafe {
            ptr::write_bytes(matrix(rows.start), 0, rows.len() * d * d16);
            rows.clone().for_each(|row| self.vector(Vector::Mean, row).fill(0.0));
            sweep(&buffers, &self.tile.running[0], |keys, k, _| {
                self.along_outputs(keys);
                for row in rows.clone() {
                    self.differences(row, keys.len(), k);
                    self.add_mean(row, keys.len());
                    self.add_along(row, keys.len());
                    for block in (0..d).step_by(32) {
                        let (m, c) = ((d - block).min(32), matrix(row).add(block * d16));
                        (engine.kernels.common.matmul)(&matmul::Args {
                            a: buffers.at(at.z + block),
                            lda: d16,
                            a_by_columns: true,
                            b: buffers.at(at.wz),
                            ldb: d16,
                            c0: c,
                            ldc0: d16 as isize,
                            ..matmul::Args::product(m, block + m, keys.len(), c, d16 as isize)
                        });
                    }
                }
            });
        }
    }

    /// `Σ w z` of a tile.
    ///
    /// # Safety
    /// The differences are those of the row.
    pub(super) unsafe fn add_mean(&self, row: usize, n: usize) {
        let buffers = self.tile.buffers;
        let (d16, wz) = (buffers.unit.engine.d.next_multiple_of(16), buffers.unit.engine.at.sums.wz);
        for s in 0..n {
            // SAFETY: by contract.
            let (mean, wz) = unsafe {
                (self.vector(Vector::Mean, row), slice::from_raw_parts(buffers.at(wz + s * d16), d16))
            };
            mean.iter_mut().zip(wz).for_each(|(mean, &wz)| *mean += f64::from(wz));
        }
    }

    /// The matrix of a row in `f64`, `[D][D]`.
    ///
    /// # Safety
    /// Nothing else uses it as long as the borrow is.
    unsafe fn precise<'v>(&self) -> &'v mut [f64] {
        let engine = self.tile.buffers.unit.engine;
        // SAFETY: the buffer has this many, and is aligned.
        unsafe {
            slice::from_raw_parts_mut(
                self.tile.buffers.at(engine.at.sums.precise).cast(),
                engine.d * engine.d,
            )
        }
    }

    /// `μ` and the lower triangle of `Σ w z zᵀ` of a row in `f64`.
    ///
    /// # Safety
    /// As [`Fit::solve`].
    unsafe fn sum_up_precisely(&self, row: usize) {
        let buffers = self.tile.buffers;
        let engine = buffers.unit.engine;
        let (d, d16) = (engine.d, engine.d.next_multiple_of(16));
        // SAFETY: by contract.
        unsafe {
            let (matrix, mean) = (self.precise(), self.vector(Vector::Mean, row));
            matrix.fill(0.0);
            mean.fill(0.0);
            sweep(&buffers, &self.tile.running[0], |keys, k, _| {
                self.along_outputs(keys);
                self.differences(row, keys.len(), k);
                self.add_along(row, keys.len());
                for s in 0..keys.len() {
                    let weight = f64::from(*buffers.at(engine.at.x[0]).add(s * ROWS + row));
                    let z = slice::from_raw_parts(buffers.at(engine.at.sums.z + s * d16), d);
                    for (i, &zi) in z.iter().enumerate() {
                        let wz = weight * f64::from(zi);
                        mean[i] += wz;
                        for (x, &zj) in matrix[i * d..].iter_mut().zip(&z[..=i]) {
                            *x += wz * f64::from(zj);
                        }
                    }
                }
            });
        }
    }

    /// `ρ = A⁻¹ μ` of a row, from the matrix of that number or from the one in `f64`.
    ///
    /// # Safety
    /// Its sums are there.
    unsafe fn factor(&mut self, row: usize, number: Option<usize>) {
        let buffers = self.tile.buffers;
        let engine = buffers.unit.engine;
        let (d, d16) = (engine.d, engine.d.next_multiple_of(16));
        // SAFETY: by contract.
        unsafe {
            let matrix = self.precise();
            if let Some(number) = number {
                let from = buffers.at(engine.at.sums.matrices + number * d * d16);
                for (i, to) in matrix.chunks_exact_mut(d).enumerate() {
                    let from = slice::from_raw_parts(from.add(i * d16), i + 1);
                    to.iter_mut().zip(from).for_each(|(to, &from)| *to = from.into());
                }
            }
            let ridge = f64::from(self.ridge[row]) * f64::from(self.tile.running[0].sum[row]);
            matrix.iter_mut().step_by(d + 1).for_each(|x| *x += ridge);
            let fit = self.vector(Vector::Fit, row);
            fit.copy_from_slice(self.vector(Vector::Mean, row));
            self.fitted[row] = cholesky(matrix);
            if !self.fitted[row] {
                fit.fill(0.0);
                return;
            }
            substitute(matrix, fit);
            if self.reverse.is_some() {
                let slope = self.vector(Vector::Slope, row);
                slope.copy_from_slice(self.vector(Vector::Along, row));
                substitute(matrix, slope);
            }
        }
    }
}

/// `A = L Lᵀ` of `[D, D]`, the lower triangle of `A` in place; false where a pivot is not positive.
fn cholesky(a: &mut [f64]) -> bool {
    let d = a.len().isqrt();
    for i in 0..d {
        let (above, below) = a.split_at_mut(i * d);
        let row = &mut below[..=i];
        for j in 0..i {
            let other = &above[j * d..=j * d + j];
            row[j] = (row[j] - super::dot(&row[..j], &other[..j])) / other[j];
        }
        let pivot = row[i] - super::dot(&row[..i], &row[..i]);
        if pivot.is_nan() || pivot <= 0.0 {
            return false;
        }
        row[i] = pivot.sqrt();
    }
    true
}

/// Solves `L Lᵀ x = x`.
fn substitute(a: &[f64], x: &mut [f64]) {
    let d = x.len();
    for i in 0..d {
        let row = &a[i * d..=i * d + i];
        x[i] = (x[i] - super::dot(&row[..i], &x[..i])) / row[i];
    }
    for i in (0..d).rev() {
        x[i] /= a[i * d + i];
        let (before, last) = x.split_at_mut(i);
        before.iter_mut().zip(&a[i * d..]).for_each(|(x, l)| *x -= l * last[0]);
    }
}
