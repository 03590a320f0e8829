//! Tensors of a file as operands of calls: memory of their own, values rounded to what a type holds.

use super::cabi;
use super::compare::Compared;
use super::reference::Data;
use super::replay::{Stop, Types};
use crate::values::{Values, rounded, underflow, unit_roundoff};
use subquad::DType;
use subquad_capi::{subquad_in, subquad_out};

/// Memory of a tensor.
pub(super) enum Buffer {
    Reals(Values),
    Integers(Vec<i32>),
}

impl Buffer {
    pub(super) fn address(&self) -> (DType, *const u8) {
        match self {
            Buffer::Reals(values) => (values.dtype(), values.address()),
            Buffer::Integers(values) => (DType::I32, values.as_ptr().cast()),
        }
    }

    pub(super) fn address_mut(&mut self) -> (DType, *mut u8) {
        match self {
            Buffer::Reals(values) => (values.dtype(), values.address_mut()),
            Buffer::Integers(values) => (DType::I32, values.as_mut_ptr().cast()),
        }
    }
}

/// Compares with the numbers that one rounding to `dtype` makes of `expected`, and roundings of operands, in units of the
/// largest.
pub(super) fn compare_rounded(
    name: &str,
    dtype: DType,
    given: &[f32],
    mut expected: Vec<f32>,
    operands: f64,
) -> Compared {
    // Beyond the type's range lies its infinity.
    let nearest = rounded(&expected, dtype);
    for (x, near) in expected.iter_mut().zip(nearest).filter(|(_, near)| near.is_infinite()) {
        *x = near;
    }
    let largest = expected.iter().filter(|x| x.is_finite()).fold(0.0f64, |m, x| m.max(x.abs().into()));
    let absolute = underflow(dtype) + operands * largest;
    Compared::reals(name, given, &expected, (unit_roundoff(dtype), absolute), None)
}

/// The nearest values of a type; a file that goes beyond its range is not for it.
pub(super) fn round(name: &str, reals: &[f32], dtype: DType) -> Result<Vec<f32>, Stop> {
    let near = rounded(reals, dtype);
    match reals.iter().zip(&near).find(|(x, near)| x.is_finite() && !near.is_finite()) {
        Some((x, _)) => Err(Stop::Skip(format!("{name} has {x:e}, which is beyond {dtype}"))),
        None => Ok(near),
    }
}

pub(super) fn stored_input(name: &str, data: &Data, stored: DType, values: Types) -> Result<Buffer, Stop> {
    match data {
        Data::F32(reals) => {
            let reals = round(name, reals, values.tokens)?;
            let is_row = values.bf16_dot && ["q", "k", "v", "probe"].contains(&name);
            let reals = if is_row { rounded(&reals, DType::Bf16) } else { reals };
            Ok(Buffer::Reals(Values::new(reals, stored)))
        }
        Data::I32(values) => Ok(Buffer::Integers(values.clone())),
        Data::Other(dtype) => Err(no_type(name, dtype)),
    }
}

/// Memory for an output, filled with what no result can be.
pub(super) fn unwritten(name: &str, expected: &Data, dtype: DType) -> Result<Buffer, Stop> {
    match expected {
        Data::F32(values) => Ok(Buffer::Reals(Values::new(vec![f32::NAN; values.len()], dtype))),
        Data::I32(values) => Ok(Buffer::Integers(vec![i32::MIN; values.len()])),
        Data::Other(dtype) => Err(no_type(name, dtype)),
    }
}

pub(super) fn no_type(name: &str, dtype: &str) -> Stop {
    Stop::Skip(format!("{name} has type {dtype}, which this version does not take"))
}

/// Role, extents, strides and first element of a tensor, in elements.
pub(super) struct Bound {
    pub(super) role: u32,
    pub(super) rank: usize,
    pub(super) shape: [i64; 5],
    pub(super) stride: [i64; 5],
    pub(super) offset: i64,
}

impl Bound {
    /// All of a row-major tensor.
    pub(super) fn whole(name: &str, extents: &[i64]) -> Bound {
        // More than five axes are the library's to refuse.
        let (rank, role) = (extents.len(), cabi::role_id(name));
        let mut bound = Bound { role, rank, shape: [1; 5], stride: [0; 5], offset: 0 };
        let mut step = 1;
        for axis in (0..rank.min(5)).rev() {
            (bound.shape[axis], bound.stride[axis]) = (extents[axis], step);
            step *= extents[axis];
        }
        bound
    }
}

pub(super) fn input(bound: Bound, (dtype, data): (DType, *const u8)) -> subquad_in {
    let Bound { role, rank, shape, stride, offset } = bound;
    let data = data.wrapping_offset(dtype.size() as isize * offset as isize).cast();
    let dtype = dtype as u32;
    subquad_in { role, dtype, rank: rank as u32, reserved0: 0, data, shape, stride, reserved: [0; 2] }
}

pub(super) fn output(bound: Bound, (dtype, data): (DType, *mut u8)) -> subquad_out {
    let Bound { role, rank, shape, stride, offset } = bound;
    let data = data.wrapping_offset(dtype.size() as isize * offset as isize).cast();
    let dtype = dtype as u32;
    subquad_out { role, dtype, rank: rank as u32, reserved0: 0, data, shape, stride, reserved: [0; 2] }
}
