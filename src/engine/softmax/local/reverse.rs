//! What gradients need of a fit: a second solution with the same matrix (`docs/spec/softmax.md` 10).
//!
//! ```text
//! g_s = do·v_s      b = do·o      u = −A⁻¹ Σ (g − b)/Σa w z = (b ρ − A⁻¹ Σ g w z) / Σa
//! ```
//!
//! `Σ g w z` does not depend on the fit, so both right-hand sides are known before `A` is factored.

use super::{Fit, Vector};
use crate::engine::softmax::backward::along_outputs;
use crate::engine::softmax::rows::ROWS;
use crate::kernel::online_softmax::MASKED;
use std::ops::Range;
use std::slice;

/// Where the buffers of gradients lie.
#[derive(Clone, Copy)]
pub struct Reverse {
    /// Gradients of outputs `[E][32]`, and their products with the values of a tile.
    pub dout_t: usize,
    pub dp: usize,
    /// Two more [`Vector`]s of each query.
    pub vectors: usize,
}

impl Fit<'_> {
    /// Products of gradients of outputs with the values of a tile, where there are such.
    ///
    /// # Safety
    /// As [`Fit::run`].
    pub(super) unsafe fn along_outputs(&self, keys: &Range<usize>) {
        let (buffers, Some(reverse)) = (&self.tile.buffers, self.reverse) else { return };
        let Some(v) = &buffers.unit.call.v else { return };
        // SAFETY: by contract.
        unsafe { along_outputs(buffers, v, keys, (reverse.dout_t, reverse.dp)) };
    }

    /// `Σ g w z` of a tile in `f64`.
    ///
    /// # Safety
    /// The differences are those of the row; the products are there.
    pub(super) unsafe fn add_along(&self, row: usize, n: usize) {
        let (buffers, Some(reverse)) = (self.tile.buffers, self.reverse) else { return };
        let engine = buffers.unit.engine;
        let d16 = engine.d.next_multiple_of(16);
        for s in 0..n {
            // SAFETY: by contract; tiles are `[64][32]`.
            unsafe {
                let at = s * ROWS + row;
                if (*buffers.at(engine.at.x[0]).add(at)).to_bits() == MASKED {
                    continue;
                }
                let gradient = f64::from(*buffers.at(reverse.dp).add(at));
                let wz = slice::from_raw_parts(buffers.at(engine.at.sums.wz + s * d16), d16);
                let along = self.vector(Vector::Along, row);
                along.iter_mut().zip(wz).for_each(|(along, &wz)| *along += gradient * f64::from(wz));
            }
        }
    }

    /// `u` of all rows, from `b` of each; 0 where there is no fit.
    ///
    /// # Safety
    /// The fit has run.
    pub unsafe fn slopes(&self, mean: &[f32; ROWS]) {
        for row in 0..self.tile.buffers.unit.rows.n {
            let (sum, mean) = (f64::from(self.sums[row]), f64::from(mean[row]));
            // SAFETY: the vectors differ.
            let (fit, slope) = unsafe { (self.vector(Vector::Fit, row), self.vector(Vector::Slope, row)) };
            for (slope, fit) in slope.iter_mut().zip(fit) {
                *slope = if self.fitted[row] && sum != 0.0 { (mean * *fit - *slope) / sum } else { 0.0 };
            }
        }
    }
}
