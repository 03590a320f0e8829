//! Gradient of [`gate`](super::gate): with `u = pre_l · (x[i][l] + bias_l)`,
//!
//! ```text
//! dy[i][l] ← dx[i][l] = dy[i][l] · post_l · pre_l · f'(u)                dbias_l += Σ_i dx[i][l]
//! softplus:  da_l += Σ_i dy[i][l] · post_l · f(u)      d(log post_l)
//! sigmoid:   da_l += Σ_i dx[i][l] · (x[i][l] + bias_l) d(log pre_l)
//! ```
//!
//! * **Shapes.** `x`, `dy [n][ld]`, of which `d` columns count; `pre`, `post`, `bias`, `dbias`, `da` `[d]`. Nothing
//!   overlaps.
//! * **Numerics.** `softplus' = σ(u)`; `σ' = e / (1 + e)²` with `e = e^{−|u|}`, which keeps its digits on both sides. The
//!   sums over `n` rows are taken apart and added to what is there.
//! * **Cost.** 12 bytes and some 60 (softplus) or 25 (sigmoid) operations per element.

mod reference;
mod simd;

pub use super::gate::Function;
use crate::kernel::Kernel;
use pulp::Simd;

/// One call.
///
/// `x` is valid for reading, `dy` for reading and writing `n` rows of `d` elements, `ld ≥ d` apart; `pre`, `post`,
/// `bias` for reading, `dbias` and `da` for reading and writing `d` elements.
#[derive(Clone, Copy, Debug)]
pub struct Args {
    /// Rows.
    pub n: usize,
    /// Elements of a row.
    pub d: usize,
    /// What the gate read.
    pub x: *const f32,
    /// Gradient of what it gave, then of what it read.
    pub dy: *mut f32,
    /// Elements from one row to the next.
    pub ld: usize,
    /// What was added first.
    pub bias: *const f32,
    /// Factor of the function's argument.
    pub pre: *const f32,
    /// Factor of its value.
    pub post: *const f32,
    /// The function.
    pub function: Function,
    /// Gradient of the bias, added to.
    pub dbias: *mut f32,
    /// Gradient of the logarithm of a factor, added to.
    pub da: *mut f32,
}

/// The kernel.
pub struct GateGrad;

impl Kernel for GateGrad {
    type Args = Args;
    const NAME: &'static str = "gate_grad_f32";

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
