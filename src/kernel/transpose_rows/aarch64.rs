//! 4×4 transpositions in registers.

use super::{Args, Rows, TILE, TransposeRows, reference};
use crate::kernel::{Kernel, Row};
use crate::simd::Isa;
use std::arch::aarch64::*;

pub(super) const ROWS: [Row<Args>; 2] = [
    Row { isa: Isa::Scalar, by_hand: false, run: TransposeRows::reference },
    Row { isa: Isa::Neon, by_hand: true, run: neon },
];

/// # Safety
/// The contract of [`Args`], and NEON must be there.
#[target_feature(enable = "neon")]
unsafe fn neon(args: &Args) {
    // SAFETY: the contract is the same.
    unsafe { if args.n == TILE { neon_rows::<true>(args) } else { neon_rows::<false>(args) } }
}

/// # Safety
/// As above; `FULL` if there are 16 rows.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn neon_rows<const FULL: bool>(args: &Args) {
    let rows = Rows::<FULL> { args, zeros: [0.0; 4] };
    let four_columns = |j: usize| {
        for i in (0..TILE).step_by(4) {
            // SAFETY: j + 4 ≤ d, or these are the zeros.
            let columns = transpose([0, 1, 2, 3].map(|r| unsafe { vld1q_f32(rows.at(i + r, j)) }));
            for (k, column) in columns.into_iter().enumerate() {
                // SAFETY: j + k < d; i + 4 ≤ 16.
                unsafe { vst1q_f32(args.dst.add((j + k) * args.ld_dst + i), column) };
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

/// The 4×4 transposition.
#[inline]
#[target_feature(enable = "neon")]
fn transpose([a, b, c, d]: [float32x4_t; 4]) -> [float32x4_t; 4] {
    let pairs = |x, y| (vreinterpretq_f64_f32(vtrn1q_f32(x, y)), vreinterpretq_f64_f32(vtrn2q_f32(x, y)));
    let ((ab_even, ab_odd), (cd_even, cd_odd)) = (pairs(a, b), pairs(c, d));
    [
        vreinterpretq_f32_f64(vtrn1q_f64(ab_even, cd_even)),
        vreinterpretq_f32_f64(vtrn1q_f64(ab_odd, cd_odd)),
        vreinterpretq_f32_f64(vtrn2q_f64(ab_even, cd_even)),
        vreinterpretq_f32_f64(vtrn2q_f64(ab_odd, cd_odd)),
    ]
}
