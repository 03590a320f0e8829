//! Panels of 16 channels, token by token, out of tensors of any strides and back.
//!
//! A tensor whose rows follow each other in memory and whose channels don't (tokens of a channel side by side, a state
//! or taps as models store them) goes by channels and through a transposition; any other goes row by row.

use crate::kernel::causal_conv::PANEL;
use crate::kernel::{KernelFn, load_rows, select, store_rows, transpose_rows};
use crate::simd::Isa;
use crate::tensor::Tensor;
use std::ptr;

/// Rows that are transposed at a time.
const ROWS: usize = 32;
/// Elements of scratch.
pub const SCRATCH: usize = 2 * ROWS * PANEL;

/// Channels and rows (tokens or taps) of a tensor.
#[derive(Clone, Copy)]
pub struct Grid {
    data: *mut f32,
    channel: isize,
    row: isize,
}

impl Grid {
    /// From element `at` on, along these axes.
    pub fn new(tensor: &Tensor, at: &[usize], (channels, rows): (usize, usize)) -> Grid {
        Grid { data: tensor.f32_at(at), channel: tensor.stride(channels), row: tensor.stride(rows) }
    }

    fn by_channels(&self, n: usize) -> bool {
        self.row == 1 && self.channel != 1 && n > 1
    }

    fn at_row(&self, i: usize) -> *mut f32 {
        self.data.wrapping_offset(i as isize * self.row)
    }
}

/// The tiles.
#[derive(Clone, Copy)]
pub struct Panels {
    load: KernelFn<load_rows::Args<f32>>,
    store: KernelFn<store_rows::Args<f32>>,
    transpose: KernelFn<transpose_rows::Args>,
}

impl Panels {
    /// The tiles of `isa`.
    pub fn new(isa: Isa) -> Panels {
        Panels {
            load: select::<load_rows::LoadRows<f32>>(isa),
            store: select::<store_rows::StoreRows<f32>>(isa),
            transpose: select::<transpose_rows::TransposeRows>(isa),
        }
    }

    /// `n` rows of `d ≤ 16` channels to packed rows of 16, the rest of which is zero.
    ///
    /// # Safety
    /// The grid has these elements; `dst` has `16 n`, `scratch` [`SCRATCH`].
    pub unsafe fn load(&self, from: &Grid, (n, d): (usize, usize), dst: *mut f32, scratch: *mut f32) {
        let rows = |n, d, src, (row_stride, col_stride), dst, ld| load_rows::Args {
            n,
            d,
            src,
            row_stride,
            col_stride,
            row_scale: ptr::null(),
            row_scale_stride: 0,
            scale: 1.0,
            dst,
            ld,
        };
        // SAFETY: the caller's contract; at most ROWS rows go through the scratch at a time.
        unsafe {
            if !from.by_channels(n) {
                (self.load)(&rows(n, d, from.data.cast_const(), (from.row, from.channel), dst, PANEL));
                return;
            }
            // Channels that don't overlap are transposed where they lie: packing rows of a few taps first would take
            // longer than the transposition.
            if from.channel >= n as isize {
                let ld = from.channel as usize;
                (self.transpose)(&transpose_rows::Args { n: d, d: n, src: from.data, ld, dst, ld_dst: 16 });
                return;
            }
            for i in (0..n).step_by(ROWS) {
                let m = ROWS.min(n - i);
                (self.load)(&rows(d, m, from.at_row(i).cast_const(), (from.channel, 1), scratch, m));
                let dst = dst.add(i * PANEL);
                (self.transpose)(&transpose_rows::Args { n: d, d: m, src: scratch, ld: m, dst, ld_dst: 16 });
            }
        }
    }

    /// The reverse.
    ///
    /// # Safety
    /// `src` has `16 n` elements, `scratch` [`SCRATCH`]; the grid has `n · d` that no other task touches.
    pub unsafe fn store(&self, src: *const f32, (n, d): (usize, usize), to: &Grid, scratch: *mut f32) {
        // SAFETY: the caller's contract; 16 rows go through the scratch at a time.
        unsafe {
            if !to.by_channels(n) {
                let (dst, row_stride, col_stride) = (to.data, to.row, to.channel);
                (self.store)(&store_rows::Args { n, d, src, ld: PANEL, dst, row_stride, col_stride });
                return;
            }
            for i in (0..n).step_by(PANEL) {
                let m = PANEL.min(n - i);
                let src = src.add(i * PANEL);
                (self.transpose)(&transpose_rows::Args { n: m, d, src, ld: PANEL, dst: scratch, ld_dst: 16 });
                let (dst, row_stride) = (to.at_row(i), to.channel);
                let src = scratch.cast_const();
                (self.store)(&store_rows::Args {
                    n: d,
                    d: m,
                    src,
                    ld: PANEL,
                    dst,
                    row_stride,
                    col_stride: 1,
                });
            }
        }
    }
}
