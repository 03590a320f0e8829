//! Names of roles
//!
//! A role says what a tensor is to a call. The numbers never change. Roles of a family, such as "detail{l}",
//! have numbers but no constant: ask subquad_role_id.

use crate::boundary;
use crate::text;
use std::ffi::{CStr, c_char};
use subquad::Role;

/// Bit that turns a role into that of its gradient, as in SUBQUAD_ROLE_Q | SUBQUAD_ROLE_GRAD for "dq".
pub const SUBQUAD_ROLE_GRAD: u32 = 0x8000;

/// Bit that turns a role that carries a state out into its snapshots (see subquad_plan_execute), as in
/// SUBQUAD_ROLE_STATE_OUT | SUBQUAD_ROLE_SNAPSHOT for "state_snapshots".
pub const SUBQUAD_ROLE_SNAPSHOT: u32 = 0x4000;

/// Number of the role with this name ("q", "state_in", "dq" for the gradient of q); 0 if there is none.
///
/// `name` is NUL-terminated; NULL gives 0. Thread-safe. Allocates: no. Since 0.1.0.
///
/// # Safety
/// `name` is NULL or a NUL-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_role_id(name: *const c_char) -> u32 {
    boundary::value(0, || {
        if name.is_null() {
            return 0;
        }
        // SAFETY: a NUL-terminated string, says the caller.
        let name = unsafe { CStr::from_ptr(name) };
        name.to_str().ok().and_then(Role::from_name).map_or(0, Role::id)
    })
}

/// Name of the role with this number; NULL if there is none.
///
/// Returns a static string. Thread-safe. Allocates: on the first call. Since 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn subquad_role_name(role: u32) -> *const c_char {
    boundary::value(std::ptr::null(), || {
        if let Some((_, name)) = text::tables().snapshots.iter().find(|(id, _)| *id == role) {
            return name.as_ptr();
        }
        let base = role & !SUBQUAD_ROLE_GRAD;
        let known = text::tables().roles.iter().find(|(id, ..)| *id == base);
        known.map_or(std::ptr::null(), |(_, name, grad)| {
            if role & SUBQUAD_ROLE_GRAD == 0 { name.as_ptr() } else { grad.as_ptr() }
        })
    })
}
