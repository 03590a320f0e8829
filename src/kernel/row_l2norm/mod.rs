//! L2 normalisation of each row, times a scale.
//!
//! | mode | row |
//! | --- | --- |
//! | `square_add` | `scale · x (Σx² + ε)^(−1/2)` |
//! | `floor` | `scale · x / max(‖x‖, ε)` |
//! | `add` | `scale · x / (‖x‖ + ε)` |
//!
//! * **Shapes.** `x [n, d]` with rows `ld` elements apart, in place.
//! * **Numerics.** Relative error `d / (4 LANES) + 6` roundings (2⁻²⁴). Rows whose sum of squares would leave `f32`'s
//!   range are measured again after a multiplication by a power of two, so that huge and denormal rows come out right.
//!   A zero row with ε = 0 gives `NaN`, as IEEE does; so does a row with a `NaN`. A row with an infinity: `NaN` there,
//!   0 elsewhere.
//! * **Cost.** 12 bytes and 2 multiply-adds per element, a root and a division per row.

mod reference;
mod simd;

use crate::kernel::Kernel;
use pulp::Simd;

/// Where ε stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Added to the sum of squares.
    SquareAdd,
    /// A lower bound of the norm.
    Floor,
    /// Added to the norm.
    Add,
}

/// One call.
///
/// Each of the `n` rows at `x + i·ld` is valid for reading and writing `d` elements; `ld ≥ d`.
#[derive(Clone, Copy, Debug)]
pub struct Args {
    /// Rows.
    pub n: usize,
    /// Elements of a row.
    pub d: usize,
    /// The matrix.
    pub x: *mut f32,
    /// Elements from one row to the next.
    pub ld: usize,
    /// Where `eps` stands.
    pub mode: Mode,
    /// ε ≥ 0.
    pub eps: f32,
    /// Factor of the result.
    pub scale: f32,
}

/// The kernel.
pub struct RowL2Norm;

impl Kernel for RowL2Norm {
    type Args = Args;
    const NAME: &'static str = "row_l2norm_f32";

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
