//! Sub-quadratic attention on the CPU: describe a problem, plan it, run it.
//!
//! ```
//! use subquad::{Args, Context, ContextOptions, Desc, Mode, Plan, Role, View, ViewMut};
//!
//! let context = Context::new(ContextOptions::new())?;
//! let desc = Desc::new("simple_gla").heads(2, 2, 2).dims(32, 32);
//! let plan = Plan::new(&context, &desc)?;
//!
//! let (t, shape) = (100, [1, 2, 100, 32]);
//! let (q, k, v) = (vec![0.1; 6400], vec![0.2; 6400], vec![0.3; 6400]);
//! let g = vec![-0.05; 2 * t];
//! let mut out = vec![0.0; 6400];
//! let args = Args::new()
//!     .input(Role::Q, View::new(&q, &shape)?)
//!     .input(Role::K, View::new(&k, &shape)?)
//!     .input(Role::V, View::new(&v, &shape)?)
//!     .input(Role::G, View::new(&g, &[1, 2, 100])?)
//!     .output(Role::OUT, ViewMut::new(&mut out, &shape)?);
//! plan.execute(Mode::Causal, &args, &mut vec![0; plan.workspace_size()])?;
//! # Ok::<(), subquad::Error>(())
//! ```
//!
//! [`catalog`] lists mechanisms, parameters and roles by the names of `docs/spec`; [`Plan::execute`] is the one
//! call of every mechanism. The layers, and one call's way through them, are in `docs/architecture.md`.
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks, clippy::missing_safety_doc)]

mod args;
pub mod catalog;
mod context;
mod desc;
mod engine;
mod error;
#[doc(hidden)]
pub mod kernel;
mod mechanism;
mod parallel;
mod plan;
pub mod simd;
mod tensor;
mod workspace;

pub use args::{Args, MAX_TENSORS};
pub use catalog::{Mode, Role};
pub use context::{Caches, Context, ContextOptions};
pub use desc::{Desc, Flags, Modes, Value};
pub use error::{Error, Result, Status};
pub use parallel::{Runner, Serial, ThreadPool};
pub use plan::{Plan, PlanInfo, StateComponent, StateLayout};
pub use simd::Isa;
pub use tensor::{DType, Element, Layout, MAX_RANK, View, ViewMut, convert_state};

/// Tokens of a chunk: one AVX-512 vector of scores, and the best length on a core whose L1 holds a panel of
/// the state (`docs/spec/linear.md` 1.6).
pub(crate) const CHUNK: usize = 16;

/// Names of the mechanisms that this version computes, in the catalogue's order.
pub fn mechanisms() -> impl Iterator<Item = &'static str> {
    mechanism::ENTRIES.iter().map(|entry| entry.name)
}
