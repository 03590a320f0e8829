//! Engines: blocking, partition into tasks, and the loop nests over tiles.
//!
//! A mechanism hands over [`Settings`]: an engine and how to set it. Planning turns them into an [`Engine`],
//! which runs checked calls.

pub(crate) mod call;
pub(crate) mod conv;
pub(crate) mod gate;
pub(crate) mod gated_unit;
pub(crate) mod linear;
pub(crate) mod orthogonal_memory;
pub(crate) mod segments;
pub(crate) mod slots;
pub(crate) mod softmax;

use crate::context::Context;
use crate::error::{Error, Result};
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
    /// Element type of `q`, `k` and `v`.
    pub dtype_qkv: DType,
    /// Element type of `out`.
    pub dtype_out: DType,
    /// Operands may be rounded to `bf16`.
    pub bf16_dot: bool,
}

/// The engine of a mechanism and its settings.
#[derive(Clone, Debug)]
pub(crate) enum Settings {
    Linear(linear::Recurrence),
    Gate(gate::Form),
    Conv(conv::Settings),
    Slots(slots::Memory),
    OrthogonalMemory(orthogonal_memory::Basis),
    Segments(segments::Settings),
    Softmax(softmax::Attention),
    GatedUnit(gated_unit::Unit),
}

impl Settings {
    /// Blocking and tiles for these extents on the machine of `context`.
    pub fn plan(&self, context: &Context, extents: Extents) -> Result<Box<dyn Engine>> {
        match self {
            Settings::Linear(recurrence) => {
                Ok(Box::new(linear::Linear::plan(context, *recurrence, extents)?))
            }
            Settings::Gate(form) => Ok(Box::new(gate::Gate::plan(context, *form, extents)?)),
            Settings::Conv(settings) => Ok(Box::new(conv::Conv::plan(context, *settings, extents)?)),
            Settings::Slots(memory) => Ok(Box::new(slots::Slots::plan(context, *memory, extents)?)),
            Settings::OrthogonalMemory(basis) => {
                Ok(Box::new(orthogonal_memory::OrthogonalMemory::plan(context, *basis, extents)?))
            }
            Settings::Segments(settings) => {
                Ok(Box::new(segments::Segments::plan(context, *settings, extents)?))
            }
            Settings::Softmax(settings) => Ok(Box::new(softmax::Softmax::plan(context, *settings, extents)?)),
            Settings::GatedUnit(unit) => Ok(Box::new(gated_unit::GatedUnit::plan(context, *unit, extents)?)),
        }
    }

    /// Whether tensors of 16-bit types are converted on their way in and out. Other engines take `f32` only.
    pub fn converts(&self) -> bool {
        match self {
            Settings::Linear(_)
            | Settings::Slots(_)
            | Settings::OrthogonalMemory(_)
            | Settings::Softmax(_)
            | Settings::Gate(_)
            | Settings::Conv(_)
            | Settings::Segments(_) => true,
            // The linear part waits in the output, and may not be rounded there.
            Settings::GatedUnit(unit) => unit.blocks.is_none(),
        }
    }

    /// Features of a row of `d` channels, where the engine makes them.
    pub fn n_features(&self, d: usize) -> Option<usize> {
        match self {
            Settings::Linear(recurrence) => Some(recurrence.n_features(d)),
            _ => None,
        }
    }

    /// Where positions count: that of a sequence's first row, and the largest that there may be.
    pub fn positions(&self) -> Option<(i64, f64)> {
        match self {
            Settings::Linear(recurrence) => recurrence.features.positions(),
            _ => None,
        }
    }

    /// Whether causal mode takes fewer queries than keys: they are the last positions.
    pub fn right_aligned(&self) -> bool {
        match self {
            Settings::Linear(recurrence) => recurrence.right_aligned,
            Settings::Softmax(_) | Settings::GatedUnit(_) => true,
            _ => false,
        }
    }

    /// Whether packed sequences of mode causal may have more keys than queries.
    pub fn keys_run_ahead(&self) -> bool {
        matches!(self, Settings::Softmax(_))
    }

    /// Most keys of a sequence, where there is a bound.
    pub fn most_keys(&self) -> Option<i64> {
        match self {
            Settings::Softmax(attention) => attention.most_keys(),
            _ => None,
        }
    }

    /// Whether a step reads all keys so far, and not a state that sums them up.
    pub fn reads_cache(&self) -> bool {
        matches!(self, Settings::Softmax(_) | Settings::GatedUnit(_))
    }

    /// Whether the keys that it reads may lie in pages or in a ring.
    pub fn maps_keys(&self) -> bool {
        matches!(self, Settings::Softmax(attention) if attention.maps_keys())
    }

    /// Whether the queries of a sequence may come in pieces, by their number.
    pub fn counts_queries(&self) -> bool {
        matches!(self, Settings::Softmax(attention) if attention.counts_queries())
    }

    /// Whether backward takes `out` and `lse` of forward, where a call has them.
    pub fn takes_outputs(&self) -> bool {
        matches!(self, Settings::Softmax(attention) if attention.form == softmax::Form::Plain)
    }

    /// Whether queries see rows besides the keys of their sequence.
    pub fn has_memory(&self) -> bool {
        matches!(self, Settings::Softmax(attention) if attention.form == softmax::Form::Memory)
    }

    /// Whether distances of queries and keys count, so that there may not be more queries than keys in any mode.
    pub fn is_windowed(&self) -> bool {
        match self {
            Settings::Softmax(attention) => attention.is_windowed(),
            Settings::GatedUnit(_) => true,
            _ => false,
        }
    }

    /// The parameter that cuts a sequence into equal parts, with its value; such an engine takes neither ragged
    /// batches nor pooled states.
    pub fn equal_parts(&self) -> Option<(&'static str, usize)> {
        match self {
            Settings::Segments(settings) => Some(("ranks", settings.ranks)),
            _ => None,
        }
    }
}

/// What a segment of a sequence does to an incoming state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transition {
    /// It can't be said by a linear map of the state.
    None,
    /// Nothing.
    Same,
    /// One factor per head.
    Factor,
    /// One factor per row of the state.
    Diagonal,
    /// A matrix in front of it.
    Matrix,
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

    /// Elements of workspace that backward needs for these lengths, all workers together; `None`: no gradient.
    fn backward_len(&self, _sequences: usize, _n_q: usize, _n_k: usize, _workers: usize) -> Option<usize> {
        None
    }

    /// Runs a checked backward call: inputs as forward without `out`, `dout`, and the gradients that are wanted.
    fn backward(&self, _runner: &dyn Runner, _call: &Call, _workspace: &Workspace) -> Result<()> {
        Err(Error::Internal("the engine has no gradient"))
    }
}
