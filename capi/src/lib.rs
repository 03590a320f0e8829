//! The C ABI of subquad: pointers and numbers in, checked views out, and a status back.
//!
//! `include/subquad.h` is generated from the doc comments of this crate by `tests/header.rs`, one section per
//! module. Nothing here computes: each function turns C arguments into those of the Rust API, inside a
//! boundary that catches panics ([`boundary`]) and fills the caller's [`subquad_error`]. Shapes, roles and
//! ranges are checked by the library's plan; this crate checks what only C can get wrong: null pointers,
//! struct sizes, reserved fields, numbers that are no enumerator.
//!
//! The functions can also be called from Rust, through the rlib.
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks, clippy::missing_safety_doc)]
#![allow(non_camel_case_types, reason = "the types carry their C names")]

mod backward;
mod boundary;
mod catalogue;
mod context;
mod desc;
mod fault;
mod plan;
mod role;
mod role_ids;
mod run;
mod segments;
mod sized;
mod state;
mod status;
mod tensor;
mod text;
mod threads;
mod version;

pub use backward::*;
pub use catalogue::*;
pub use context::*;
pub use desc::*;
pub use plan::*;
pub use role::*;
pub use role_ids::*;
pub use run::*;
pub use segments::*;
pub use state::*;
pub use status::*;
pub use tensor::*;
pub use threads::*;
pub use version::*;

// In C a function cannot have the name of a typedef, so the getters are called `..._get_info` there.
#[doc(hidden)]
pub use catalogue::subquad_mechanism_get_info as subquad_mechanism_info;
#[doc(hidden)]
pub use plan::subquad_plan_get_info as subquad_plan_info;
