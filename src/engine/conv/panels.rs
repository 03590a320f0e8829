//! Panels of 16 channels, token by token, out of tensors of any strides and element types, and back.
//!
//! A tensor whose rows follow each other in memory and whose channels don't (tokens of a channel side by side, a state
//! or taps as models store them) goes by channels and through a transposition; any other goes row by row.

use crate::engine::linear::{Recurrence, Rows, Tiles};
use crate::kernel::causal_conv::PANEL;
use crate::simd::Isa;
use crate::tensor::{DType, Layout, MAX_RANK, Tensor};
use std::ptr;

/// Rows that are transposed at a time.
const ROWS: usize = 32;
/// Elements of scratch.
pub const SCRATCH: usize = 2 * ROWS * PANEL;

/// Rows (tokens or taps) and channels of a tensor, as its two axes.
#[derive(Clone, Copy)]
pub struct Grid(Tensor);

impl Grid {
    /// From element `at` on, along these axes.
    pub fn new(tensor: &Tensor, at: &[usize], (channels, rows): (usize, usize)) -> Grid {
        let of = |axes: [i64; MAX_RANK]| [axes[rows], axes[channels], 0, 0, 0];
        let layout = Layout { rank: 2, shape: of(tensor.layout.shape), stride: of(tensor.layout.stride) };
        Grid(Tensor { data: tensor.at(at), dtype: tensor.dtype, layout })
    }

    fn by_channels(&self, n: usize) -> bool {
        self.0.stride(0) == 1 && self.0.stride(1) != 1 && n > 1
    }

    /// `n` rows of `d` channels from row `first` on.
    fn rows<'a>(&'a self, first: &'a [usize; 1], n: usize, d: usize) -> Rows<'a> {
        Rows { tensor: &self.0, at: first, rows: 0, columns: 1, n, d }
    }

    /// `d` channels of `n` rows from row `first` on: a channel is a row of the result.
    fn channels<'a>(&'a self, first: &'a [usize; 1], n: usize, d: usize) -> Rows<'a> {
        Rows { tensor: &self.0, at: first, rows: 1, columns: 0, n: d, d: n }
    }
}

/// The tiles.
#[derive(Clone, Copy)]
pub struct Panels(Tiles);

impl Panels {
    /// The tiles of `isa`.
    pub fn new(isa: Isa) -> Panels {
        Panels(Tiles::new(isa, &Recurrence::default()))
    }

    /// `n` rows of `d ≤ 16` channels to packed rows of 16, the rest of which is zero.
    ///
    /// # Safety
    /// The grid has these elements; `dst` has `16 n`, `scratch` [`SCRATCH`].
    pub unsafe fn load(&self, from: &Grid, (n, d): (usize, usize), dst: *mut f32, scratch: *mut f32) {
        let load = |rows: &Rows<'_>, dst, ld| {
            // SAFETY: the caller's contract.
            unsafe { self.0.load(rows, 1.0, ptr::null(), dst, ld) }
        };
        // SAFETY: the caller's contract; at most ROWS rows go through the scratch at a time.
        unsafe {
            if !from.by_channels(n) {
                load(&from.rows(&[0], n, d), dst, PANEL);
                return;
            }
            // Channels that don't overlap are transposed where they lie: packing rows of a few taps first would take
            // longer than the transposition.
            if from.0.dtype == DType::F32 && from.0.stride(1) >= n as isize {
                self.0.transpose(from.0.f32_at(&[]), (d, n), from.0.stride(1) as usize, dst);
                return;
            }
            for i in (0..n).step_by(ROWS) {
                let m = ROWS.min(n - i);
                load(&from.channels(&[i], m, d), scratch, m);
                self.0.transpose(scratch, (d, m), m, dst.add(i * PANEL));
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
                self.0.store(src, PANEL, &to.rows(&[0], n, d));
                return;
            }
            for i in (0..n).step_by(PANEL) {
                let m = PANEL.min(n - i);
                self.0.transpose(src.add(i * PANEL), (m, d), PANEL, scratch);
                self.0.store(scratch, PANEL, &to.channels(&[i], m, d));
            }
        }
    }
}
