//! Up to 16 packed rows, transposed into columns of 16: `dst[j][i] = src[i][j]`, zero for `n ≤ i < 16`.
//!
//! * **Shapes.** `src [n ≤ 16][ld]` of which `d` columns count; `dst [d][ld_dst]`, of which 16 columns are written. They don't overlap.
//! * **Numerics.** Copies bits.
//! * **Cost.** 128 bytes per column.
//! * **Overrides.** Four columns at a time: each 128-bit lane of a register holds four columns of one row, lane `l` of
//!   register `r` those of row `4l + r`. Loads with a memory operand put the lanes together, which takes no shuffle; a
//!   4×4 transposition within lanes by 8 shuffles then gives whole rows of `dst`. AVX2 has 8 rows in such a group, NEON
//!   4. At the end the last four columns are done, some of them again: masked loads would do, but not under QEMU, which
//!   reads what they mask. On a Zen 4 core a tile of 16×128 takes 360 to 400 cycles, about 50 per 16×16. The same with
//!   16 rows in 512-bit registers took 12 to 16 % more, with insertions or masked broadcasts, so AVX-512 runs the AVX2
//!   code. Looking up the start of each row in a table, so that short tiles need no code of their own, took
//!   twice as long.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod reference;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::kernel::{Kernel, Row};
use pulp::Simd;

/// Rows of a tile, columns of its transpose.
pub const TILE: usize = 16;

/// One call.
///
/// `src` is readable for `n ≤ 16` rows of `d` elements, `ld ≥ d` apart; `dst` is
/// writable for 16 elements in each of `d` rows, `ld_dst ≥ 16` apart.
#[derive(Clone, Copy, Debug)]
pub struct Args {
    /// Rows, at most [`TILE`].
    pub n: usize,
    /// Elements of a row.
    pub d: usize,
    /// The packed rows.
    pub src: *const f32,
    /// Elements from one packed row to the next.
    pub ld: usize,
    /// The transpose.
    pub dst: *mut f32,
    /// Elements from one of its rows to the next.
    pub ld_dst: usize,
}

/// The kernel.
pub struct TransposeRows;

impl Kernel for TransposeRows {
    type Args = Args;
    const NAME: &'static str = "transpose_rows_f32";
    #[cfg(target_arch = "x86_64")]
    const ROWS: &'static [Row<Args>] = &x86::ROWS;
    #[cfg(target_arch = "aarch64")]
    const ROWS: &'static [Row<Args>] = &aarch64::ROWS;

    unsafe fn reference(args: &Args) {
        // SAFETY: the contract is the same.
        unsafe { reference::run(args) }
    }

    // No row uses it: a transposition has no form for any width.
    #[inline(always)]
    unsafe fn simd<S: Simd>(_: S, args: &Args) {
        // SAFETY: the contract is the same.
        unsafe { reference::run(args) }
    }
}

/// Where the rows are. A full tile computes its addresses; in one that isn't, the rows that aren't there are zeros that
/// stand still.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
struct Rows<'a, const FULL: bool> {
    args: &'a Args,
    zeros: [f32; 4],
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
impl<const FULL: bool> Rows<'_, FULL> {
    /// Four elements of row `i` from column `j` on.
    #[inline(always)]
    fn at(&self, i: usize, j: usize) -> *const f32 {
        if FULL || i < self.args.n {
            self.args.src.wrapping_add(i * self.args.ld + j)
        } else {
            self.zeros.as_ptr()
        }
    }
}
