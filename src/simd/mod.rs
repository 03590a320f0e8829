//! Instruction sets and vector mathematics.

mod denormal;
mod isa;

pub(crate) use denormal::DenormalGuard;
pub use isa::{Isa, available};
