//! Element types, products on pairs of bf16, conversion.

mod bf16_dot;
#[path = "../common/mod.rs"]
mod common;
mod convert;
mod forward;
