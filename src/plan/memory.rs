//! The memory of one tensor: pointer, strides, and the addresses that it touches.

use crate::args::Side;
use crate::catalog::Role;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Checks pointer and strides; gives the addresses that the tensor touches.
pub fn check(role: Role, side: Side, tensor: &Tensor) -> Result<(usize, usize)> {
    let rank = tensor.layout.rank;
    for axis in 0..rank {
        let given = tensor.layout.shape[axis];
        if given < 0 {
            return Err(Error::WrongExtent { role, axis, given, expected: 0, from: "the smallest extent" });
        }
    }
    let given = tensor.layout.stride[0];
    let Some(reach) = tensor.layout.reach() else {
        let why = "extents times strides leave the address space";
        return Err(Error::WrongStride { role, axis: 0, given, why });
    };
    let Some((low, high)) = reach else { return Ok((0, 0)) };
    if tensor.data.is_null() {
        return Err(Error::NullData(role));
    }
    let size = tensor.dtype.size();
    if !tensor.data.addr().is_multiple_of(size) {
        return Err(Error::Misaligned { role, align: size });
    }
    let address = |offset: i64| {
        let address = tensor.data.addr() as i128 + i128::from(offset) * size as i128;
        usize::try_from(address).ok().filter(|&address| address <= usize::MAX - 8)
    };
    let (Some(first), Some(last)) = (address(low), address(high)) else {
        let why = "the tensor leaves the address space";
        return Err(Error::WrongStride { role, axis: 0, given, why });
    };
    if side == Side::Out {
        check_injective(role, tensor)?;
    }
    Ok((first, last + size))
}

/// No two elements of an output share memory: each stride steps over all that smaller strides reach.
fn check_injective(role: Role, tensor: &Tensor) -> Result<()> {
    let mut axes = [0, 1, 2, 3, 4];
    axes.sort_by_key(|&axis: &usize| tensor.layout.stride[axis].unsigned_abs());
    let mut reach = 0i64;
    for axis in axes.into_iter().filter(|&axis| tensor.layout.shape[axis] > 1) {
        let stride = tensor.layout.stride[axis];
        if stride.abs() <= reach {
            let why = "elements of an output must not share memory";
            return Err(Error::WrongStride { role, axis, given: stride, why });
        }
        reach += (tensor.layout.shape[axis] - 1) * stride.abs();
    }
    Ok(())
}
