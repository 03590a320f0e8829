//! Queries and keys that are affine maps of one tensor `z` (`docs/spec/linear.md` 9).
//!
//! ```text
//! scale · (γ_q ⊙ z_i + β_q) · (γ_k ⊙ z_j + β_k) = (w ⊙ z_i + b) · z_j + u·z_i + c
//! w = scale γ_q γ_k      b = scale β_q γ_k      u = scale γ_q β_k      c = scale β_q·β_k
//! ```
//!
//! Both maps go to the query, so that keys are read where they lie; what is left is a number for each query.

use super::call::Base;
use super::products::Buffers;
use crate::engine::linear::Tiles;
use crate::kernel::{matmul, products};
use std::ptr;

/// `x[i] = weight ⊙ x[i] + bias` for `n` rows of `d` channels.
///
/// # Safety
/// `x` has `n` rows, `ld` apart; these, `weight` and `bias` are readable to whole vectors of 16.
pub unsafe fn affine(
    tiles: &Tiles,
    (n, d): (usize, usize),
    (x, ld): (*mut f32, usize),
    weight: *const f32,
    bias: *const f32,
) {
    let one = 1.0f32;
    let product = matmul::Args::product(n, d, 1, x, ld as isize);
    // SAFETY: by contract; every row of `A` is the one.
    unsafe {
        (tiles.matmul)(&matmul::Args {
            a: &one,
            b: bias,
            ldb: ld,
            c0: x,
            ldc0: ld as isize,
            col: weight,
            ..product
        });
    }
}

impl Buffers<'_> {
    /// Rows of the base to queries, and what is added to the scores of each.
    ///
    /// # Safety
    /// `rows` are those of the tile, zero to whole vectors; the maps have the rows that the settings name.
    pub unsafe fn queries_of(&self, base: &Base, rows: *mut f32) {
        let engine = self.unit.engine;
        let (d, d16, scale) = (engine.d, engine.d.next_multiple_of(16), engine.settings.scale);
        let Some(heads) = engine.settings.base else { return };
        let (tiles, n) = (&engine.kernels.common, self.unit.rows.n);
        let shift = self.at(engine.at.shift);
        // SAFETY: by contract; there are four vectors of `d16`, and a number for each row.
        unsafe {
            ptr::write_bytes(self.at(engine.at.folded), 0, 4 * d16);
            let of = |i: usize| std::slice::from_raw_parts_mut(self.at(engine.at.folded + i * d16), d);
            let [w, b, u, v] = [of(0), of(1), of(2), of(3)];
            for (to, (tensor, head)) in [&mut *w, &mut *b, &mut *u, v].into_iter().zip([
                (&base.weight, heads[0]),
                (&base.bias, heads[0]),
                (&base.weight, heads[1]),
                (&base.bias, heads[1]),
            ]) {
                tiles.gather(tensor, &[head], 1, d, to.as_mut_ptr());
            }
            let mut c = 0.0;
            for i in 0..d {
                let (weight_q, bias_q, weight_k, bias_k) = (w[i], scale * b[i], u[i], v[i]);
                (w[i], b[i], u[i]) =
                    (scale * weight_q * weight_k, bias_q * weight_k, scale * weight_q * bias_k);
                c += bias_q * bias_k;
            }
            std::slice::from_raw_parts_mut(shift, super::rows::ROWS).fill(c);
            let (a, lda) = (rows.cast_const(), d16);
            let (b_row, row, col) = (u.as_ptr(), shift, ptr::null_mut());
            (engine.kernels.sums)(&products::Args { n, d, a, lda, b: b_row, ldb: 0, row, col });
            affine(tiles, (n, d), (rows, d16), w.as_ptr(), b.as_ptr());
        }
    }
}
