//! Instruction sets and vector mathematics.

mod isa;

pub use isa::{Isa, available};
