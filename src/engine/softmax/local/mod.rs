//! Local linear attention (`docs/spec/softmax.md` 10): the value at the query of a ridge-regularised linear fit around it.
//!
//! ```text
//! w_s = e^{X_s − m}      z_s = k_s − q      ω = Σ w      μ = Σ w z      A = Σ w z zᵀ + ridge ω I      ρ = A⁻¹ μ
//! a_s = w_s (1 − z_s·ρ)                     o = Σ a v / Σ a
//! ```
//!
//! Sweeps over the keys of a tile of queries: the first gives the maxima `m`, each later one forms the weights of a tile
//! anew and does with them what it is for. Queries are always across the lanes.
//!
//! **Direct**: `A` of each query by products of `z` with `w z`, lower triangle, then a Cholesky factorisation in `f64`.
//! **Conjugate gradients**: a sweep per iteration, `A p = Σ c z + ridge ω p` with `c = w (k·p − q·p)`, all queries of a tile
//! together; vectors and their products are `f64`.
//!
//! *Numerics*: `z` is formed before it is multiplied, so nothing large cancels. Where `ridge` is below [`PRECISE`], `A` is
//! summed up in `f64` and solved directly, whatever the solver. Where `|Σ a| < 10⁻¹² ω` the output is the softmax's.
//! *Cost* per pair: `6D + 2E`, and about `D²` FLOPs directly, or `4D` for each iteration. *Workspace* per worker: up to 32
//! matrices `[D, D]`, a MiB of them at most unless one is larger, and one of `f64`.

mod direct;
mod gradients;
mod reverse;

use super::Weights;
use super::products::{Buffers, Operand};
use super::rows::{KEYS, ROWS, Unit, tiles_of};
use super::terms::Terms;
use super::tile::{Running, Tile};
use crate::engine::linear::Rows as Slice;
use crate::kernel::online_softmax::{self, MASKED};
use crate::kernel::products;
use crate::workspace::Carver;
pub use reverse::Reverse;
use std::ops::Range;
use std::{ptr, slice};

/// Least ridge for sums in `f32`.
const PRECISE: f32 = 0.01;
/// `|Σ a| / ω` below which there is no fit.
const LEAST: f32 = 1e-12;

/// How a fit is solved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Local {
    /// Regularisation relative to `ω`; `None`: a tensor gives it.
    pub ridge: Option<f32>,
    /// Most iterations and relative residual of conjugate gradients; `None`: direct.
    pub iterative: Option<(usize, f64)>,
}

/// Offsets of a worker's buffers.
#[derive(Clone, Copy, Debug)]
pub struct Sums {
    /// Queries without the scale, `[32][D]` padded.
    rows: usize,
    /// Differences of keys and a query, and the same times the weights, `[64][D]` padded.
    z: usize,
    wz: usize,
    /// Matrices of some queries, `[D][D]` padded, and how many.
    matrices: usize,
    at_once: usize,
    /// One of them in `f64`.
    precise: usize,
    /// [`Vector`]s of `f64` of each query.
    vectors: usize,
    /// `Σ c z`, `[D][32]`.
    product: usize,
}

impl Sums {
    /// Of `d` channels; none without a fit.
    pub fn new(carver: &mut Carver, d: usize, settings: Option<&Local>) -> Sums {
        let (rows, keys, d) = if settings.is_some() { (ROWS, KEYS, d) } else { (0, 0, 0) };
        let d16 = d.next_multiple_of(16);
        let direct = settings.is_some_and(|settings| settings.iterative.is_none());
        let at_once = if direct { ((1 << 18) / (d * d16).max(1)).clamp(1, ROWS) } else { 0 };
        Sums {
            rows: carver.take(&[rows, d16]),
            z: carver.take(&[keys, d16]),
            wz: carver.take(&[keys, d16]),
            matrices: carver.take(&[at_once, d, d16]),
            at_once,
            precise: carver.take(&[2, d, d]),
            vectors: carver.take(&[VECTORS, rows, 2, d]),
            product: carver.take(&[d16, rows]),
        }
    }
}

/// Vectors that each query has.
#[derive(Clone, Copy)]
pub enum Vector {
    Mean,
    Fit,
    Residual,
    Direction,
    Diagonal,
    /// Of gradients only: `Σ g w z`, and what `A⁻¹` makes of it, then `u`.
    Along,
    Slope,
}

/// How many of them forward has.
const VECTORS: usize = Vector::Along as usize;

/// Runs one unit.
pub fn run(unit: &Unit<'_>, base: *mut f32, settings: &Local) {
    let mut fit = Fit::new(unit, base, settings, None);
    // SAFETY: tensors have the shapes that `plan::check` made sure of; buffers those that `Sums` names.
    unsafe { fit.run() }
}

/// Fits of a tile of queries.
pub struct Fit<'a> {
    pub tile: Tile<'a>,
    settings: &'a Local,
    /// Of each row.
    pub ridge: [f32; ROWS],
    /// Sums of the last second scores of each row; in the end `Σ a`.
    pub sums: [f32; ROWS],
    /// Which rows have a fit; the others have the softmax's output.
    fitted: [bool; ROWS],
    reverse: Option<Reverse>,
}

/// Weights of the keys, tile by tile, from this maximum on; `f` gets the keys, which are copied, finite where some row
/// does not see them, and whether that is so.
///
/// # Safety
/// Queries are loaded; tensors are those of the call.
pub unsafe fn sweep(
    tile: &Buffers<'_>,
    running: &Running,
    mut f: impl FnMut(&Range<usize>, Operand, bool),
) -> Running {
    let (unit, mut running) = (tile.unit, Running { max: running.max, sum: [0.0; ROWS] });
    let (engine, rows) = (unit.engine, &unit.rows);
    let (Some(k), all) = (&unit.call.k, rows.keys()) else { return running };
    // SAFETY: by contract; a tile has 64 rows at most.
    unsafe {
        let mut terms = Terms::new(tile, 0, 1);
        for keys in tiles_of(all) {
            let masked = !rows.see_all(&keys);
            let k = tile.copy_of(&unit.keys_of(k, unit.head), &keys);
            tile.scores(k, keys.len(), engine.at.q[0], engine.at.x[0]);
            terms.apply(tile, &keys, masked, engine.at.x[0]);
            let (mut factor, mut changed) = ([0.0; ROWS], false);
            (engine.kernels.online)(&online_softmax::Args {
                n: keys.len(),
                w: rows.width,
                x: tile.at(engine.at.x[0]),
                ld: ROWS,
                max: running.max.as_mut_ptr(),
                sum: running.sum.as_mut_ptr(),
                factor: factor.as_mut_ptr(),
                changed: &mut changed,
            });
            for i in (0..keys.len()).filter(|_| masked) {
                let row = slice::from_raw_parts_mut(k.at.cast_mut().add(i * k.ld), engine.d);
                if !row.iter().all(|x| x.is_finite()) {
                    row.fill(0.0);
                }
            }
            f(&keys, k, masked);
        }
    }
    running
}

/// The second scores of a tile, `k·p`, to `w (at − k·p)`, and their sums.
///
/// # Safety
/// The tile has weights, the second stream a direction for each query.
unsafe fn weigh(tile: &Buffers<'_>, k: Operand, n: usize, at: &[f32; ROWS], sums: &mut [f32; ROWS]) {
    let engine = tile.unit.engine;
    let (x, y) = (tile.at(engine.at.x[0]), tile.at(engine.at.x[1]));
    // SAFETY: by contract; tiles are `[64][32]`.
    unsafe {
        tile.scores(k, n, engine.at.q[1], engine.at.x[1]);
        for s in 0..n {
            let weights = slice::from_raw_parts(x.add(s * ROWS), ROWS);
            let scores = slice::from_raw_parts_mut(y.add(s * ROWS), ROWS);
            for ((score, &weight), &at) in scores.iter_mut().zip(weights).zip(at) {
                // What is seen is no −0, which stands for what is not.
                let weighed = weight * (at - *score) + 0.0;
                *score = if weight.to_bits() == MASKED { weight } else { weighed };
            }
        }
        let (d, a, col) = (tile.unit.rows.width, y.cast_const(), sums.as_mut_ptr());
        let (b, row) = (ptr::null(), ptr::null_mut());
        (engine.kernels.sums)(&products::Args { n, d, a, lda: ROWS, b, ldb: 0, row, col });
    }
}

impl<'a> Fit<'a> {
    /// Nothing is known of the rows yet; the unit's queries are across the lanes.
    pub fn new(unit: &'a Unit<'a>, base: *mut f32, settings: &'a Local, reverse: Option<Reverse>) -> Fit<'a> {
        let tile = Tile::empty(unit, base);
        Fit { tile, settings, ridge: [1.0; ROWS], sums: [0.0; ROWS], fitted: [true; ROWS], reverse }
    }
}

impl Fit<'_> {
    /// A vector of a row.
    ///
    /// # Safety
    /// Nothing else uses it as long as the borrow is.
    pub unsafe fn vector<'v>(&self, which: Vector, row: usize) -> &'v mut [f64] {
        let engine = self.tile.buffers.unit.engine;
        let (first, number) = match (&self.reverse, (which as usize).checked_sub(VECTORS)) {
            (Some(reverse), Some(number)) => (reverse.vectors, number),
            _ => (engine.at.sums.vectors, which as usize),
        };
        let at = first + (number * ROWS + row) * 2 * engine.d;
        // SAFETY: the buffers have as many for each of 32 rows, and are aligned.
        unsafe { slice::from_raw_parts_mut(self.tile.buffers.at(at).cast(), engine.d) }
    }

    /// Channels of a query, padded.
    ///
    /// # Safety
    /// Queries are loaded.
    unsafe fn query<'v>(&self, row: usize) -> &'v [f32] {
        let engine = self.tile.buffers.unit.engine;
        let d16 = engine.d.next_multiple_of(16);
        // SAFETY: the buffer has 32 rows.
        unsafe { slice::from_raw_parts(self.tile.buffers.at(engine.at.sums.rows + row * d16), d16) }
    }

    /// Fits and outputs.
    ///
    /// # Safety
    /// Tensors and buffers are those of the call.
    pub unsafe fn run(&mut self) {
        let buffers = self.tile.buffers;
        let n = buffers.unit.rows.n;
        // SAFETY: by contract.
        unsafe {
            self.tile.load_queries();
            self.load_rows();
            let running = sweep(&buffers, &Running::empty(Weights::Softmax), |_, _, _| {});
            self.tile.running[0] = running;
            for row in 0..n {
                self.vector(Vector::Fit, row).fill(0.0);
                if self.reverse.is_some() {
                    self.vector(Vector::Along, row).fill(0.0);
                    self.vector(Vector::Slope, row).fill(0.0);
                }
            }
            let precise = self.ridge[..n].iter().any(|&ridge| ridge < PRECISE);
            match self.settings.iterative {
                Some((most, tolerance)) if !precise => self.iterate(most, tolerance),
                _ => self.solve(precise),
            }
            self.evaluate();
        }
    }

    /// Queries without the scale, and ridges.
    ///
    /// # Safety
    /// As [`Fit::run`].
    unsafe fn load_rows(&mut self) {
        let unit = self.tile.buffers.unit;
        let (engine, rows, s) = (unit.engine, &unit.rows, &unit.sequence);
        let (d, d16) = (engine.d, engine.d.next_multiple_of(16));
        let to = self.tile.buffers.at(engine.at.sums.rows);
        let tiles = &engine.kernels.common;
        // SAFETY: the tensors have these rows; the buffer has 32.
        unsafe {
            for run in rows.runs() {
                let head = unit.query_head(rows.set[run.start]);
                let Some(q) = &unit.call.q else { return };
                let at = [s.batch, head, s.q0 + rows.token[run.start]];
                let from = Slice::tokens(q, &at, (run.len(), d));
                tiles.load(&from, 1.0, ptr::null(), to.add(run.start * d16), d16);
                for row in run {
                    let token = s.q0 + rows.token[row];
                    self.ridge[row] = match (&unit.call.ridge, self.settings.ridge) {
                        (Some(ridge), None) => match ridge.layout.rank {
                            1 => tiles.value(ridge, &[0]),
                            2 => tiles.value(ridge, &[unit.index, head]),
                            _ => tiles.value(ridge, &[s.batch, head, token]),
                        },
                        (_, given) => given.unwrap_or(1.0),
                    };
                }
            }
        }
    }

    /// `z` and `w z` of a row for a tile of keys.
    ///
    /// # Safety
    /// The tile has weights.
    unsafe fn differences(&self, row: usize, n: usize, k: Operand) {
        let buffers = self.tile.buffers;
        let (engine, d16) = (buffers.unit.engine, buffers.unit.engine.d.next_multiple_of(16));
        // SAFETY: by contract; rows of all buffers are padded.
        unsafe {
            let q = self.query(row);
            for s in 0..n {
                let weight = *buffers.at(engine.at.x[0]).add(s * ROWS + row);
                let key = slice::from_raw_parts(k.at.add(s * k.ld), d16);
                let z = slice::from_raw_parts_mut(buffers.at(engine.at.sums.z + s * d16), d16);
                let wz = slice::from_raw_parts_mut(buffers.at(engine.at.sums.wz + s * d16), d16);
                if weight.to_bits() == MASKED {
                    z.fill(0.0);
                    wz.fill(0.0);
                    continue;
                }
                for (((z, wz), key), q) in z.iter_mut().zip(wz).zip(key).zip(q) {
                    *z = key - q;
                    *wz = weight * *z;
                }
            }
        }
    }

    /// A vector of each row to columns `[D][32]`; its products with the queries.
    ///
    /// # Safety
    /// As [`Fit::run`].
    pub unsafe fn load_direction(&self, which: Vector, to: usize) -> [f32; ROWS] {
        let buffers = self.tile.buffers;
        let (to, mut products) = (buffers.at(to), [0.0; ROWS]);
        // SAFETY: by contract.
        unsafe {
            ptr::write_bytes(to, 0, buffers.unit.engine.d * ROWS);
            for (row, to_product) in products[..buffers.unit.rows.n].iter_mut().enumerate() {
                let mut product = 0.0;
                for (i, (&p, &q)) in self.vector(which, row).iter().zip(self.query(row)).enumerate() {
                    *to.add(i * ROWS + row) = p as f32;
                    product += f64::from(p as f32) * f64::from(q);
                }
                *to_product = product as f32;
            }
        }
        products
    }

    /// Outputs, from the fits.
    ///
    /// # Safety
    /// As [`Fit::run`].
    unsafe fn evaluate(&mut self) {
        let buffers = self.tile.buffers;
        let (unit, running) = (buffers.unit, self.tile.running[0]);
        let acc = unit.engine.at.acc[0];
        // SAFETY: by contract.
        unsafe {
            loop {
                let mut at = self.load_direction(Vector::Fit, unit.engine.at.q[1]);
                at.iter_mut().for_each(|at| *at += 1.0);
                self.tile.restart();
                self.sums = [0.0; ROWS];
                let Some(v) = &unit.call.v else { return };
                let (tile, sums) = (&mut self.tile, &mut self.sums);
                sweep(&buffers, &running, |keys, k, masked| {
                    weigh(&buffers, k, keys.len(), &at, sums);
                    let v = tile.values(v, keys, masked);
                    tile.add(1, 0, &v, keys, &None);
                });
                let mut again = false;
                for row in 0..unit.rows.n {
                    let fit = self.vector(Vector::Fit, row);
                    if self.sums[row].abs() < LEAST * running.sum[row] && fit.iter().any(|&x| x != 0.0) {
                        fit.fill(0.0);
                        (self.fitted[row], again) = (false, true);
                    }
                }
                if !again {
                    break;
                }
            }
            self.tile.clear_unsummed();
            let factor = self.sums.map(|sum| if sum == 0.0 { 0.0 } else { sum.recip() });
            buffers.scale_sums(acc, factor.as_ptr());
            if let Some(out) = &unit.call.out {
                buffers.store_sums(acc, out);
            }
        }
    }
}

/// `Σ a b`.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
