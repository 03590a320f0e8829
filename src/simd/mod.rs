//! Instruction sets and vector mathematics.

pub(crate) mod bf16;
pub(crate) mod convert;
mod denormal;
mod isa;
pub mod math;
pub(crate) mod mem;
pub mod prefetch;
pub(crate) mod reduce;
pub(crate) mod wide;

pub use bf16::has_bf16_dot;
pub(crate) use denormal::DenormalGuard;
pub use isa::{Isa, available};
pub(crate) use prefetch::prefetch;
