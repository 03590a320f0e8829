//! Causal depthwise convolution of packed rows: `dst[i][c] = act(b_c + Σ_j w_{c,j} · src[i + j][c])`, `j < W`.
//!
//! * **Shapes.** `src` has `n + W − 1` rows, of which row `i + W − 1` is output `i`'s own token; rows of `d` contiguous
//!   channels, any distance apart. Weights in panels of 16 channels, `[⌈d/16⌉][W][16]`; bias `[16 ⌈d/16⌉]` or none.
//!   `dst` overlaps nothing.
//! * **Numerics.** Multiply-adds from the first tap to the last, starting at the bias: `W` roundings of the magnitude
//!   `|b| + Σ |w x|`, then those of [`crate::simd::math::silu`]. A tap of 0 does not mask a `NaN`.
//! * **Cost.** 8 bytes and `W` multiply-adds per element, 17 operations with a division more for `silu`, which is most
//!   of the time.
//! * **Blocking.** A vector of channels at a time: its taps and the last `W − 1` inputs stay in registers, so each input
//!   is loaded once. Tokens are independent, so chains of dependent operations overlap.

mod reference;
mod simd;

use crate::kernel::Kernel;
use pulp::Simd;

/// Channels of a panel of weights.
pub const PANEL: usize = 16;
/// Most taps.
pub const MAX_WIDTH: usize = 8;

/// One call.
///
/// `src + i·src_stride` is readable for `d` elements for `i < n + width − 1`, `dst + i·dst_stride` writable for `i < n`;
/// `weight` is readable for `⌈d/16⌉ · width · 16` elements and `bias`, unless it is null, for `⌈d/16⌉ · 16`.
/// `1 ≤ width ≤ 8`.
#[derive(Clone, Copy, Debug)]
pub struct Args {
    /// Outputs of a channel.
    pub n: usize,
    /// Channels.
    pub d: usize,
    /// Taps.
    pub width: usize,
    /// The row of the first output's first tap.
    pub src: *const f32,
    /// Elements from one row to the next.
    pub src_stride: isize,
    /// Panels of taps.
    pub weight: *const f32,
    /// What is added, or null.
    pub bias: *const f32,
    /// Whether the sum goes through `silu`.
    pub silu: bool,
    /// The results.
    pub dst: *mut f32,
    /// Elements from one row of results to the next.
    pub dst_stride: isize,
}

/// Calls `$f::<S, W>($s, $args)` with the constant that `$args.width` is.
macro_rules! by_width {
    ($f:ident, $s:expr, $args:expr) => {
        match $args.width {
            1 => $f::<S, 1>($s, $args),
            2 => $f::<S, 2>($s, $args),
            3 => $f::<S, 3>($s, $args),
            4 => $f::<S, 4>($s, $args),
            5 => $f::<S, 5>($s, $args),
            6 => $f::<S, 6>($s, $args),
            7 => $f::<S, 7>($s, $args),
            _ => $f::<S, 8>($s, $args),
        }
    };
}
pub(super) use by_width;

/// Place of tap `j` of channel `c` in the panels.
#[inline(always)]
pub(super) fn tap(width: usize, c: usize, j: usize) -> usize {
    (c / PANEL * width + j) * PANEL + c % PANEL
}

/// The kernel.
pub struct CausalConv;

impl Kernel for CausalConv {
    type Args = Args;
    const NAME: &'static str = "causal_conv_f32";

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
