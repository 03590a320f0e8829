//! The linear engine: one decayed, corrected rank-1 recurrence, chunked (`docs/spec/linear.md` 1).
//!
//! ```text
//! S̃_t = diag(α_t) S_{t−1} diag(γ_t)      S_t = S̃_t + k_t (x_t − S̃_tᵀ e_t)ᵀ      y_t = scale · q_tᵀ S_t
//! ```
//!
//! and two relatives: a correction that is read before the decay and written along a vector of its own (RWKV-7),
//! `S_t = S̃_t + k_t x_tᵀ + b_t (S_{t−1}ᵀ a_t)ᵀ`, and a read of `S_{t−1} + diag(u) k_t x_tᵀ` (RWKV-6).
//!
//! A mechanism is a [`Recurrence`]: which of the pieces it uses. The loop nest is the page's, for one
//! sequence and state head ([`scan`]):
//!
//! ```text
//! for each block of chunks:
//!     for each chunk of 16 tokens:               prepare.rs
//!         features, decay factors, scores A and B, Q ⊙ P, K ⊙ F, −e ⊙ P, denominators
//!     for each panel of value columns:           scan.rs; the panel of S stays in L1
//!         for each chunk:
//!             U = gain·V − (e ⊙ P) S             one matmul (correction only)
//!             U = solve (I + B) U                forward substitution (correction only)
//!             Y = (Q ⊙ P) S + tril(A) U          one matmul
//!             S = P_C ⊙ S + (K ⊙ F)ᵀ U           one matmul
//! ```
//!
//! With two writes per token, the second ones `[b ⊙ F]` stand below the keys and what they write, `r`, below
//! the values, so that the state is still updated by one matmul:
//!
//! ```text
//!             R = (a ⊙ P⁻) S + N X               one matmul, N = stril(a L⁻ K)
//!             R = solve (I − M) R                forward substitution, M = stril(a L⁻ b)
//!             Y = (Q ⊙ P) S + tril(A) X + tril(Q L b) R
//!             S = P_C ⊙ S + [K ⊙ F; b ⊙ F]ᵀ [X; R]
//! ```
//!
//! Modes without an order of tokens run the same nest twice, once only writing the state and once only
//! reading it. A step prepares a chunk of one token and reads and writes the caller's state in place
//! (`step.rs`). Norms of the output are a last pass over it (`norm.rs`), or, where it has 16 bits, done segment
//! by segment before it is rounded (`normed.rs`). Gradients walk the chunks back (`backward/`).
//!
//! *Element types*: operands are converted where they are loaded and stored (`tiles.rs`); all arithmetic is `f32`.
//!
//! *Tried and lost*: leaving a scalar decay as factors of rows inside the matrix tile, so that neither `Q ⊙ P`
//! nor erase rows are formed: `U ⊙ F` has to be formed per panel instead, and `gated_delta_rule` at
//! `D = E = 128` went from 1103 to 1123 ns per token and head (AVX-512, one Zen 4 core).
//!
//! *Tasks*: sequence × state head, and where the context has several workers and heads are few, groups of
//! panels of a head without a normaliser. A task owns its columns from start to end, so no bit depends on the
//! partition.
//! *Cost*: `docs/spec/linear.md` 1.6. *Workspace*: independent of the length.

mod backward;
mod call;
mod denominator;
mod dots;
mod features;
mod geometry;
mod norm;
mod normed;
mod prepare;
mod recurrence;
mod scan;
mod segment;
mod shift;
mod snapshot;
mod state;
mod step;
mod tiles;

pub use backward::{Grads, softmax_gradient};
pub use call::{Call, Snapshots, Tensors};
pub use denominator::DenominatorMode;
pub use features::{FeatureMap, Features, L2Mode, L2Norm, Projection};
pub use recurrence::{Correction, Decay, Gain, Normaliser, Recurrence};
pub use scan::Pass;
pub use segment::Carry;
pub use tiles::{Rows, Tiles};

use super::call::{self as shared, Heads, Sequence};
use super::{Engine, Extents};
use crate::context::Context;
use crate::error::Result;
use crate::parallel::{self, Runner};
use crate::tensor::DType;
use crate::workspace::Workspace;
use backward::Backward;
use geometry::Geometry;
use normed::Normed;
use std::ops::Range;
use std::sync::Arc;

/// A recurrence with its blocking and tiles.
#[derive(Clone, Debug)]
pub struct Linear {
    recurrence: Recurrence,
    heads: Heads,
    geometry: Geometry,
    tiles: Tiles,
    /// The matrix of a cosine transform; empty where there is none.
    transform: Arc<[f32]>,
    parallel: bool,
    /// Whether `q`, `k` and `v` have 16 bits.
    narrow: bool,
    backward: Option<Backward>,
}

/// What one task works on: a state head of a sequence, and which of its panels.
///
/// An engine that runs several recurrences in one loop makes its units itself: [`Unit::new`], then
/// `load_state`, [`Unit::run`] for each run of tokens, `store_state`. Between them the state lies in the
/// worker's memory, so a unit may be made anew for every run, with other tensors. Snapshots of the state are taken
/// where it is loaded and while it runs.
pub struct Unit<'a> {
    engine: &'a Linear,
    call: &'a Call,
    sequence: Sequence,
    /// State head.
    head: usize,
    panels: Range<usize>,
    /// This worker's buffers.
    memory: *mut f32,
}

/// Enough tasks to keep several workers even, when panels have to be split to get them.
const MIN_TASKS: usize = 16;
/// State elements that one task of steps should cover: some tens of microseconds.
pub const STEP_GRAIN: usize = 1 << 16;

impl Engine for Linear {
    fn kernel_name(&self) -> &'static str {
        match (self.recurrence.corrects(), self.geometry.dots) {
            (true, false) => "linear:matmul+solve_f32",
            (true, true) => "linear:matmul_bf16+solve_f32",
            (false, false) => "linear:matmul_f32",
            (false, true) => "linear:matmul_bf16",
        }
    }

    fn chunk(&self) -> usize {
        crate::CHUNK
    }

    fn panel(&self) -> usize {
        self.geometry.panel
    }

    fn workspace_len(&self) -> usize {
        self.geometry.len
    }

    fn execute(&self, runner: &dyn Runner, call: &shared::Call, workspace: &Workspace) -> Result<()> {
        let call = &Call::new(call, &self.recurrence);
        if self.geometry.normed {
            return self.run_normed(runner, call, workspace);
        }
        if call.step && self.steps_in_place(call) {
            self.run_steps(runner, call, workspace)?;
        } else {
            self.run_scans(runner, call, workspace)?;
        }
        self.run_norm(runner, call, workspace)
    }

    fn backward_len(&self, sequences: usize, n_q: usize, n_k: usize, workers: usize) -> Option<usize> {
        self.backward_workspace(sequences, (n_q, n_k), workers)
    }

    fn backward(&self, runner: &dyn Runner, call: &shared::Call, workspace: &Workspace) -> Result<()> {
        self.run_backward(runner, call, workspace)
    }
}

impl Linear {
    /// Blocking and tiles for these extents on the machine of `context`.
    pub fn plan(context: &Context, recurrence: Recurrence, extents: Extents) -> Result<Linear> {
        let heads = extents.heads;
        let extents =
            Extents { bf16_dot: extents.bf16_dot && dots::pays(context.isa(), &recurrence), ..extents };
        let geometry = Geometry::new(&recurrence, &extents, context.caches())?;
        let tiles = Tiles::new(context.isa(), &recurrence);
        let parallel = context.max_workers() > 1;
        let cosine = recurrence.features.projection == Projection::Cosine;
        let transform = if cosine { features::dct(extents.d)? } else { Arc::default() };
        let narrow = extents.dtype_qkv != DType::F32;
        let engine =
            Linear { recurrence, heads, geometry, tiles, transform, parallel, narrow, backward: None };
        let backward = Backward::new(context.isa(), &engine);
        Ok(Linear { backward, ..engine })
    }

    /// Elements of one head's state.
    pub fn state_len(&self) -> usize {
        self.geometry.m * self.geometry.e
    }

    /// Runs every unit of a call as a scan.
    pub fn run_scans(&self, runner: &dyn Runner, call: &Call, workspace: &Workspace) -> Result<()> {
        let units = call.n_sequences() * self.heads.state;
        let n_panels = self.geometry.n_panels;
        // Panels of a head share its normaliser, which may be carried in place: the task that stores it must
        // not come before one that loads it, so such a head stays in one task.
        let divisible = self.parallel && units > 0 && !self.recurrence.has_denominator();
        let splits = if divisible { MIN_TASKS.div_ceil(units).clamp(1, n_panels) } else { 1 };
        parallel::run(runner, units * splits, &|task, worker| {
            let (unit, split) = (task / splits, task % splits);
            let panels = split * n_panels / splits..(split + 1) * n_panels / splits;
            if let Some(unit) = self.unit(call, unit, panels, workspace.worker(worker)) {
                scan::scan(&unit);
            }
        })
    }

    fn run_steps(&self, runner: &dyn Runner, call: &Call, workspace: &Workspace) -> Result<()> {
        let units = call.n_sequences() * self.heads.state;
        let grain = self.step_grain();
        parallel::run(runner, units.div_ceil(grain), &|task, worker| {
            for unit in task * grain..units.min((task + 1) * grain) {
                let panels = 0..self.geometry.n_panels;
                if let Some(unit) = self.unit(call, unit, panels, workspace.worker(worker)) {
                    step::step(&unit);
                }
            }
        })
    }

    /// Scans and steps whose outputs are normalised before they are rounded.
    fn run_normed(&self, runner: &dyn Runner, call: &Call, workspace: &Workspace) -> Result<()> {
        let groups = self.heads.state / self.geometry.heads;
        let tasks = call.n_sequences() * groups;
        let grain = if call.step { self.step_grain() } else { 1 };
        parallel::run(runner, tasks.div_ceil(grain), &|task, worker| {
            for task in task * grain..tasks.min((task + 1) * grain) {
                let first = task % groups * self.geometry.heads;
                let heads = first..first + self.geometry.heads;
                if let Some(sequence) = call.sequence(task / groups) {
                    Normed::new(self, call, sequence, heads, workspace.worker(worker)).run();
                }
            }
        })
    }

    /// Units of one task of steps.
    fn step_grain(&self) -> usize {
        (STEP_GRAIN / (self.state_len() * self.geometry.heads)).max(1)
    }

    fn run_norm(&self, runner: &dyn Runner, call: &Call, workspace: &Workspace) -> Result<()> {
        if !norm::wanted(&self.recurrence) {
            return Ok(());
        }
        let tasks = norm::Tasks::new(self, call);
        parallel::run(runner, tasks.len(), &|task, worker| tasks.run(task, workspace.worker(worker)))
    }

    fn unit<'a>(
        &'a self,
        call: &'a Call,
        unit: usize,
        panels: Range<usize>,
        memory: *mut f32,
    ) -> Option<Unit<'a>> {
        let sequence = call.sequence(unit / self.heads.state)?;
        Some(Unit { engine: self, call, sequence, head: unit % self.heads.state, panels, memory })
    }
}

impl<'a> Unit<'a> {
    /// All columns of one state head. `memory` has [`Engine::workspace_len`] elements.
    pub fn new(
        engine: &'a Linear,
        call: &'a Call,
        sequence: Sequence,
        head: usize,
        memory: *mut f32,
    ) -> Unit<'a> {
        Unit { engine, call, sequence, head, panels: 0..engine.geometry.n_panels, memory }
    }

    /// Runs some tokens on the state that is in the worker's memory.
    pub fn run(&self, pass: Pass) {
        scan::run(self, pass);
    }

    /// Runs the one token of a step on the caller's state, where [`Linear::steps_in_place`] allows it.
    pub fn step(&self) {
        step::step(self);
    }
}

impl Unit<'_> {
    /// A buffer of this worker, `offset` elements from its start.
    fn buffer(&self, offset: usize) -> *mut f32 {
        self.memory.wrapping_add(offset)
    }

    /// A buffer that this head carries from token to token: its state, normaliser or shift.
    fn carried(&self, offset: usize) -> *mut f32 {
        let nth = self.head % self.geometry().heads;
        self.buffer(offset + nth * self.geometry().carried)
    }

    fn geometry(&self) -> &Geometry {
        &self.engine.geometry
    }

    fn recurrence(&self) -> &Recurrence {
        &self.engine.recurrence
    }

    fn tiles(&self) -> &Tiles {
        &self.engine.tiles
    }

    /// Head of `k`, or of `v` where `n` is their number, that this state head reads.
    fn shared_head(&self, n: usize) -> usize {
        Heads::shared(self.head, self.engine.heads.state, n, self.recurrence().cyclic_heads)
    }

    /// Output head `set` of this state head.
    fn output_head(&self, set: usize) -> usize {
        self.engine.heads.output(self.head, set, self.recurrence().cyclic_heads)
    }

    /// Query head that output head `set` reads.
    fn query_head(&self, set: usize) -> usize {
        let heads = &self.engine.heads;
        Heads::shared(self.output_head(set), heads.out, heads.q, self.recurrence().cyclic_heads)
    }
}
