//! Lanes put together by loads, then transposed.

use super::{Args, Rows, TILE, TransposeRows, reference};
use crate::kernel::{Kernel, Row};
use crate::simd::Isa;
use std::arch::x86_64::*;

pub(super) const ROWS: [Row<Args>; 3] = [
    Row { isa: Isa::Scalar, by_hand: false, run: TransposeRows::reference },
    Row { isa: Isa::Avx2, by_hand: true, run: avx2 },
    // 512-bit registers measured slower, see the module.
    Row { isa: Isa::Avx512, by_hand: true, run: avx2 },
];

/// # Safety
/// The contract of [`Args`], and AVX2 must be there.
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(args: &Args) {
    // SAFETY: the contract is the same.
    unsafe { if args.n == TILE { avx2_rows::<true>(args) } else { avx2_rows::<false>(args) } }
}

/// # Safety
/// As above; `FULL` if there are 16 rows.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2_rows<const FULL: bool>(args: &Args) {
    let rows = Rows::<FULL> { args, zeros: [0.0; 4] };
    let four_columns = |j: usize| {
        for half in [0, 8] {
            let load = |r: usize| {
                // SAFETY: j + 4 ≤ d, or these are the zeros.
                unsafe {
                    let low = _mm_loadu_ps(rows.at(half + r, j));
                    let high = _mm_loadu_ps(rows.at(half + r + 4, j));
                    _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(low), high)
                }
            };
            let columns = transpose_lanes([load(0), load(1), load(2), load(3)]);
            for (k, column) in columns.into_iter().enumerate() {
                // SAFETY: j + k < d; half + 8 ≤ 16.
                unsafe { _mm256_storeu_ps(args.dst.add((j + k) * args.ld_dst + half), column) };
            }
        }
    };
    let d = args.d;
    if d < 4 {
        // SAFETY: the contract is the same.
        unsafe { reference::run(args) };
        return;
    }
    for j in (0..d).step_by(4) {
        // The last four may have columns that are there already.
        four_columns(j.min(d - 4));
    }
}

/// 4×4 transpositions of each 128-bit lane.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn transpose_lanes([a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
    let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    [
        _mm256_shuffle_ps::<0x44>(ab_low, cd_low),
        _mm256_shuffle_ps::<0xee>(ab_low, cd_low),
        _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
        _mm256_shuffle_ps::<0xee>(ab_high, cd_high),
    ]
}
