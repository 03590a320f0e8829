//! `f16` by `vcvtph2ps`, `bf16` by a shift.

use super::simd::each;
use super::{Args, LoadRows};
use crate::kernel::{Kernel, Row, generic_avx2};
use crate::simd::Isa;
use half::{bf16, f16};
use std::arch::x86_64::*;

pub(super) const BF16_ROWS: [Row<Args<bf16>>; 3] = [
    Row { isa: Isa::Scalar, by_hand: false, run: LoadRows::<bf16>::reference },
    Row { isa: Isa::Avx2, by_hand: false, run: generic_avx2::<LoadRows<bf16>> },
    Row { isa: Isa::Avx512, by_hand: true, run: avx512_bf16 },
];

pub(super) const F16_ROWS: [Row<Args<f16>>; 3] = [
    Row { isa: Isa::Scalar, by_hand: false, run: LoadRows::<f16>::reference },
    Row { isa: Isa::Avx2, by_hand: true, run: avx2 },
    Row { isa: Isa::Avx512, by_hand: true, run: avx512 },
];

/// # Safety
/// The contract of [`Args`], and AVX2 must be there.
unsafe fn avx2(args: &Args<f16>) {
    // `Isa::Avx2` doesn't promise F16C, though every processor with AVX2 has had it.
    // SAFETY: checked here; the rest is the contract.
    unsafe {
        if is_x86_feature_detected!("f16c") { avx2_f16c(args) } else { generic_avx2::<LoadRows<f16>>(args) }
    }
}

/// # Safety
/// The contract of [`Args`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2_f16c(args: &Args<f16>) {
    let d = args.d;
    // SAFETY: `each` gives the pointers of a row of `d` elements; j + 8 ≤ d, and short rows are copied.
    unsafe {
        each(args, |src, dst, factor| {
            let factor = _mm256_set1_ps(factor);
            let eight = |src: *const f16, dst: *mut f32| {
                let x = _mm256_cvtph_ps(_mm_loadu_si128(src.cast()));
                _mm256_storeu_ps(dst, _mm256_mul_ps(x, factor));
            };
            let mut j = 0;
            while j + 8 <= d {
                eight(src.add(j), dst.add(j));
                j += 8;
            }
            if j < d && d >= 8 {
                // Some of them for the second time.
                eight(src.add(d - 8), dst.add(d - 8));
            } else if j < d {
                let (mut h, mut f) = ([f16::ZERO; 8], [0f32; 8]);
                h.as_mut_ptr().copy_from_nonoverlapping(src, d);
                eight(h.as_ptr(), f.as_mut_ptr());
                dst.copy_from_nonoverlapping(f.as_ptr(), d);
            }
        });
    }
}

/// # Safety
/// The contract of [`Args`], and AVX-512 (`x86-64-v4`) must be there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn avx512(args: &Args<f16>) {
    let d = args.d;
    // SAFETY: `each` gives the pointers of a row of `d` elements; j + 16 ≤ d, and the mask covers d − j < 16.
    unsafe {
        each(args, |src, dst, factor| {
            let factor = _mm512_set1_ps(factor);
            let mut j = 0;
            while j + 16 <= d {
                let x = _mm512_cvtph_ps(_mm256_loadu_si256(src.add(j).cast()));
                _mm512_storeu_ps(dst.add(j), _mm512_mul_ps(x, factor));
                j += 16;
            }
            if j < d {
                let mask = (1u16 << (d - j)) - 1;
                let x = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, src.add(j).cast()));
                _mm512_mask_storeu_ps(dst.add(j), mask, _mm512_mul_ps(x, factor));
            }
        });
    }
}

/// # Safety
/// The contract of [`Args`], and AVX-512 (`x86-64-v4`) must be there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn avx512_bf16(args: &Args<bf16>) {
    let d = args.d;
    // SAFETY: `each` gives the pointers of a row of `d` elements; j + 16 ≤ d, and the mask covers d − j < 16.
    unsafe {
        each(args, |src, dst, factor| {
            let factor = _mm512_set1_ps(factor);
            let widen = |x: __m256i| {
                let bits = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x));
                _mm512_mul_ps(_mm512_castsi512_ps(bits), factor)
            };
            let mut j = 0;
            while j + 16 <= d {
                _mm512_storeu_ps(dst.add(j), widen(_mm256_loadu_si256(src.add(j).cast())));
                j += 16;
            }
            if j < d {
                let mask = (1u16 << (d - j)) - 1;
                let x = _mm256_maskz_loadu_epi16(mask, src.add(j).cast());
                _mm512_mask_storeu_ps(dst.add(j), mask, widen(x));
            }
        });
    }
}
