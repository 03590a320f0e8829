//! Elementary functions of a vector of `f32`, for any vector width.
//!
//! Every function is generic over [`pulp::Simd`] and `#[inline(always)]`: call it from a kernel's SIMD body.
//! The references are `f64` functions rounded to `f32`; errors below are the largest that `tests/math.rs` finds
//! over every 97th bit pattern of the whole `f32` range, in units of the last place (ULP) of the exact value. The
//! test holds them.
//!
//! | function | max ULP | vector operations | notes |
//! | --- | --- | --- | --- |
//! | [`exp`] | 1.2 (2.3 above 88.37) | 14 | `exp(x) ≤ 1` for `x ≤ 0`; 0 below −87.7, `inf` above 88.73 |
//! | [`log`] | 1.1 | 28 | denormals are right; 0 gives `−inf`, negative `NaN` |
//! | [`tanh`] | 1.6 | 29, 1 division | relative accuracy near 0; exactly ±1 beyond 9.1 |
//! | [`sigmoid`] | 2.5 | 16, 1 division | ~ `exp(x)` for very negative `x`; exactly 1 above 17 |
//! | [`silu`] | 2.5 | 16, 1 division | 0 below −88.73, where the exact value is above −2.7e-37; `NaN` at `−inf` |
//! | [`softplus`] | 2.0 | 32 | `max(x, 0) + log1p(exp(−|x|))` |
//! | [`elu1`] | 1.2 | 17 | `x + 1` if `x > 0`, else `exp(x)` |
//! | [`laplace`] | – | 28, 1 division | absolute error 2e-7, relative too above `x = −0.5` |
//! | [`rsqrt`] | 1.5 | 2 | a square root and a division |
//! | [`sincos`] | 1.6 | 39 | below 2¹⁷; vectors with a larger argument take a slow exact path |
//!
//! `NaN` gives `NaN` everywhere. Results below the smallest normal number (1.18e-38) may be flushed to zero. With
//! denormals-are-zero set in the processor's mode, a denormal argument counts as zero (also for [`log`]).
//!
//! x86's `min` and `max` return their second operand when one is `NaN`, NEON's return `NaN`: where it matters, the
//! bound is the first operand, so that both let a `NaN` through.

use pulp::{Simd, bytemuck};

/// The bits of each lane.
#[inline(always)]
pub(crate) fn to_bits<S: Simd>(_: S, x: S::f32s) -> S::u32s {
    bytemuck::cast(x)
}

/// The lanes that have these bits.
#[inline(always)]
pub(crate) fn from_bits<S: Simd>(_: S, x: S::u32s) -> S::f32s {
    bytemuck::cast(x)
}

/// `if mask { a } else { b }`, lane by lane.
#[inline(always)]
pub(crate) fn select<S: Simd>(s: S, mask: S::m32s, a: S::f32s, b: S::f32s) -> S::f32s {
    from_bits(s, s.select_u32s(mask, to_bits(s, a), to_bits(s, b)))
}

/// `|x|`.
#[inline(always)]
pub fn abs<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    from_bits(s, s.and_u32s(to_bits(s, x), s.splat_u32s(0x7fff_ffff)))
}

/// `−x`, the sign of zero and `NaN` included.
#[inline(always)]
pub fn neg<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    from_bits(s, s.xor_u32s(to_bits(s, x), s.splat_u32s(SIGN)))
}

/// Whether any lane of the mask is set.
#[inline(always)]
fn any<S: Simd>(s: S, mask: S::m32s) -> bool {
    s.reduce_max_f32s(select(s, mask, s.splat_f32s(1.0), s.splat_f32s(0.0))) > 0.0
}

/// `c[0] + c[1] x + c[2] x² + …` by Horner's rule.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::f32s, c: [f32; N]) -> S::f32s {
    let mut p = s.splat_f32s(c[N - 1]);
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        p = s.mul_add_f32s(p, x, s.splat_f32s(c[i]));
    }
    p
}

const SIGN: u32 = 0x8000_0000;
const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// The upper 15 bits of ln 2: a multiple of it by an exponent is exact.
const LN2_HI: f32 = 0.693_145_75;
/// ln 2 − [`LN2_HI`].
const LN2_LO: f32 = 1.428_606_8e-6;
/// 1.5·2²³: adding it leaves the nearest integer in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;

/// `eˣ`.
///
/// `x = n ln 2 + r` with `|r| ≤ ln 2 / 2`, and a polynomial of degree 6 in `r`. The factor `2ⁿ` is made by shifting
/// `n + 127`, which the rounding constant carries, into the exponent field: field 0 is the factor 0. `n` stops at
/// 127, so that the factor is finite where the result is; there `r` grows to `ln 2` and the result overflows by
/// itself. The coefficients (minimax, relative, the interval above `ln 2 / 2` weighted by 1/4; the first two are 1)
/// allow 0.4 ULP, and 1.6 where `n` has stopped.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    const C: [f32; 7] = [1.0, 1.0, 0.500_001_7, 0.166_667_01, 0.041_628_47, 0.008_349_45, 0.001_585_375_3];
    // n = −127 here: the factor is 0.
    let x = s.max_f32s(s.splat_f32s(-88.0), x);
    let biased = s.mul_add_f32s(x, s.splat_f32s(LOG2_E), s.splat_f32s(ROUND + 127.0));
    let biased = s.min_f32s(s.splat_f32s(ROUND + 254.0), biased);
    let n = s.sub_f32s(biased, s.splat_f32s(ROUND + 127.0));
    let r = s.negate_mul_add_f32s(n, s.splat_f32s(LN2_HI), x);
    let r = s.negate_mul_add_f32s(n, s.splat_f32s(LN2_LO), r);
    let factor = s.wrapping_dyn_shl_u32s(to_bits(s, biased), s.splat_u32s(23));
    s.mul_f32s(polynomial(s, r, C), from_bits(s, factor))
}

/// √½ as bits: mantissas are taken from `[√½, √2)`.
const SQRT_HALF_BITS: u32 = 0x3f35_04f3;

/// `log(1 + f) − f` for `f` in `[√½ − 1, √2 − 1]`: `f² (−½ + f P(f))`, `P` minimax of degree 7, 0.1 ULP.
///
/// Even and odd powers apart: as many operations as Horner's rule, since `f²` is needed anyway, in 5 steps for 8.
#[inline(always)]
fn log1p_tail<S: Simd>(s: S, f: S::f32s) -> S::f32s {
    const EVEN: [f32; 5] = [-0.5, -0.250_008_2, -0.166_234_05, -0.131_597_18, -0.076_358_01];
    const ODD: [f32; 4] = [0.333_333_3, 0.200_012_4, 0.142_016_19, 0.127_619_77];
    let f2 = s.mul_f32s(f, f);
    s.mul_f32s(f2, s.mul_add_f32s(polynomial(s, f2, ODD), f, polynomial(s, f2, EVEN)))
}

/// `ln x`.
///
/// `x = 2ᵉ (1 + f)` with `1 + f` in `[√½, √2)`; `e ln 2` is added in two parts. Denormals are first multiplied by
/// 2²³.
#[inline(always)]
pub fn log<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    const BIAS: f32 = 8_388_608.0 + 127.0;
    let tiny = s.less_than_f32s(x, s.splat_f32s(f32::MIN_POSITIVE));
    let scaled = select(s, tiny, s.mul_f32s(x, s.splat_f32s(8_388_608.0)), x);
    let bias = select(s, tiny, s.splat_f32s(BIAS + 23.0), s.splat_f32s(BIAS));
    let u = s.add_u32s(to_bits(s, scaled), s.splat_u32s(0x3f80_0000 - SQRT_HALF_BITS));
    // The exponent as the low bits of a float of 2²³.
    let e = s.or_u32s(s.wrapping_dyn_shr_u32s(u, s.splat_u32s(23)), s.splat_u32s(0x4b00_0000));
    let e = s.sub_f32s(from_bits(s, e), bias);
    let m = s.add_u32s(s.and_u32s(u, s.splat_u32s(0x007f_ffff)), s.splat_u32s(SQRT_HALF_BITS));
    let f = s.sub_f32s(from_bits(s, m), s.splat_f32s(1.0));
    let y = s.mul_add_f32s(e, s.splat_f32s(LN2_LO), log1p_tail(s, f));
    let y = s.mul_add_f32s(e, s.splat_f32s(LN2_HI), s.add_f32s(f, y));
    let inf = s.splat_f32s(f32::INFINITY);
    let y = select(s, s.less_than_f32s(x, inf), y, inf);
    let zero = s.splat_f32s(0.0);
    let pole = select(s, s.equal_f32s(x, zero), s.splat_f32s(f32::NEG_INFINITY), s.splat_f32s(f32::NAN));
    select(s, s.greater_than_f32s(x, zero), y, pole)
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let one = s.splat_f32s(1.0);
    s.div_f32s(one, s.add_f32s(one, exp(s, neg(s, x))))
}

/// `x / (1 + e⁻ˣ)`.
#[inline(always)]
pub fn silu<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    s.div_f32s(x, s.add_f32s(s.splat_f32s(1.0), exp(s, neg(s, x))))
}

/// `(e²ˣ − 1) / (e²ˣ + 1)`.
///
/// Below 0.625 the odd polynomial `x + x³ P(x²)` (minimax, 0.1 ULP), else `1 − 2 / (e²ˣ + 1)` of `|x|`.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    const C: [f32; 5] = [-0.333_332_8, 0.133_314_06, -0.053_736_515, 0.020_628_167, -0.005_692_296];
    let sign = s.and_u32s(to_bits(s, x), s.splat_u32s(SIGN));
    let x = abs(s, x);
    let x2 = s.mul_f32s(x, x);
    let small = s.mul_add_f32s(s.mul_f32s(x2, x), polynomial(s, x2, C), x);
    let one = s.splat_f32s(1.0);
    let e = exp(s, s.add_f32s(x, x));
    let large = s.sub_f32s(one, s.div_f32s(s.splat_f32s(2.0), s.add_f32s(e, one)));
    let y = select(s, s.less_than_f32s(x, s.splat_f32s(0.625)), small, large);
    from_bits(s, s.or_u32s(to_bits(s, y), sign))
}

/// `max(x, 0) + log(1 + e^{−|x|})`.
///
/// With `u = e^{−|x|}` in `[0, 1]`: `log(1 + u)`, or `ln 2 + log(1 + (u − 1)/2)` where `u > √2 − 1`; either argument
/// is exact but for the rounding of `u`.
#[inline(always)]
pub fn softplus<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let zero = s.splat_f32s(0.0);
    let u = exp(s, from_bits(s, s.or_u32s(to_bits(s, x), s.splat_u32s(SIGN))));
    let upper = s.greater_than_f32s(u, s.splat_f32s(std::f32::consts::SQRT_2 - 1.0));
    let half = s.splat_f32s(0.5);
    let f = select(s, upper, s.mul_add_f32s(u, half, s.splat_f32s(-0.5)), u);
    let y = s.add_f32s(f, log1p_tail(s, f));
    let y = s.add_f32s(y, select(s, upper, s.splat_f32s(std::f32::consts::LN_2), zero));
    s.add_f32s(y, s.max_f32s(zero, x))
}

/// `x + 1` if `x > 0`, else `eˣ`: the feature map `elu(x) + 1`.
#[inline(always)]
pub fn elu1<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let linear = s.add_f32s(x, s.splat_f32s(1.0));
    select(s, s.greater_than_f32s(x, s.splat_f32s(0.0)), linear, exp(s, x))
}

/// `max(x, 0)`; `NaN` stays.
#[inline(always)]
pub fn relu<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let zero = s.splat_f32s(0.0);
    // Not `max`: a comparison with NaN is false on every architecture.
    select(s, s.less_than_or_equal_f32s(x, zero), zero, x)
}

/// `½ (1 + erf((x − √½) √(2π)))`: the normal distribution that resembles `max(x, 0)²` (mean `√½`, variance `1/4π`).
///
/// With `a = |x − √½| √(2π)`, one tail is `½ e^{−a²} P(t)`, `t = 1 / (1 + a/2)`; `P` interpolates `e^{a²} erfc a` on
/// `a ≤ 10` at Chebyshev's nodes, relative error 6e-8. The exponent's rounding is left in: 2e-5 of a tail of e^-81.
#[inline(always)]
pub fn laplace<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    const C: [f32; 10] = [
        0.0,
        0.282_082_68,
        0.282_445_04,
        0.242_572_89,
        0.204_853_65,
        -0.031_841_76,
        0.285_697_7,
        -0.493_863_64,
        0.287_768_3,
        -0.059_714_92,
    ];
    let one = s.splat_f32s(1.0);
    let z =
        s.mul_f32s(s.sub_f32s(x, s.splat_f32s(std::f32::consts::FRAC_1_SQRT_2)), s.splat_f32s(2.506_628_3));
    let a = s.min_f32s(s.splat_f32s(10.0), abs(s, z));
    let half = s.splat_f32s(0.5);
    let t = s.div_f32s(one, s.mul_add_f32s(a, half, one));
    let tail = s.mul_f32s(exp(s, neg(s, s.mul_f32s(a, a))), s.mul_f32s(half, polynomial(s, t, C)));
    select(s, s.less_than_f32s(s.splat_f32s(0.0), z), s.sub_f32s(one, tail), tail)
}

/// `1/√x`; `inf` at 0, `NaN` below.
#[inline(always)]
pub fn rsqrt<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    s.div_f32s(s.splat_f32s(1.0), s.sqrt_f32s(x))
}

/// Largest magnitude that the three-part reduction of [`sincos`] takes: 2¹⁷.
const SINCOS_RANGE: f32 = 131_072.0;

/// `sin x` and `cos x`.
///
/// `x = n π/2 + r` by Cody and Waite's reduction with π/2 in three parts of 24 bits and fused multiply-adds: the first
/// step is exact below 2¹⁷ (`n` has 17 bits), the error of the rest is below 2⁻⁵⁰. Vectors with a larger finite
/// argument go lane by lane through the standard library.
#[inline(always)]
pub fn sincos<S: Simd>(s: S, x: S::f32s) -> (S::f32s, S::f32s) {
    const SIN: [f32; 3] = [-0.166_666_54, 0.008_332_095, -0.000_195_055_4];
    const COS: [f32; 4] = [-0.5, 0.041_666_64, -0.001_388_713, 2.441_208_6e-5];
    if any(s, s.greater_than_f32s(abs(s, x), s.splat_f32s(SINCOS_RANGE))) {
        let (mut sin, mut cos) = (x, x);
        slow_sincos(
            bytemuck::cast_slice_mut(std::slice::from_mut(&mut sin)),
            bytemuck::cast_slice_mut(std::slice::from_mut(&mut cos)),
        );
        return (sin, cos);
    }
    let t = s.mul_add_f32s(x, s.splat_f32s(std::f32::consts::FRAC_2_PI), s.splat_f32s(ROUND));
    let n = s.sub_f32s(t, s.splat_f32s(ROUND));
    let r = s.negate_mul_add_f32s(n, s.splat_f32s(1.570_796_4), x);
    let r = s.negate_mul_add_f32s(n, s.splat_f32s(-4.371_139e-8), r);
    let r = s.negate_mul_add_f32s(n, s.splat_f32s(-1.715_124_5e-15), r);
    let r2 = s.mul_f32s(r, r);
    let sin = s.mul_add_f32s(s.mul_f32s(r2, r), polynomial(s, r2, SIN), r);
    let cos = s.mul_add_f32s(r2, polynomial(s, r2, COS), s.splat_f32s(1.0));
    // The quadrant is in the low bits of `t`: odd ones swap, bit 1 (of n, of n + 1) is the sign.
    let q = to_bits(s, t);
    let (one, thirty) = (s.splat_u32s(1), s.splat_u32s(30));
    let even = s.equal_u32s(s.and_u32s(q, one), s.splat_u32s(0));
    let (sin, cos) = (select(s, even, sin, cos), select(s, even, cos, sin));
    let bit = s.splat_u32s(SIGN);
    let sin_sign = s.and_u32s(s.wrapping_dyn_shl_u32s(q, thirty), bit);
    let cos_sign = s.and_u32s(s.wrapping_dyn_shl_u32s(s.add_u32s(q, one), thirty), bit);
    (from_bits(s, s.xor_u32s(to_bits(s, sin), sin_sign)), from_bits(s, s.xor_u32s(to_bits(s, cos), cos_sign)))
}

/// Replaces each element of both by its sine and its cosine.
#[cold]
#[inline(never)]
fn slow_sincos(sin: &mut [f32], cos: &mut [f32]) {
    for (s, c) in sin.iter_mut().zip(cos) {
        (*s, *c) = s.sin_cos();
    }
}
