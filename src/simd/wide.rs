//! Vectors of `f32` from 16-bit floats in memory; exact.

use super::mem::load;
use super::{convert, math};
use half::{bf16, f16};
use pulp::Simd;

/// As many `bf16` as a vector has lanes.
///
/// # Safety
/// They are readable.
#[inline(always)]
pub(crate) unsafe fn from_bf16<S: Simd>(simd: S, p: *const bf16) -> S::f32s {
    // SAFETY: by contract.
    let x = unsafe { words(simd, p.cast()) };
    math::from_bits(simd, simd.wrapping_dyn_shl_u32s(x, simd.splat_u32s(16)))
}

/// As many `f16` as a vector has lanes.
///
/// # Safety
/// They are readable.
#[inline(always)]
pub(crate) unsafe fn from_f16<S: Simd>(simd: S, p: *const f16) -> S::f32s {
    #[cfg(target_arch = "x86_64")]
    if S::F32_LANES == 16 {
        use std::arch::x86_64::*;
        // SAFETY: the only vectors of 16 lanes here are those of AVX-512, which `simd` vouches for; sizes are equal. AVX2
        // does not promise the instruction.
        return unsafe { std::mem::transmute_copy(&_mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))) };
    }
    // SAFETY: by contract.
    let x = unsafe { words(simd, p.cast()) };
    // As [`super::convert::f16_to_f32`] does it.
    let bits = |x: u32| simd.splat_u32s(x);
    let thirteen = bits(13);
    let m = simd.wrapping_dyn_shl_u32s(simd.and_u32s(x, bits(0x7fff)), thirteen);
    let large = simd.greater_than_or_equal_u32s(m, bits(0x7c00 << 13));
    let normal = simd.add_u32s(m, simd.select_u32s(large, bits(0x7000_0000), bits(0x3800_0000)));
    let tiny = bits(convert::F16_NORMAL);
    let float = |x| math::from_bits(simd, x);
    let denormal = math::to_bits(simd, simd.sub_f32s(float(simd.add_u32s(m, tiny)), float(tiny)));
    let magnitude = simd.select_u32s(simd.less_than_u32s(m, bits(0x0400 << 13)), denormal, normal);
    let sign = simd.wrapping_dyn_shl_u32s(simd.and_u32s(x, bits(0x8000)), bits(16));
    float(simd.or_u32s(magnitude, sign))
}

/// As many 16-bit numbers as a vector has lanes, each in 32 bits.
///
/// # Safety
/// They are readable.
#[inline(always)]
unsafe fn words<S: Simd>(simd: S, p: *const u16) -> S::u32s {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        use std::mem::transmute_copy;
        // SAFETY: vectors of 16 and of 8 lanes are those of AVX-512 and of AVX2, which `simd` vouches for; sizes are equal.
        unsafe {
            if S::F32_LANES == 16 {
                return transmute_copy(&_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())));
            }
            if S::F32_LANES == 8 {
                return transmute_copy(&_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())));
            }
        }
    }
    // SAFETY: by contract.
    math::to_bits(simd, one_by_one(simd, S::F32_LANES, |i| unsafe { f32::from_bits(u32::from(*p.add(i))) }))
}

/// The first `n` lanes by a function of their number, zero in the others. The compiler makes vector code of a whole
/// vector of conversions.
#[inline(always)]
pub(crate) fn one_by_one<S: Simd>(simd: S, n: usize, f: impl Fn(usize) -> f32) -> S::f32s {
    let mut x = [0.0; 16];
    x.iter_mut().enumerate().take(n.min(S::F32_LANES)).for_each(|(i, x)| *x = f(i));
    // SAFETY: no vector has more lanes.
    unsafe { load(simd, x.as_ptr()) }
}
