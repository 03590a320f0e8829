//! Packed `f32` rows to pairs of rows in `bf16`, an operand of [`super::matmul_bf16`].
//!
//! ```text
//! dst[p][c] = (factor[2p] · src[2p][c], factor[2p+1] · src[2p+1][c])
//! ```
//!
//! * **Shapes.** `src [n][ld]`, `dst [⌈n/2⌉][ldd]`, `d` columns rounded up to 16 of both. They don't overlap.
//! * **Numerics.** The product is rounded to `f32`, then to `bf16`, both to nearest, ties to even. Beyond 3.39e38 it is
//!   infinite; NaN stays NaN; denormals may become zero. The partner of an odd last row is zero.
//! * **Cost.** 6 bytes per element.
//!
//! [`ZipRows`] does the same to rows that are `bf16` already.

mod zip;

pub use zip::{ZipArgs, ZipRows};

use super::Kernel;
#[cfg(target_arch = "x86_64")]
use super::Row;
use crate::simd::bf16::{Pairs, Widened};
use crate::simd::mem::load;
use half::bf16;
use pulp::Simd;

/// One call.
#[derive(Clone, Copy, Debug)]
pub struct Args {
    /// Rows.
    pub n: usize,
    /// Columns.
    pub d: usize,
    /// The rows.
    pub src: *const f32,
    /// Elements between them.
    pub ld: usize,
    /// Factor of each row; null: 1.
    pub factor: *const f32,
    /// The pairs.
    pub dst: *mut u32,
    /// Elements between their rows.
    pub ldd: usize,
}

/// The kernel.
pub struct PairRows;

impl Kernel for PairRows {
    type Args = Args;
    const NAME: &'static str = "pair_rows_bf16";
    #[cfg(target_arch = "x86_64")]
    const ROWS: &'static [Row<Args>] = &super::pairs::rows::<PairRows>();

    unsafe fn reference(t: &Args) {
        for i in (0..t.n).step_by(2) {
            for c in 0..t.d.next_multiple_of(16) {
                // SAFETY: `i < n`, `c` is below `d` rounded up; the contract of `Args` makes both exist.
                unsafe {
                    let bits = |i: usize| {
                        let factor = if t.factor.is_null() { 1.0 } else { *t.factor.add(i) };
                        u32::from(bf16::from_f32(factor * *t.src.add(i * t.ld + c)).to_bits())
                    };
                    let second = if i + 1 < t.n { bits(i + 1) } else { 0 };
                    *t.dst.add(i / 2 * t.ldd + c) = bits(i) | second << 16;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(simd: S, args: &Args) {
        // SAFETY: the caller's contract.
        unsafe { pair_rows::<S, Widened>(simd, args) }
    }
}

#[cfg(target_arch = "x86_64")]
impl super::pairs::PairKernel for PairRows {
    #[inline(always)]
    unsafe fn pairs<S: Simd, P: Pairs<S>>(simd: S, args: &Args) {
        // SAFETY: the caller's contract.
        unsafe { pair_rows::<S, P>(simd, args) }
    }
}

/// # Safety
/// The contract of [`Args`], and what `P` needs.
#[inline(always)]
unsafe fn pair_rows<S: Simd, P: Pairs<S>>(simd: S, t: &Args) {
    let columns = t.d.next_multiple_of(16);
    for i in (0..t.n).step_by(2) {
        // SAFETY: `i < n`; a vector never leaves the 16-column group it starts in.
        unsafe {
            let factor = |i: usize| simd.splat_f32s(if t.factor.is_null() { 1.0 } else { *t.factor.add(i) });
            let dst = t.dst.add(i / 2 * t.ldd);
            let first = (t.src.add(i * t.ld), factor(i));
            // Without a partner: the same row times zero would keep a NaN.
            let second = if i + 1 < t.n { Some((t.src.add((i + 1) * t.ld), factor(i + 1))) } else { None };
            for c in (0..columns).step_by(S::F32_LANES) {
                let row =
                    |(src, factor): (*const f32, S::f32s)| simd.mul_f32s(factor, load(simd, src.add(c)));
                let second = second.map_or(simd.splat_f32s(0.0), row);
                let pair = P::pair(simd, row(first), second);
                dst.add(c).cast::<S::u32s>().write_unaligned(pair);
            }
        }
    }
}
