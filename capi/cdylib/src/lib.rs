//! The C libraries: nothing but the exported functions of `subquad-capi`.
pub use subquad_capi::*;
