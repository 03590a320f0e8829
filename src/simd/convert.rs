//! 16-bit floats to and from `f32`, without branches: loops over these compile to vector code.
//!
//! Nothing here takes or makes a denormal `f32`, so the results don't depend on flush-to-zero modes; half-precision
//! denormals (below 6.1e-5) are ordinary values.

use half::{bf16, f16};

/// The upper half of the `f32`.
#[inline(always)]
pub(crate) fn bf16_to_f32(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

/// Round to nearest, ties to even; `NaN` becomes quiet.
#[inline(always)]
pub(crate) fn f32_to_bf16(x: f32) -> bf16 {
    let u = x.to_bits();
    let rounded = u.wrapping_add(0x7fff + ((u >> 16) & 1));
    let is_nan = u & 0x7fff_ffff > 0x7f80_0000;
    bf16::from_bits((if is_nan { u | 0x0040_0000 } else { rounded } >> 16) as u16)
}

/// 2⁻¹⁴, the smallest normal half, as `f32` bits.
pub(crate) const F16_NORMAL: u32 = 0x3880_0000;

/// Exact. A denormal half is the difference of two normal `f32`.
#[inline(always)]
pub(crate) fn f16_to_f32(x: f16) -> f32 {
    let h = u32::from(x.to_bits());
    let m = (h & 0x7fff) << 13;
    let exponent = h & 0x7c00;
    let normal = m.wrapping_add(if exponent == 0x7c00 { 0x7000_0000 } else { 0x3800_0000 });
    let denormal = (f32::from_bits(m + F16_NORMAL) - f32::from_bits(F16_NORMAL)).to_bits();
    f32::from_bits(if exponent == 0 { denormal } else { normal } | (h & 0x8000) << 16)
}

/// Round to nearest, ties to even; from 65520 on `inf`; `NaN` becomes quiet.
#[inline(always)]
pub(crate) fn f32_to_f16(x: f32) -> f16 {
    let sign = (x.to_bits() >> 16) & 0x8000;
    let u = x.to_bits() & 0x7fff_ffff;
    // Adding ½ leaves the value in units of 2⁻²⁴, rounded, in the low bits.
    let denormal = (f32::from_bits(u) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let normal = u.wrapping_add(0x0fff + ((u >> 13) & 1)).wrapping_sub(0x3800_0000) >> 13;
    let finite = if u < F16_NORMAL { denormal } else { normal };
    let large = if u > 0x7f80_0000 { 0x7e00 | ((u >> 13) & 0x3ff) } else { 0x7c00 };
    f16::from_bits((sign | if u >= 0x477f_f000 { large } else { finite }) as u16)
}
