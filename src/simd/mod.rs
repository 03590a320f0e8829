//! Instruction sets and vector mathematics.

pub(crate) mod convert;
mod isa;
pub mod math;
pub(crate) mod mem;
pub(crate) mod reduce;

pub use isa::{Isa, available};
