//! Packed `f32` rows to pairs of rows in `bf16`, an operand of [`super::matmul_bf16`].
//!
//! ```text
//! dst[p][c] = (factor[2p] · src[2p][c], factor[2p+1] · src[2p+1][c])      sums[c] = Σ_p dst[p][c]₀ + dst[p][c]₁
//! ```
//!
//! * **Shapes.** `src [n][ld]`, `dst [⌈n/2⌉][ldd]`, `d` columns rounded up to 16 of both. They don't overlap.
//! * **Numerics.** The product is rounded to `f32`, then to `bf16`, both to nearest, ties to even. Beyond 3.39e38 it is
//!   infinite; NaN stays NaN; denormals may become zero. The partner of an odd last row is zero. Sums of columns, if they are wanted, are
//!   those of the rounded numbers, in `f32`: every fourth pair into one of four, then these.
//! * **Cost.** 6 bytes per element.
//!
//! [`ZipRows`] does the same to rows that are `bf16` already.

mod zip;

pub use zip::{ZipArgs, ZipRows};

use super::Kernel;
#[cfg(target_arch = "x86_64")]
use super::Row;
use crate::simd::bf16::{Pairs, Widened};
use crate::simd::mem::{load, store};
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
    /// Sums of the columns; null: not wanted.
    pub sums: *mut f32,
}

/// The kernel.
pub struct PairRows;

impl Kernel for PairRows {
    type Args = Args;
    const NAME: &'static str = "pair_rows_bf16";
    #[cfg(target_arch = "x86_64")]
    const ROWS: &'static [Row<Args>] = &super::pairs::rows::<PairRows>();

    unsafe fn reference(t: &Args) {
        for c in 0..t.d.next_multiple_of(16) {
            let mut sum = 0.0;
            for i in (0..t.n).step_by(2) {
                // SAFETY: `i < n`, `c` is below `d` rounded up; the contract of `Args` makes both exist.
                unsafe {
                    let number = |i: usize| {
                        let factor = if t.factor.is_null() { 1.0 } else { *t.factor.add(i) };
                        bf16::from_f32(factor * *t.src.add(i * t.ld + c))
                    };
                    let (first, second) = (number(i), if i + 1 < t.n { number(i + 1) } else { bf16::ZERO });
                    sum += first.to_f64() + second.to_f64();
                    *t.dst.add(i / 2 * t.ldd + c) =
                        u32::from(first.to_bits()) | u32::from(second.to_bits()) << 16;
                }
            }
            if !t.sums.is_null() {
                // SAFETY: as many sums as columns, rounded up.
                unsafe { *t.sums.add(c) = sum as f32 };
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
    // SAFETY: `i < n`; a vector never leaves the 16-column group it starts in.
    unsafe {
        if t.sums.is_null() {
            for i in (0..t.n).step_by(2) {
                for c in (0..columns).step_by(S::F32_LANES) {
                    one::<S, P>(simd, t, i, c);
                }
            }
            return;
        }
        let ones = P::pair(simd, simd.splat_f32s(1.0), simd.splat_f32s(1.0));
        for c in (0..columns).step_by(S::F32_LANES) {
            let mut sums = [simd.splat_f32s(0.0); 4];
            for i in (0..t.n).step_by(2) {
                let sum = &mut sums[i / 2 % 4];
                *sum = P::dot(simd, *sum, one::<S, P>(simd, t, i, c), ones);
            }
            let [first, second] = [[0, 1], [2, 3]].map(|[i, j]| simd.add_f32s(sums[i], sums[j]));
            store(simd, t.sums.add(c), simd.add_f32s(first, second));
        }
    }
}

/// Pairs of a vector of columns, from an even row.
///
/// # Safety
/// As [`pair_rows`]; the row is there, and the columns.
#[inline(always)]
unsafe fn one<S: Simd, P: Pairs<S>>(simd: S, t: &Args, i: usize, c: usize) -> S::u32s {
    // SAFETY: by contract.
    unsafe {
        let row = |i: usize| {
            let factor = simd.splat_f32s(if t.factor.is_null() { 1.0 } else { *t.factor.add(i) });
            simd.mul_f32s(factor, load(simd, t.src.add(i * t.ld + c)))
        };
        // Without a partner: the same row times zero would keep a NaN.
        let second = if i + 1 < t.n { row(i + 1) } else { simd.splat_f32s(0.0) };
        let pair = P::pair(simd, row(i), second);
        t.dst.add(i / 2 * t.ldd + c).cast::<S::u32s>().write_unaligned(pair);
        pair
    }
}
