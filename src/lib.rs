//! Sub-quadratic attention on the CPU.
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks, clippy::missing_safety_doc)]

pub mod catalog;
mod error;
#[doc(hidden)]
pub mod kernel;
pub mod simd;
mod tensor;

pub use catalog::{Mode, Role};
pub use error::{Error, Result, Status};
pub use simd::Isa;
pub use tensor::{DType, Element, Layout, MAX_RANK, View, ViewMut};

/// Tokens of a chunk: one AVX-512 vector of scores, and the best length on a core whose L1 holds a panel of
/// the state (`docs/spec/linear.md` 1.6).
pub(crate) const CHUNK: usize = 16;
