//! Gradient of the causal convolution before its input's: with `z` the sum that [`causal_conv`](super::causal_conv)
//! puts through its activation,
//!
//! ```text
//! dz[i][c] = dout[i][c] · act'(z[i][c])      dw_{c,j} += Σ_i dz[i][c] · src[i + j][c]      db_c += Σ_i dz[i][c]
//! ```
//!
//! The gradient of the input is a convolution again, of `dz` with the taps in reverse: the engine's business.
//!
//! * **Shapes.** Packed rows of 16 channels: `src [n + W − 1][16]`, `dout`, `dz [n][16]`; `weight`, `dw [W][16]`; `bias`
//!   `[16]` or none; `db [16]`. `dz` may be `dout`; nothing else overlaps.
//! * **Numerics.** `z` as in the forward pass; `silu' = σ (1 + z (1 − σ))`. The sums over `n` tokens are taken apart and
//!   added to what is there: with calls of `n` tokens, the roundings of `N` tokens grow like `n + N/n`.
//! * **Cost.** `W` multiply-adds per element, `W` more and 20 operations with a division for `silu`.

mod reference;
mod simd;

use crate::kernel::Kernel;
use pulp::Simd;

/// Channels.
pub const PANEL: usize = super::causal_conv::PANEL;

/// One call. Pointers are readable, `dz`, `dw`, `db` writable, for the extents of the module's page;
/// `1 ≤ width ≤ 8`.
#[derive(Clone, Copy, Debug)]
pub struct Args {
    /// Tokens.
    pub n: usize,
    /// Taps.
    pub width: usize,
    /// Inputs, beginning `width − 1` rows before the first token.
    pub src: *const f32,
    /// Taps.
    pub weight: *const f32,
    /// What was added, or null.
    pub bias: *const f32,
    /// Whether the sum went through `silu`.
    pub silu: bool,
    /// Gradient of the output.
    pub dout: *const f32,
    /// Gradient of the sum.
    pub dz: *mut f32,
    /// Gradient of the taps, added to.
    pub dw: *mut f32,
    /// Gradient of the bias, added to.
    pub db: *mut f32,
}

/// The kernel.
pub struct CausalConvGrad;

impl Kernel for CausalConvGrad {
    type Args = Args;
    const NAME: &'static str = "causal_conv_grad_f32";

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
