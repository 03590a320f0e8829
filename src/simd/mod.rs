//! Instruction sets and vector mathematics.

mod isa;
pub mod math;
pub(crate) mod mem;

pub use isa::{Isa, available};
