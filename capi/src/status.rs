//! Status codes and errors

use std::ffi::{CStr, c_char};

/// Result of a call: 0 for success, negative for a failure. Values are never reused or changed; later
/// versions may add some.
pub type subquad_status = i32;

/// Success.
pub const SUBQUAD_OK: i32 = 0;
/// A required pointer is null.
pub const SUBQUAD_ERROR_NULL_POINTER: i32 = -1;
/// A value of a description, option or argument is out of its range.
pub const SUBQUAD_ERROR_INVALID_ARGUMENT: i32 = -2;
/// No mechanism of that name in the catalogue.
pub const SUBQUAD_ERROR_UNKNOWN_MECHANISM: i32 = -3;
/// Known, but not available: a mechanism, mode, type, size or instruction set.
pub const SUBQUAD_ERROR_UNSUPPORTED: i32 = -4;
/// The mechanism has no parameter of that name.
pub const SUBQUAD_ERROR_UNKNOWN_PARAMETER: i32 = -5;
/// A parameter has the wrong kind or is out of range.
pub const SUBQUAD_ERROR_PARAMETER_RANGE: i32 = -6;
/// The mechanism has no such role, or it is bound on the wrong side or twice.
pub const SUBQUAD_ERROR_WRONG_ROLE: i32 = -7;
/// A required role is not bound.
pub const SUBQUAD_ERROR_MISSING_ROLE: i32 = -8;
/// A tensor has the wrong element type.
pub const SUBQUAD_ERROR_WRONG_DTYPE: i32 = -9;
/// A tensor has the wrong rank or extent.
pub const SUBQUAD_ERROR_WRONG_SHAPE: i32 = -10;
/// A stride is not allowed, or extents times strides leave the address space.
pub const SUBQUAD_ERROR_WRONG_STRIDE: i32 = -11;
/// A pointer is not aligned to its element type.
pub const SUBQUAD_ERROR_MISALIGNED: i32 = -12;
/// An output overlaps an input or another output.
pub const SUBQUAD_ERROR_OVERLAP: i32 = -13;
/// The workspace is too small.
pub const SUBQUAD_ERROR_WORKSPACE: i32 = -14;
/// An allocation failed, or a thread could not be started.
pub const SUBQUAD_ERROR_OUT_OF_MEMORY: i32 = -15;
/// A fault of the library itself, or a runner that did not run every task.
pub const SUBQUAD_ERROR_INTERNAL: i32 = -16;
/// A struct has an unknown size, or a field that must be zero is not.
pub const SUBQUAD_ERROR_WRONG_STRUCT: i32 = -17;

/// What went wrong, in words. The last parameter of every function that can fail; it may be NULL.
///
/// The caller owns it; the call fills it in before it returns: on success with status 0 and an empty text,
/// on failure with the status it also returns and a text that names the argument, the value given and the
/// one expected. It need not be initialised.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct subquad_error {
    /// The status that the call returned.
    pub status: i32,
    /// UTF-8, NUL-terminated, cut at a whole character if it is too long.
    pub message: [c_char; 252],
}

/// A short name of a status, such as "wrong shape"; "unknown status" for any other number.
///
/// Returns a static string. Thread-safe. Allocates: no. Since 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn subquad_status_string(status: i32) -> *const c_char {
    let index = usize::try_from(-i64::from(status)).unwrap_or(usize::MAX);
    NAMES.get(index).copied().unwrap_or(c"unknown status").as_ptr()
}

/// Name of status `-index`: those of `subquad::Status` (`tests/constants.rs` compares).
const NAMES: [&CStr; 18] = [
    c"ok",
    c"null pointer",
    c"invalid argument",
    c"unknown mechanism",
    c"unsupported",
    c"unknown parameter",
    c"parameter out of range",
    c"wrong role",
    c"missing role",
    c"wrong data type",
    c"wrong shape",
    c"wrong stride",
    c"misaligned pointer",
    c"overlapping output",
    c"workspace too small",
    c"out of memory",
    c"internal error",
    c"wrong struct",
];

impl Default for subquad_error {
    fn default() -> subquad_error {
        subquad_error { status: SUBQUAD_OK, message: [0; 252] }
    }
}

impl subquad_error {
    /// The message, for callers in Rust.
    pub fn text(&self) -> String {
        let bytes: Vec<u8> = self.message.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
