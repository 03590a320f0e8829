//! By `vdpbf16ps` where the processor has it.

use super::{Args, MatmulBf16, simd};
use crate::kernel::{Kernel, Row, generic_avx2, generic_avx512};
use crate::simd::Isa;
use crate::simd::bf16::Avx512Bf16;

pub(super) const ROWS: [Row<Args>; 3] = [
    Row { isa: Isa::Scalar, by_hand: false, run: MatmulBf16::reference },
    Row { isa: Isa::Avx2, by_hand: false, run: generic_avx2::<MatmulBf16> },
    Row { isa: Isa::Avx512, by_hand: true, run: avx512 },
];

/// # Safety
/// The contract of [`Args`], and AVX-512 (`x86-64-v4`) must be there.
unsafe fn avx512(args: &Args) {
    // SAFETY: checked here; the rest is the contract.
    unsafe {
        if is_x86_feature_detected!("avx512bf16") {
            avx512_bf16(args)
        } else {
            generic_avx512::<MatmulBf16>(args)
        }
    }
}

/// # Safety
/// The contract of [`Args`], AVX-512 and AVX512_BF16 must be there.
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16")]
unsafe fn avx512_bf16(args: &Args) {
    // SAFETY: the contract is the same.
    unsafe { simd::matmul::<_, Avx512Bf16>(pulp::x86::V4::new_unchecked(), args) }
}
