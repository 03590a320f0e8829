//! Engines: blocking, partition into tasks, and the loop nests over tiles.
//!
//! A mechanism hands over [`Settings`]: an engine and how to set it. Planning turns them into an [`Engine`],
//! which runs checked calls.

pub(crate) mod call;
pub(crate) mod linear;

use crate::context::Context;
use crate::error::Result;
use crate::parallel::Runner;
use crate::tensor::DType;
use crate::workspace::Workspace;
use call::{Call, Heads};
use std::fmt::Debug;

/// Heads and dimensions that a plan fixes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extents {
    pub heads: Heads,
    /// Channels of `q` and `k`.
    pub d: usize,
    /// Channels of `v`.
    pub e: usize,
    /// Element type of `out`.
    pub dtype_out: DType,
}

/// The engine of a mechanism and its settings.
#[derive(Clone, Debug)]
pub(crate) enum Settings {
    Linear(linear::Recurrence),
}

impl Settings {
    /// Blocking and tiles for these extents on the machine of `context`.
    pub fn plan(&self, context: &Context, extents: Extents) -> Result<Box<dyn Engine>> {
        match self {
            Settings::Linear(recurrence) => {
                Ok(Box::new(linear::Linear::plan(context, *recurrence, extents)?))
            }
        }
    }

    /// Features of a row of `d` channels, where the engine makes them.
    pub fn n_features(&self, d: usize) -> Option<usize> {
        match self {
            Settings::Linear(recurrence) => Some(recurrence.n_features(d)),
        }
    }

    /// Whether causal mode takes fewer queries than keys: they are the last positions.
    pub fn right_aligned(&self) -> bool {
        match self {
            Settings::Linear(recurrence) => recurrence.right_aligned,
        }
    }
}

/// A planned engine. Immutable, shared between threads.
pub(crate) trait Engine: Debug + Send + Sync {
    /// The engine and its main tile, as `engine:tile`.
    fn kernel_name(&self) -> &'static str;

    /// Tokens of a chunk.
    fn chunk(&self) -> usize;

    /// Value columns of the state panel that stays in L1.
    fn panel(&self) -> usize;

    /// Elements of one worker's workspace.
    fn workspace_len(&self) -> usize;

    /// Runs a checked call.
    fn execute(&self, runner: &dyn Runner, call: &Call, workspace: &Workspace) -> Result<()>;
}
