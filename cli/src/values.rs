//! Values of a tensor in its element type.

use half::{bf16, f16};
use subquad::DType;

/// Floats of one of the three types, or integers.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Single precision.
    F32(Vec<f32>),
    /// Small integers.
    I32(Vec<i32>),
    /// The bits of this 16-bit type.
    Half(DType, Vec<u16>),
}

impl Values {
    /// The nearest values of a type.
    pub fn new(reals: Vec<f32>, dtype: DType) -> Values {
        match dtype {
            DType::Bf16 => Values::Half(dtype, reals.iter().map(|&x| bf16::from_f32(x).to_bits()).collect()),
            DType::F16 => Values::Half(dtype, reals.iter().map(|&x| f16::from_f32(x).to_bits()).collect()),
            DType::I32 => Values::I32(reals.iter().map(|&x| x as i32).collect()),
            _ => Values::F32(reals),
        }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match self {
            Values::F32(_) => DType::F32,
            Values::I32(_) => DType::I32,
            Values::Half(dtype, _) => *dtype,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Values::F32(values) => values.len(),
            Values::I32(values) => values.len(),
            Values::Half(_, bits) => bits.len(),
        }
    }

    /// The values as `f32`, exactly.
    pub fn reals(&self) -> Vec<f32> {
        match self {
            Values::F32(values) => values.clone(),
            Values::I32(values) => values.iter().map(|&x| x as f32).collect(),
            Values::Half(DType::Bf16, bits) => bits.iter().map(|&x| bf16::from_bits(x).to_f32()).collect(),
            Values::Half(_, bits) => bits.iter().map(|&x| f16::from_bits(x).to_f32()).collect(),
        }
    }

    /// Address of the first element.
    pub fn address(&self) -> *const u8 {
        match self {
            Values::F32(values) => values.as_ptr().cast(),
            Values::I32(values) => values.as_ptr().cast(),
            Values::Half(_, bits) => bits.as_ptr().cast(),
        }
    }

    /// Address of the first element, to write to.
    pub fn address_mut(&mut self) -> *mut u8 {
        match self {
            Values::F32(values) => values.as_mut_ptr().cast(),
            Values::I32(values) => values.as_mut_ptr().cast(),
            Values::Half(_, bits) => bits.as_mut_ptr().cast(),
        }
    }
}

/// The values of `reals` nearest in a type, as `f32`.
pub fn rounded(reals: &[f32], dtype: DType) -> Vec<f32> {
    Values::new(reals.to_vec(), dtype).reals()
}

/// Unit roundoff: a rounding to this type is off by at most this much of the value.
pub fn unit_roundoff(dtype: DType) -> f64 {
    match dtype {
        DType::Bf16 => 2f64.powi(-8),
        DType::F16 => 2f64.powi(-11),
        _ => 2f64.powi(-24),
    }
}

/// What a rounding may be off by where the value is tiny: half the distance of the smallest numbers of `f16`; what
/// is flushed to zero elsewhere.
pub fn underflow(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2f64.powi(-25),
        _ => 2f64.powi(-126),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roundings_are_within_their_bound() {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            let mut x = 1e-9f32;
            let mut worst = 0.0f64;
            while x < 6e4 {
                let y = rounded(&[x], dtype)[0];
                let (x64, error) = (f64::from(x), (f64::from(y) - f64::from(x)).abs());
                assert!(error <= unit_roundoff(dtype) * x64 + underflow(dtype), "{x} as {dtype} is {y}");
                if x > 1e-3 {
                    worst = worst.max(error / x64 / unit_roundoff(dtype));
                }
                x *= 1.001;
            }
            assert!(dtype == DType::F32 || worst > 0.9, "the bound of {dtype} is loose: {worst}");
        }
    }
}
