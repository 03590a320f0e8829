//! Sums of products of `bf16`, two at a time.
//!
//! A *pair* is a `u32`: the first number in the lower half, the second in the upper. `dot(acc, a, b)` is
//! `acc + a₀ b₀ + a₁ b₁`, lane by lane, in `f32`: products of two `bf16` are exact there, so two roundings. Hardware
//! takes one instruction for it and counts denormals as zero.

use super::{Isa, math};
use pulp::Simd;

/// How pairs are made and multiplied.
pub(crate) trait Pairs<S: Simd> {
    /// `acc + a₀ b₀ + a₁ b₁`.
    ///
    /// # Safety
    /// The instructions that this stands for must be there.
    unsafe fn dot(simd: S, acc: S::f32s, a: S::u32s, b: S::u32s) -> S::f32s;

    /// The pairs `(first, second)`, each rounded to nearest, ties to even.
    ///
    /// # Safety
    /// As above.
    unsafe fn pair(simd: S, first: S::f32s, second: S::f32s) -> S::u32s;
}

/// By `f32` arithmetic, on any machine.
pub(crate) struct Widened;

impl<S: Simd> Pairs<S> for Widened {
    #[inline(always)]
    unsafe fn dot(simd: S, acc: S::f32s, a: S::u32s, b: S::u32s) -> S::f32s {
        let first = |x| math::from_bits(simd, simd.wrapping_dyn_shl_u32s(x, simd.splat_u32s(16)));
        let second = |x| math::from_bits(simd, simd.and_u32s(x, simd.splat_u32s(0xffff_0000)));
        let acc = simd.mul_add_f32s(first(a), first(b), acc);
        simd.mul_add_f32s(second(a), second(b), acc)
    }

    #[inline(always)]
    unsafe fn pair(simd: S, first: S::f32s, second: S::f32s) -> S::u32s {
        let sixteen = simd.splat_u32s(16);
        let first = simd.wrapping_dyn_shr_u32s(rounded(simd, first), sixteen);
        simd.or_u32s(first, simd.and_u32s(rounded(simd, second), simd.splat_u32s(0xffff_0000)))
    }
}

/// The number rounded to `bf16` in the upper half; what is below it means nothing.
#[inline(always)]
fn rounded<S: Simd>(simd: S, x: S::f32s) -> S::u32s {
    let bits = math::to_bits(simd, x);
    let odd = simd.and_u32s(simd.wrapping_dyn_shr_u32s(bits, simd.splat_u32s(16)), simd.splat_u32s(1));
    let up = simd.add_u32s(bits, simd.add_u32s(odd, simd.splat_u32s(0x7fff)));
    simd.select_u32s(simd.equal_f32s(x, x), up, simd.or_u32s(bits, simd.splat_u32s(0x0040_0000)))
}

/// Whether kernels of this instruction set multiply pairs by an instruction of the processor: AVX512_BF16's
/// `vdpbf16ps` so far.
pub fn has_bf16_dot(isa: Isa) -> bool {
    #[cfg(target_arch = "x86_64")]
    return isa >= Isa::Avx512 && isa.available() && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    return {
        let _ = isa;
        false
    };
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::Avx512Bf16;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Pairs;
    use pulp::x86::V4;
    use pulp::{f32x16, u32x16};
    use std::arch::x86_64::*;
    use std::mem::transmute;

    /// By `vdpbf16ps` and `vcvtne2ps2bf16`. To be used in functions that enable `avx512bf16`.
    pub(crate) struct Avx512Bf16;

    /// Words of `[second | first]` as pairs: lane `i` is word `i` and word `16 + i`.
    static ZIP: [u16; 32] = {
        let mut words = [0; 32];
        let mut i = 0;
        while i < 32 {
            words[i] = (i / 2 + i % 2 * 16) as u16;
            i += 1;
        }
        words
    };

    impl Pairs<V4> for Avx512Bf16 {
        #[inline(always)]
        unsafe fn dot(_: V4, acc: f32x16, a: u32x16, b: u32x16) -> f32x16 {
            // SAFETY: the caller's contract; vectors of 64 bytes, of which every bit pattern is valid.
            unsafe {
                transmute::<__m512, f32x16>(_mm512_dpbf16_ps(
                    transmute::<f32x16, __m512>(acc),
                    transmute::<u32x16, __m512bh>(a),
                    transmute::<u32x16, __m512bh>(b),
                ))
            }
        }

        #[inline(always)]
        unsafe fn pair(_: V4, first: f32x16, second: f32x16) -> u32x16 {
            // SAFETY: as above; `ZIP` has 64 bytes.
            unsafe {
                let words = _mm512_cvtne2ps_pbh(
                    transmute::<f32x16, __m512>(second),
                    transmute::<f32x16, __m512>(first),
                );
                let zip = _mm512_loadu_si512(ZIP.as_ptr().cast());
                transmute::<__m512i, u32x16>(_mm512_permutexvar_epi16(
                    zip,
                    transmute::<__m512bh, __m512i>(words),
                ))
            }
        }
    }
}
