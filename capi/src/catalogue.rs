//! The catalogue
//!
//! Every mechanism that the library knows by name, whether or not this version computes it, with its
//! parameters and roles; the definitions are in docs/spec. All texts are UTF-8 in static storage.

use crate::boundary;
use crate::desc::{
    SUBQUAD_PARAM_INT, SUBQUAD_PARAM_INTS, SUBQUAD_PARAM_REAL, SUBQUAD_PARAM_REALS, SUBQUAD_PARAM_WORD,
};
use crate::fault::{Fault, Place, Result};
use crate::sized::{self, Versioned};
use crate::status::{subquad_error, subquad_status};
use crate::text::{self, MechanismText};
use std::ffi::{CString, c_char};
use std::ptr::null;
use subquad::catalog::{Default, ParamKind, RoleKind};

/// A list of words. It is in the catalogue only: no mechanism of this version takes one.
pub const SUBQUAD_PARAM_WORDS: u32 = 6;

/// Read.
pub const SUBQUAD_KIND_INPUT: u32 = 1;
/// Written.
pub const SUBQUAD_KIND_OUTPUT: u32 = 2;
/// Read: what was carried from the call before.
pub const SUBQUAD_KIND_STATE_IN: u32 = 3;
/// Written: what the next call carries on.
pub const SUBQUAD_KIND_STATE_OUT: u32 = 4;
/// A gradient that backward writes beside those of the inputs.
pub const SUBQUAD_KIND_GRAD_OUTPUT: u32 = 5;

/// One mechanism of the catalogue.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct subquad_mechanism_info {
    /// sizeof(subquad_mechanism_info), set by the caller.
    pub struct_size: usize,
    /// The name.
    pub name: *const c_char,
    /// A title for people.
    pub title: *const c_char,
    /// Page of docs/spec that defines it.
    pub page: *const c_char,
    /// Section of that page.
    pub section: *const c_char,
    /// The mechanism of which it is a special case, in words; or empty.
    pub same_as: *const c_char,
    /// Modes that it has: bits of SUBQUAD_MODE_....
    pub modes: u32,
    /// 1 if this version computes it, else 0.
    pub available: u32,
    /// Number of parameters: indices of subquad_mechanism_param.
    pub n_params: u32,
    /// Number of roles: indices of subquad_mechanism_role.
    pub n_roles: u32,
    /// 1 if gradients are defined, else 0. (Those that a plan has are in its subquad_plan_info.)
    pub gradient: u32,
    /// Zero.
    pub reserved: u32,
}

/// One parameter of a mechanism.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct subquad_param_info {
    /// sizeof(subquad_param_info), set by the caller.
    pub struct_size: usize,
    /// The name.
    pub name: *const c_char,
    /// What it takes: SUBQUAD_PARAM_....
    pub kind: u32,
    /// 1 if a description must give it, else 0.
    pub required: u32,
    /// Values it may have, such as "> 0.0", "0 or 1", or its words separated by ", "; empty: any finite value.
    pub range: *const c_char,
    /// Value when it is not given, a formula of sizes and parameters included; NULL: none.
    pub default_value: *const c_char,
    /// What it means.
    pub meaning: *const c_char,
}

/// One role of a mechanism.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct subquad_role_info {
    /// sizeof(subquad_role_info), set by the caller.
    pub struct_size: usize,
    /// The role: SUBQUAD_ROLE_....
    pub role: u32,
    /// On which side of a call it stands: SUBQUAD_KIND_....
    pub kind: u32,
    /// 1 if every call must bind it, else 0. (Parameters may ask for more; subquad_plan_execute says so.)
    pub required: u32,
    /// 1 if a gradient is defined, else 0.
    pub differentiable: u32,
    /// 1 for an output that the caller may give instead, else 0.
    pub also_input: u32,
    /// Zero.
    pub reserved: u32,
    /// Element type in the reference files, such as "f32".
    pub dtype: *const c_char,
    /// Shape, such as "B,Hk,S,D"; alternatives separated by " or ".
    pub shape: *const c_char,
    /// One role of those with the same group is needed; empty: no group.
    pub one_of: *const c_char,
    /// A remark, or empty.
    pub note: *const c_char,
}

// SAFETY: `repr(C)`, the size first, then numbers and pointers.
unsafe impl Versioned for subquad_mechanism_info {
    const NAME: &'static str = "subquad_mechanism_info";
    fn defaults() -> Self {
        subquad_mechanism_info {
            struct_size: size_of::<Self>(),
            name: null(),
            title: null(),
            page: null(),
            section: null(),
            same_as: null(),
            modes: 0,
            available: 0,
            n_params: 0,
            n_roles: 0,
            gradient: 0,
            reserved: 0,
        }
    }
}

// SAFETY: `repr(C)`, the size first, then numbers and pointers.
unsafe impl Versioned for subquad_param_info {
    const NAME: &'static str = "subquad_param_info";
    fn defaults() -> Self {
        subquad_param_info {
            struct_size: size_of::<Self>(),
            name: null(),
            kind: 0,
            required: 0,
            range: null(),
            default_value: null(),
            meaning: null(),
        }
    }
}

// SAFETY: `repr(C)`, the size first, then numbers and pointers.
unsafe impl Versioned for subquad_role_info {
    const NAME: &'static str = "subquad_role_info";
    fn defaults() -> Self {
        subquad_role_info {
            struct_size: size_of::<Self>(),
            role: 0,
            kind: 0,
            required: 0,
            differentiable: 0,
            also_input: 0,
            reserved: 0,
            dtype: null(),
            shape: null(),
            one_of: null(),
            note: null(),
        }
    }
}

/// Number of mechanisms in the catalogue, those that this version does not compute included.
///
/// Thread-safe. Allocates: on the first call. Since 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn subquad_mechanism_count() -> usize {
    boundary::value(0, || text::tables().mechanisms.len())
}

fn mechanism(index: usize) -> Result<&'static MechanismText> {
    let fault =
        Fault::invalid(Place::argument("index"), index as i128, "less than subquad_mechanism_count()");
    text::tables().mechanisms.get(index).ok_or(fault)
}

/// Describes the mechanism with this index, below subquad_mechanism_count.
///
/// The caller sets out->struct_size first. Returns NULL_POINTER, INVALID_ARGUMENT (`index`), WRONG_STRUCT,
/// INTERNAL. Thread-safe. Allocates: on the first call. Since 0.1.0.
///
/// # Safety
/// `out` is NULL or writable for its struct_size; `err` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_mechanism_get_info(
    index: usize,
    out: *mut subquad_mechanism_info,
    err: *mut subquad_error,
) -> subquad_status {
    let body = || {
        let known = mechanism(index)?;
        let value = subquad_mechanism_info {
            name: known.name.as_ptr(),
            title: known.title.as_ptr(),
            page: known.page.as_ptr(),
            section: known.section.as_ptr(),
            same_as: known.same_as.as_ptr(),
            modes: known.row.modes.iter().fold(0, |bits, &mode| bits | mode as u32),
            available: known.available.into(),
            n_params: known.params.len() as u32,
            n_roles: known.roles.len() as u32,
            gradient: known.row.gradient.into(),
            ..subquad_mechanism_info::defaults()
        };
        // SAFETY: null or writable for its size, says the caller.
        unsafe { sized::write(out, "out", value) }
    };
    // SAFETY: `err` is null or writable.
    unsafe { boundary::status(err, body) }
}

/// Describes parameter `i` of the mechanism with this index.
///
/// The caller sets out->struct_size first. Returns NULL_POINTER, INVALID_ARGUMENT (`index`, `i`),
/// WRONG_STRUCT, INTERNAL. Thread-safe. Allocates: on the first call. Since 0.1.0.
///
/// # Safety
/// `out` is NULL or writable for its struct_size; `err` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_mechanism_param(
    index: usize,
    i: u32,
    out: *mut subquad_param_info,
    err: *mut subquad_error,
) -> subquad_status {
    let body = || {
        let known = mechanism(index)?;
        let Some((row, texts)) = known.row.params.iter().zip(&known.params).nth(i as usize) else {
            return Err(Fault::invalid(Place::argument("i"), i, "less than n_params of the mechanism"));
        };
        let value = subquad_param_info {
            name: texts.name.as_ptr(),
            kind: param_kind(row.kind),
            required: (row.default == Default::Required).into(),
            range: texts.range.as_ptr(),
            default_value: texts.default.as_ref().map_or(null(), |text: &CString| text.as_ptr()),
            meaning: texts.meaning.as_ptr(),
            ..subquad_param_info::defaults()
        };
        // SAFETY: null or writable for its size, says the caller.
        unsafe { sized::write(out, "out", value) }
    };
    // SAFETY: `err` is null or writable.
    unsafe { boundary::status(err, body) }
}

fn param_kind(kind: ParamKind) -> u32 {
    match kind {
        ParamKind::Int | ParamKind::U64 | ParamKind::Bool => SUBQUAD_PARAM_INT,
        ParamKind::Real => SUBQUAD_PARAM_REAL,
        ParamKind::Word => SUBQUAD_PARAM_WORD,
        ParamKind::Ints | ParamKind::U64s => SUBQUAD_PARAM_INTS,
        ParamKind::Reals => SUBQUAD_PARAM_REALS,
        ParamKind::Words => SUBQUAD_PARAM_WORDS,
    }
}

/// Describes role `i` of the mechanism with this index.
///
/// The caller sets out->struct_size first. Returns NULL_POINTER, INVALID_ARGUMENT (`index`, `i`),
/// WRONG_STRUCT, INTERNAL. Thread-safe. Allocates: on the first call. Since 0.1.0.
///
/// # Safety
/// `out` is NULL or writable for its struct_size; `err` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_mechanism_role(
    index: usize,
    i: u32,
    out: *mut subquad_role_info,
    err: *mut subquad_error,
) -> subquad_status {
    let body = || {
        let known = mechanism(index)?;
        let Some((row, texts)) = known.row.roles.iter().zip(&known.roles).nth(i as usize) else {
            return Err(Fault::invalid(Place::argument("i"), i, "less than n_roles of the mechanism"));
        };
        let value = subquad_role_info {
            role: row.role.id(),
            kind: role_kind(row.kind),
            required: row.required.into(),
            differentiable: row.differentiable.into(),
            also_input: row.also_input.into(),
            dtype: texts.dtype.as_ptr(),
            shape: texts.shape.as_ptr(),
            one_of: texts.one_of.as_ptr(),
            note: texts.note.as_ptr(),
            ..subquad_role_info::defaults()
        };
        // SAFETY: null or writable for its size, says the caller.
        unsafe { sized::write(out, "out", value) }
    };
    // SAFETY: `err` is null or writable.
    unsafe { boundary::status(err, body) }
}

fn role_kind(kind: RoleKind) -> u32 {
    match kind {
        RoleKind::Input => SUBQUAD_KIND_INPUT,
        RoleKind::Output => SUBQUAD_KIND_OUTPUT,
        RoleKind::StateIn => SUBQUAD_KIND_STATE_IN,
        RoleKind::StateOut => SUBQUAD_KIND_STATE_OUT,
        RoleKind::GradOutput => SUBQUAD_KIND_GRAD_OUTPUT,
    }
}
