//! Structs that start with their size and grow only at their end.
//!
//! An older caller's struct is smaller: what it lacks has its default. A newer caller's struct is larger:
//! it is accepted if all that this version does not know is zero.

use crate::fault::{Fault, Place, Result};
use std::mem::{align_of, size_of};
use subquad::Status;

/// No version's struct is larger; anything beyond is memory that was never initialised.
const MAX_SIZE: usize = 4096;

/// A struct whose first field is `struct_size: usize`.
///
/// # Safety
/// `repr(C)`, starts with that field, and every bit pattern is a value of each field.
pub(crate) unsafe trait Versioned: Copy {
    /// Name of the C struct.
    const NAME: &'static str;
    /// What the fields of a smaller struct are taken to be.
    fn defaults() -> Self;
}

fn check_size<T: Versioned>(given: usize, name: &'static str) -> Result<()> {
    let known = size_of::<T>();
    // A struct's size is a multiple of its alignment, so a smaller one ends between fields.
    if given < size_of::<usize>() || given > MAX_SIZE || !given.is_multiple_of(align_of::<T>()) {
        let place = Place::field(name, "struct_size");
        return Err(Fault::StructSize { place, given, known, name: T::NAME });
    }
    Ok(())
}

/// Reads a caller's struct of any version.
///
/// # Safety
/// `at` is null, or readable for the number of bytes that its first field says.
pub(crate) unsafe fn read<T: Versioned>(at: *const T, name: &'static str) -> Result<T> {
    if at.is_null() {
        return Err(Fault::Null(Place::argument(name)));
    }
    // SAFETY: every version starts with the size.
    let size = unsafe { at.cast::<usize>().read() };
    check_size::<T>(size, name)?;
    let (bytes, known) = (at.cast::<u8>(), size_of::<T>());
    // SAFETY: `size` bytes are readable, says the caller.
    let unknown = (known..size).any(|i| unsafe { bytes.add(i).read() } != 0);
    if unknown {
        let place = Place::argument(name);
        let what = "has fields of a later version that are not zero";
        return Err(Fault::Words { status: Status::WrongStruct, place, what });
    }
    let mut value = T::defaults();
    // SAFETY: both sides have that many bytes, and any bytes are a value, says `Versioned`.
    unsafe { (&raw mut value).cast::<u8>().copy_from_nonoverlapping(bytes, size.min(known)) };
    Ok(value)
}

/// Writes a result into a caller's struct of any version: an older one gets the fields it has, in a newer one
/// what this version does not know becomes zero. `struct_size` stays what it was.
///
/// # Safety
/// `at` is null, or readable and writable for the number of bytes that its first field says.
pub(crate) unsafe fn write<T: Versioned>(at: *mut T, name: &'static str, value: T) -> Result<()> {
    if at.is_null() {
        return Err(Fault::Null(Place::argument(name)));
    }
    let head = size_of::<usize>();
    // SAFETY: every version starts with the size.
    let size = unsafe { at.cast::<usize>().read() };
    check_size::<T>(size, name)?;
    let (bytes, known) = (at.cast::<u8>(), size.min(size_of::<T>()));
    // SAFETY: `size` bytes are writable, says the caller; `value` has `known` of them.
    unsafe {
        let fields = (&raw const value).cast::<u8>();
        bytes.add(head).copy_from_nonoverlapping(fields.add(head), known - head);
        bytes.add(known).write_bytes(0, size - known);
    }
    Ok(())
}
