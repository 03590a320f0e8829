//! Reductions of a row.

use super::mem::{Head, load};
use pulp::Simd;

/// `Σ (f x)²` over `d` elements.
///
/// Two vectors of partial sums: the error is at most `d / (2 LANES) + 6` roundings of the result.
///
/// # Safety
/// `x` is valid for reading `d` elements.
#[inline(always)]
pub(crate) unsafe fn sum_squares<S: Simd>(s: S, x: *const f32, d: usize, f: f32) -> f32 {
    let f = s.splat_f32s(f);
    let (mut even, mut odd) = (s.splat_f32s(0.0), s.splat_f32s(0.0));
    let mut j = 0;
    while j + 2 * S::F32_LANES <= d {
        // SAFETY: j + 2 LANES ≤ d.
        let (a, b) = unsafe { (load(s, x.add(j)), load(s, x.add(j + S::F32_LANES))) };
        even = square_add(s, s.mul_f32s(a, f), even);
        odd = square_add(s, s.mul_f32s(b, f), odd);
        j += 2 * S::F32_LANES;
    }
    if j + S::F32_LANES <= d {
        // SAFETY: j + LANES ≤ d.
        even = square_add(s, s.mul_f32s(unsafe { load(s, x.add(j)) }, f), even);
        j += S::F32_LANES;
    }
    if j < d {
        // SAFETY: the mask covers the d − j elements that are left.
        let x = unsafe { Head::new(s, d - j).load(s, x.add(j)) };
        odd = square_add(s, s.mul_f32s(x, f), odd);
    }
    s.reduce_sum_f32s(s.add_f32s(even, odd))
}

/// `x² + sum`.
#[inline(always)]
fn square_add<S: Simd>(s: S, x: S::f32s, sum: S::f32s) -> S::f32s {
    s.mul_add_f32s(x, x, sum)
}

/// Range of a sum of squares that has neither overflowed nor lost digits to underflow.
const GOOD: std::ops::RangeInclusive<f32> = 8.077_936e-28..=8.507_059e37;

/// A factor that brings the row into range, and the sum of squares of the row times it.
///
/// The factor is 1 but for rows of huge (≥ 2⁶³) or tiny (< 2⁻⁴⁵) values, where it is 2⁻⁸⁰ or 2¹⁰⁰; for tiny ones only
/// if `eps`, which the caller adds to or compares with the norm, is tiny too and can't hide them. `sum(f)` is the sum
/// of squares of `f` times the row. `NaN` and `inf` stay.
#[inline(always)]
pub(crate) fn in_range(eps_is_tiny: bool, sum: impl Fn(f32) -> f32) -> (f32, f32) {
    let plain = sum(1.0);
    let f = if plain > *GOOD.end() {
        2f32.powi(-80)
    } else if plain < *GOOD.start() && eps_is_tiny {
        2f32.powi(100)
    } else {
        return (1.0, plain);
    };
    (f, sum(f))
}

/// Sums of the lanes of several vectors.
///
/// The order within a sum is that of `reduce_sum_f32s`, so that it does not matter which of the two took it: halves, halves
/// of these, then even and odd elements. With 4 by 4 vectors of AVX-512, or 2 by 4 of AVX2, halves of several vectors are put together and added at once: 45
/// operations for 16 sums of 16 lanes in place of 140.
#[inline(always)]
pub(crate) fn sums<S: Simd, const NA: usize, const NB: usize>(
    s: S,
    x: [[S::f32s; NA]; NB],
) -> [[f32; NA]; NB] {
    #[cfg(target_arch = "x86_64")]
    {
        use std::mem::transmute_copy;
        if S::F32_LANES == 16 && NA == 4 && NB == 4 {
            // SAFETY: the only vectors of 16 lanes here are those of AVX-512, which `s` vouches for; sizes are equal.
            return unsafe { transmute_copy(&x86::sums_512(transmute_copy(&x))) };
        }
        if S::F32_LANES == 8 && NA == 4 && NB == 2 {
            // SAFETY: likewise AVX2.
            return unsafe { transmute_copy(&x86::sums_256(transmute_copy(&x))) };
        }
    }
    // Loops, which are always inlined: `map` may not be, and then its closure has none of the features of `S`.
    let mut sums = [[0.0; NA]; NB];
    for (sums, x) in sums.iter_mut().zip(&x) {
        for (sum, &x) in sums.iter_mut().zip(x) {
            *sum = s.reduce_sum_f32s(x);
        }
    }
    sums
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// # Safety
    /// AVX-512 must be there.
    #[inline(always)]
    pub unsafe fn sums_512(x: [[__m512; 4]; 4]) -> __m512 {
        // SAFETY: by contract.
        unsafe {
            let halves = |a, b| {
                let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b);
                _mm512_add_ps(low, _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b))
            };
            let quarters = |a, b| {
                let low = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
                _mm512_add_ps(low, _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b))
            };
            // Lane `r` of `column(c)` is what is left of `x[r][c]`.
            let column = |c: usize| quarters(halves(x[0][c], x[1][c]), halves(x[2][c], x[3][c]));
            let pairs = |a, b| _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let [a, b] =
                [pairs(column(0), column(1)), pairs(column(2), column(3))].map(|x| _mm512_castps_pd(x));
            _mm512_add_ps(
                _mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)),
            )
        }
    }

    /// # Safety
    /// AVX2 must be there.
    #[inline(always)]
    pub unsafe fn sums_256(x: [[__m256; 4]; 2]) -> __m256 {
        // SAFETY: by contract.
        unsafe {
            let column = |c: usize| {
                let low = _mm256_permute2f128_ps::<0x20>(x[0][c], x[1][c]);
                _mm256_add_ps(low, _mm256_permute2f128_ps::<0x31>(x[0][c], x[1][c]))
            };
            let pairs = |a, b| _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let [a, b] =
                [pairs(column(0), column(1)), pairs(column(2), column(3))].map(|x| _mm256_castps_pd(x));
            _mm256_add_ps(
                _mm256_castpd_ps(_mm256_unpacklo_pd(a, b)),
                _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)),
            )
        }
    }
}
