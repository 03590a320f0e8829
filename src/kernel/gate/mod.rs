//! Gate functions of packed rows: `x[i][l] = post_l · f(pre_l · (x[i][l] + bias_l))`, `f` softplus or sigmoid.
//!
//! * **Shapes.** `x [n][ld]`, of which `d` columns are replaced; `pre`, `post`, `bias` `[d]`. Nothing overlaps.
//! * **Numerics.** Three roundings and the function's own ([`crate::simd::math`]): of the result relative, where
//!   the sum `x + bias` keeps its digits. `NaN` gives `NaN`.
//! * **Cost.** 8 bytes and some 20 (sigmoid) or 40 (softplus) operations per element.

mod reference;
mod simd;

use crate::kernel::Kernel;
use pulp::Simd;

/// The function of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// `max(u, 0) + log(1 + e^{−|u|})`.
    Softplus,
    /// `1 / (1 + e^{−u})`.
    Sigmoid,
}

/// One call.
///
/// `x` is valid for reading and writing `n` rows of `d` elements, `ld ≥ d` apart; `pre`, `post` and `bias` for reading
/// `d` elements.
#[derive(Clone, Copy, Debug)]
pub struct Args {
    /// Rows.
    pub n: usize,
    /// Elements of a row.
    pub d: usize,
    /// The rows.
    pub x: *mut f32,
    /// Elements from one row to the next.
    pub ld: usize,
    /// What is added first.
    pub bias: *const f32,
    /// Factor of the function's argument.
    pub pre: *const f32,
    /// Factor of its value.
    pub post: *const f32,
    /// The function.
    pub function: Function,
}

/// The kernel.
pub struct Gate;

impl Kernel for Gate {
    type Args = Args;
    const NAME: &'static str = "gate_f32";

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
