//! The boundary: every exported function runs inside one of these, so that no panic reaches C.

use crate::fault::{Fault, Place, Result};
use crate::status::{SUBQUAD_OK, subquad_error, subquad_status};
use std::ffi::{CStr, c_char};
use std::fmt::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use subquad::{Error, Status};

/// Runs a fallible body; fills `err` unless it is null.
///
/// # Safety
/// `err` is null or writable.
pub(crate) unsafe fn status(err: *mut subquad_error, body: impl FnOnce() -> Result<()>) -> subquad_status {
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        // Dropping a foreign payload may panic again.
        std::mem::forget(payload);
        Err(Error::Internal("a panic was caught at the boundary").into())
    });
    let status = result.as_ref().map_or_else(|fault| fault.status() as i32, |()| SUBQUAD_OK);
    if !err.is_null() {
        // SAFETY: `err` is writable, says the caller; both fields are plain numbers, so no old value drops.
        unsafe {
            (*err).status = status;
            (*err).message[0] = 0;
        }
        if let Err(fault) = result {
            // SAFETY: as above. The array may have been uninitialised: it is written before it is read.
            let message = unsafe { &raw mut (*err).message };
            let mut text = Text { at: message.cast(), free: size_of::<[c_char; 252]>() - 1 };
            // A full buffer stops the formatting.
            let _ = catch_unwind(AssertUnwindSafe(|| write!(text, "{fault}")));
            // SAFETY: one byte was kept free for the terminator.
            unsafe { text.at.write(0) };
        }
    }
    status
}

/// Runs a body that returns a value; a panic gives `fallback`.
pub(crate) fn value<T>(fallback: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        std::mem::forget(payload);
        fallback
    })
}

/// Writes into the caller's buffer, up to the last whole character that fits.
struct Text {
    at: *mut u8,
    free: usize,
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let n = text.floor_char_boundary(self.free);
        // SAFETY: `free` bytes are left behind `at`.
        unsafe {
            self.at.copy_from_nonoverlapping(text.as_ptr(), n);
            self.at = self.at.add(n);
        }
        self.free -= n;
        if n < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

/// The object behind a handle or an argument that must not be null.
///
/// # Safety
/// `pointer` is null, or valid for reads for `'a` while nothing writes there.
pub(crate) unsafe fn borrow<'a, T>(pointer: *const T, name: &'static str) -> Result<&'a T> {
    // SAFETY: as the caller says.
    unsafe { pointer.as_ref() }.ok_or(Fault::Null(Place::argument(name)))
}

/// An output argument that must not be null.
pub(crate) fn out<T>(pointer: *mut T, name: &'static str) -> Result<*mut T> {
    if pointer.is_null() { Err(Fault::Null(Place::argument(name))) } else { Ok(pointer) }
}

/// An array argument; null is fine when it is empty. The caller of this function bounds `n`.
///
/// # Safety
/// `pointer` is null, or valid for reads of `n` elements for `'a` while nothing writes there, and so many
/// elements can exist.
pub(crate) unsafe fn array<'a, T>(pointer: *const T, n: usize, place: Place) -> Result<&'a [T]> {
    match (n, pointer.is_null()) {
        (0, _) => Ok(&[]),
        (_, true) => Err(Fault::Null(place)),
        // SAFETY: as the caller says.
        (_, false) => Ok(unsafe { std::slice::from_raw_parts(pointer, n) }),
    }
}

/// A NUL-terminated string that must be there and UTF-8.
///
/// # Safety
/// `pointer` is null or a NUL-terminated string, unchanged for `'a`.
pub(crate) unsafe fn string<'a>(pointer: *const c_char, place: Place) -> Result<&'a str> {
    if pointer.is_null() {
        return Err(Fault::Null(place));
    }
    // SAFETY: as the caller says.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| Fault::Words { status: Status::InvalidArgument, place, what: "is not UTF-8" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> subquad_error {
        subquad_error { status: 7, message: [b'x' as c_char; 252] }
    }

    /// The message of a failure whose text is `text`.
    fn message(text: &'static str) -> String {
        let mut err = error();
        let fault = Fault::Null(Place::argument(text));
        // SAFETY: `err` is writable.
        let status = unsafe { status(&mut err, || Err(fault)) };
        assert_eq!((status, err.status), (Status::NullPointer as i32, status));
        err.text()
    }

    #[test]
    fn panics_become_a_status() {
        let mut err = error();
        // SAFETY: `err` is writable, or null.
        unsafe {
            assert_eq!(status(&mut err, || panic!("on purpose")), Status::Internal as i32);
            assert_eq!(status(std::ptr::null_mut(), || panic!("on purpose")), Status::Internal as i32);
        }
        assert_eq!(err.status, Status::Internal as i32);
        assert_eq!(err.text(), "internal error: a panic was caught at the boundary");
        assert_eq!(value(3, || panic!("on purpose")), 3);
    }

    #[test]
    fn success_clears_the_error() {
        let mut err = error();
        // SAFETY: `err` is writable.
        assert_eq!(unsafe { status(&mut err, || Ok(())) }, SUBQUAD_OK);
        assert_eq!((err.status, err.text().as_str()), (SUBQUAD_OK, ""));
    }

    #[test]
    fn messages_are_cut_at_a_character() {
        assert_eq!(message("desc"), "desc is null");
        let long: &'static str = "é".repeat(300).leak();
        assert_eq!(message(long), "é".repeat(125));
        let odd: &'static str = format!("x{}", "é".repeat(300)).leak();
        assert_eq!(message(odd), format!("x{}", "é".repeat(125)));
    }
}
