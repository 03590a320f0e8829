//! Rows of kernels on pairs of `bf16`: by AVX512_BF16 where the processor has it, which is no instruction set of its own.

use super::{Kernel, Row, generic_avx2, generic_avx512};
use crate::simd::Isa;
use crate::simd::bf16::{Avx512Bf16, Pairs};
use pulp::Simd;

/// A kernel whose body is the same however pairs are made and multiplied.
pub trait PairKernel: Kernel {
    /// Must be `#[inline(always)]`.
    ///
    /// # Safety
    /// The contract of [`Kernel::Args`], and what `P` needs.
    unsafe fn pairs<S: Simd, P: Pairs<S>>(simd: S, args: &Self::Args);
}

/// Its implementations.
pub const fn rows<K: PairKernel>() -> [Row<K::Args>; 3] {
    [
        Row { isa: Isa::Scalar, by_hand: false, run: K::reference },
        Row { isa: Isa::Avx2, by_hand: false, run: generic_avx2::<K> },
        Row { isa: Isa::Avx512, by_hand: true, run: avx512::<K> },
    ]
}

/// # Safety
/// The contract of `K::Args`, and AVX-512 (`x86-64-v4`) must be there.
unsafe fn avx512<K: PairKernel>(args: &K::Args) {
    // SAFETY: checked here; the rest is the contract.
    unsafe {
        if is_x86_feature_detected!("avx512bf16") {
            avx512_bf16::<K>(args)
        } else {
            generic_avx512::<K>(args)
        }
    }
}

/// # Safety
/// The contract of `K::Args`, AVX-512 and AVX512_BF16 must be there.
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16")]
unsafe fn avx512_bf16<K: PairKernel>(args: &K::Args) {
    // SAFETY: the contract is the same.
    unsafe { K::pairs::<_, Avx512Bf16>(pulp::x86::V4::new_unchecked(), args) }
}
