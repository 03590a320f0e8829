//! Instruction sets and vector mathematics.

pub(crate) mod convert;
mod denormal;
mod isa;
pub mod math;
pub(crate) mod mem;
mod prefetch;
pub(crate) mod reduce;

pub(crate) use denormal::DenormalGuard;
pub use isa::{Isa, available};
pub(crate) use prefetch::prefetch;
