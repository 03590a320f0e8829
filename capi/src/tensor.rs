//! Tensors
//!
//! A call is given its tensors by role. Strides count elements; they may be negative, and those of inputs may
//! be 0 to broadcast. Data need only be aligned to their element type.

use crate::boundary;
use crate::fault::{Fault, Place, Result};
use std::ffi::c_void;
use subquad::{Args, DType, Error, Layout, MAX_TENSORS, Mode, Role, Status, View, ViewMut};

/// Largest rank of a tensor.
pub const SUBQUAD_MAX_RANK: u32 = 5;
/// Most tensors that one call takes, inputs and outputs together.
pub const SUBQUAD_MAX_TENSORS: u32 = 32;

/// A tensor that a call reads. The struct is frozen.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct subquad_in {
    /// What it is to the call: SUBQUAD_ROLE_....
    pub role: u32,
    /// Element type: SUBQUAD_DTYPE_....
    pub dtype: u32,
    /// Number of axes, 0 to 5.
    pub rank: u32,
    /// Zero.
    pub reserved0: u32,
    /// Address of element [0, 0, ...]; may be NULL if there is no element.
    pub data: *const c_void,
    /// Extents; those past `rank` are ignored.
    pub shape: [i64; 5],
    /// Strides in elements; those past `rank` are ignored.
    pub stride: [i64; 5],
    /// Zero.
    pub reserved: [u64; 2],
}

/// A tensor that a call writes: the same layout as subquad_in. The struct is frozen.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct subquad_out {
    /// What it is to the call: SUBQUAD_ROLE_....
    pub role: u32,
    /// Element type: SUBQUAD_DTYPE_....
    pub dtype: u32,
    /// Number of axes, 0 to 5.
    pub rank: u32,
    /// Zero.
    pub reserved0: u32,
    /// Address of element [0, 0, ...]; may be NULL if there is no element.
    pub data: *mut c_void,
    /// Extents; those past `rank` are ignored.
    pub shape: [i64; 5],
    /// Strides in elements; those past `rank` are ignored. No two elements share memory.
    pub stride: [i64; 5],
    /// Zero.
    pub reserved: [u64; 2],
}

impl subquad_out {
    /// Its numbers, to be checked like an input's.
    fn as_in(&self) -> subquad_in {
        let subquad_out { role, dtype, rank, reserved0, data, shape, stride, reserved } = *self;
        subquad_in { role, dtype, rank, reserved0, data, shape, stride, reserved }
    }
}

impl subquad_in {
    /// Everything but the pointer.
    fn convert(&self, array: &'static str, index: usize) -> Result<(Role, DType, Layout)> {
        let fault = |status, field, given: u32, expected| {
            let place = Place::element(array, index, field);
            Fault::Value { status, place, given: given.into(), expected }
        };
        let Some(role) = Role::from_id(self.role) else {
            return Err(fault(Status::WrongRole, "role", self.role, "one of SUBQUAD_ROLE_..."));
        };
        let Some(dtype) = DType::ALL.into_iter().find(|&dtype| dtype as u32 == self.dtype) else {
            return Err(fault(Status::WrongDType, "dtype", self.dtype, "one of SUBQUAD_DTYPE_..."));
        };
        if self.rank > SUBQUAD_MAX_RANK {
            return Err(fault(Status::WrongShape, "rank", self.rank, "at most 5"));
        }
        if self.reserved0 != 0 || self.reserved != [0; 2] {
            return Err(Fault::reserved(Place::element(array, index, "reserved")));
        }
        let rank = self.rank as usize;
        let mut layout = Layout { rank, shape: [1; 5], stride: [0; 5] };
        layout.shape[..rank].copy_from_slice(&self.shape[..rank]);
        layout.stride[..rank].copy_from_slice(&self.stride[..rank]);
        Ok((role, dtype, layout))
    }
}

/// The library's arguments, on the stack.
///
/// # Safety
/// `inputs` and `outputs` are null or have that many elements; the memory that each describes is readable,
/// or writable, for `'a`.
pub(crate) unsafe fn convert<'a>(
    inputs: *const subquad_in,
    n_in: usize,
    outputs: *const subquad_out,
    n_out: usize,
) -> Result<Args<'a>> {
    let given = n_in.saturating_add(n_out);
    if given > MAX_TENSORS {
        return Err(Error::TooManyTensors { given, max: MAX_TENSORS }.into());
    }
    // SAFETY: null or that many, says the caller.
    let inputs = unsafe { boundary::array(inputs, n_in, Place::argument("in")) }?;
    // SAFETY: as above.
    let outputs = unsafe { boundary::array(outputs, n_out, Place::argument("out")) }?;
    let mut args = Args::new();
    for (index, tensor) in inputs.iter().enumerate() {
        let (role, dtype, layout) = tensor.convert("in", index)?;
        // SAFETY: the caller vouches for the memory; the plan checks the numbers before anything is read.
        args.bind_input(role, unsafe { View::from_raw(tensor.data.cast(), dtype, layout) });
    }
    for (index, tensor) in outputs.iter().enumerate() {
        let (role, dtype, layout) = tensor.as_in().convert("out", index)?;
        // SAFETY: as above; overlaps are refused by the plan, but for a state with itself.
        args.bind_output(role, unsafe { ViewMut::from_raw(tensor.data.cast(), dtype, layout) });
    }
    Ok(args)
}

/// The mode of this number.
pub(crate) fn mode(number: u32) -> Result<Mode> {
    let known = Mode::ALL.into_iter().find(|&mode| mode as u32 == number);
    known.ok_or(Fault::invalid(Place::argument("mode"), number, "one of SUBQUAD_MODE_..."))
}
