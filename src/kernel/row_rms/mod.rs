//! Root-mean-square normalisation of rows, with an optional weight and an optional gate:
//! `o = y · (mean y² + ε)^(−1/2) · weight · act(gate)`.
//!
//! * **Shapes.** A row is `n_pieces` runs of `piece_len` elements, `piece_stride` apart; the mean is over all of them.
//!   One piece is `rms_head`, the `H` heads of a token are `srms_all`. `weight [n_pieces · piece_len]` is contiguous,
//!   index `piece · piece_len + e`; `gate` has its own strides. `y` in place; nothing else overlaps it.
//! * **Numerics.** Relative error `n_pieces (piece_len / (4 LANES) + 2) + 8` roundings (2⁻²⁴), 4 more with a gate.
//!   Rows whose sum of squares would leave `f32`'s range are measured again after a multiplication by a power of two.
//!   A `NaN` makes its row `NaN`; an infinity gives `NaN` there and 0 elsewhere. `silu(gate)` is `NaN` at `−inf` and
//!   0 below −88.73, like [`crate::simd::math::silu`].
//! * **Cost.** 12 bytes and 2 multiply-adds per element, 4 bytes more per weight, 4 bytes and 17 operations with a
//!   division more per gate.

mod reference;
mod simd;

use crate::kernel::Kernel;
use pulp::Simd;

/// Function of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e⁻ˣ)`.
    Silu,
    /// `1 / (1 + e⁻ˣ)`.
    Sigmoid,
}

/// One call.
///
/// For each row `i < n` and piece `p < n_pieces`, `y + i·ld + p·piece_stride` is valid for reading and writing
/// `piece_len` elements, which no other piece shares, and `gate + i·gate_ld + p·gate_piece_stride` for reading as many.
#[derive(Clone, Copy, Debug)]
pub struct Args {
    /// Rows.
    pub n: usize,
    /// Pieces of a row.
    pub n_pieces: usize,
    /// Elements of a piece.
    pub piece_len: usize,
    /// The rows.
    pub y: *mut f32,
    /// Elements from one row to the next.
    pub ld: isize,
    /// Elements from one piece of a row to the next.
    pub piece_stride: isize,
    /// ε ≥ 0.
    pub eps: f32,
    /// `n_pieces · piece_len` weights, or null.
    pub weight: *const f32,
    /// The gates, or null.
    pub gate: *const f32,
    /// Elements from one row of gates to the next.
    pub gate_ld: isize,
    /// Elements from one piece of gates to the next.
    pub gate_piece_stride: isize,
    /// What multiplies the result where there is a gate.
    pub activation: Activation,
}

impl Args {
    /// Piece `p` of row `i`.
    ///
    /// # Safety
    /// There is such a piece.
    #[inline(always)]
    unsafe fn piece(&self, i: usize, p: usize) -> *mut f32 {
        // SAFETY: by contract.
        unsafe { self.y.offset(i as isize * self.ld + p as isize * self.piece_stride) }
    }

    /// The gates of piece `p` of row `i`.
    ///
    /// # Safety
    /// There is a gate and such a piece.
    #[inline(always)]
    unsafe fn gates(&self, i: usize, p: usize) -> *const f32 {
        // SAFETY: by contract.
        unsafe { self.gate.offset(i as isize * self.gate_ld + p as isize * self.gate_piece_stride) }
    }

    /// The weights of piece `p`.
    ///
    /// # Safety
    /// There are weights and such a piece.
    #[inline(always)]
    unsafe fn weights(&self, p: usize) -> *const f32 {
        // SAFETY: by contract.
        unsafe { self.weight.add(p * self.piece_len) }
    }
}

/// The kernel.
pub struct RowRms;

impl Kernel for RowRms {
    type Args = Args;
    const NAME: &'static str = "row_rms_f32";

    unsafe fn reference(args: &Args) {
        // SAFETY: the contract is the same.
        unsafe { reference::run(args) }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(s: S, args: &Args) {
        // SAFETY: the contract is the same.
        unsafe { simd::run(s, args) }
    }
}
