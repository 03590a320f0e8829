//! Attention over a memory of `M` slots that is read by a softmax (`docs/spec/linear.md` 6, `docs/spec/sparse.md` 7).
//!
//! ```text
//! K̂_t = K̂_{t−1} diag(α_t) + k_t s_tᵀ      [D, M]      p_t = softmax_M(scale · q_tᵀ K̂_t)
//! V̂_t = diag(α_t) V̂_{t−1} + s_t v_tᵀ      [M, E]      o_t = p_tᵀ V̂_t
//! ```
//!
//! Two recurrences of the linear engine, the first with a decay of its value columns, the second with one of its
//! key channels, in one loop over *runs* of tokens ([`run`]):
//!
//! ```text
//! for each run of 64 tokens:
//!     α, s from the logits                        gates.rs, where the mechanism has logits
//!     Y = first recurrence (q, k; value s)        linear's loop nest, to a buffer [sets, 64, M]
//!     P = softmax of its rows
//!     O = second recurrence (P, s; value v)       the same loop nest
//! ```
//!
//! Modes without an order of tokens write all keys first, then read. A step is a run of one token, on the caller's
//! state where its columns are contiguous.
//!
//! *Numerics*: of the linear engine, and a softmax under the maximum of each row. *Tasks*: sequence × state head;
//! queries that share a state are its sets. Slots and value columns are not split: the softmax reads all slots, and
//! the second recurrence all of its rows. *Cost*: `4(DM + ME)` FLOPs per token and head, and inside a chunk
//! `C(D + 2M + E)`. *Workspace*: independent of the length. *Gradients*: `backward/`.

mod backward;
mod gates;
mod run;

use super::call::{self, Heads};
use super::linear::{Call, Decay, Linear, Recurrence, STEP_GRAIN, Snapshots, Tensors, Tiles};
use super::{Engine, Extents};
use crate::catalog::{Mode, Role};
use crate::context::Context;
use crate::error::Result;
use crate::parallel::{self, Runner};
use crate::tensor::{DType, Tensor};
use crate::workspace::{Carver, Workspace};
use gates::GateTiles;

/// Where the decay and the write weight of a slot come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gates {
    /// Roles `g` and `slot_write`; the key memory is kept `[D, M]`.
    Given,
    /// Role `slot_logits`, with the log of their running sum as a further state; the key memory is kept `[M, D]`.
    Logits,
}

/// Settings of a mechanism.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    pub n_slots: usize,
    /// Factor of the scores.
    pub scale: f32,
    pub gates: Gates,
}

/// Tokens of a run: four chunks, as many as the linear engine prepares at once, and few enough that the scores of
/// the run stay in L2.
const RUN: usize = 64;

/// A memory with its two recurrences.
#[derive(Debug)]
pub struct Slots {
    memory: Memory,
    heads: Heads,
    /// Channels of keys, and of values.
    d: usize,
    e: usize,
    /// Writes `k` under the slots' weights, reads scores.
    keys: Linear,
    /// Writes `v`, reads the output.
    values: Linear,
    tiles: Tiles,
    gate_tiles: GateTiles,
    at: Offsets,
    len: usize,
}

/// Offsets of a worker's buffers, in elements.
#[derive(Clone, Copy, Debug)]
struct Offsets {
    /// Elements between rows of slots.
    ldm: usize,
    /// Those of the two recurrences.
    keys: usize,
    values: usize,
    /// Scores, then their softmax `[sets, RUN, ldm]`.
    scores: usize,
    /// Log decay `[RUN, ldm]`, where it is made of logits.
    decay: usize,
    /// Write weights `[RUN, ldm]`, likewise.
    write: usize,
    /// Log of the running sum `[ldm]`, likewise.
    log_sum: usize,
}

impl Slots {
    /// The two recurrences for these extents on the machine of `context`.
    pub fn plan(context: &Context, memory: Memory, extents: Extents) -> Result<Slots> {
        let Extents { heads, d, e, .. } = extents;
        let m = memory.n_slots;
        let first = Recurrence { value_decay: true, scale: memory.scale, ..Recurrence::default() };
        let second = Recurrence { decay: Decay::Channel, ..Recurrence::default() };
        let keys = Linear::plan(
            context,
            first,
            Extents { e: m, dtype_out: DType::F32, bf16_dot: false, ..extents },
        )?;
        let values = Linear::plan(context, second, Extents { d: m, bf16_dot: false, ..extents })?;
        let ldm = m.next_multiple_of(16);
        let rows = if memory.gates == Gates::Logits { RUN } else { 0 };
        let mut carver = Carver::default();
        let at = Offsets {
            ldm,
            keys: carver.take(&[keys.workspace_len()]),
            values: carver.take(&[values.workspace_len()]),
            scores: carver.take(&[heads.sets(), RUN, ldm]),
            decay: carver.take(&[rows, ldm]),
            write: carver.take(&[rows, ldm]),
            log_sum: carver.take(&[rows.min(1), ldm]),
        };
        let (tiles, gate_tiles) = (Tiles::new(context.isa(), &second), GateTiles::new(context.isa()));
        Ok(Slots { memory, heads, d, e, keys, values, tiles, gate_tiles, at, len: carver.finish()? })
    }

    /// The call as the first recurrence sees it; what lies in the workspace is bound run by run.
    fn keys_call(&self, call: &call::Call) -> Call {
        let get = |role| call.tensors.get(role);
        let state = |role| get(role).map(|state| self.key_state(state));
        let tensors = Tensors {
            q: get(Role::Q),
            k: get(Role::K),
            v: get(Role::SLOT_WRITE),
            gv: get(Role::G),
            state_in: state(Role::STATE_K_IN),
            state_out: state(Role::STATE_K_OUT),
            ..Tensors::default()
        };
        let snapshots = snapshots(call, Role::STATE_K_OUT, |state| self.key_state(state));
        Call { snapshots, ..Call::with(call, tensors) }
    }

    /// The same for the second.
    fn values_call(call: &call::Call) -> Call {
        let get = |role| call.tensors.get(role);
        let tensors = Tensors {
            k: get(Role::SLOT_WRITE),
            v: get(Role::V),
            g: get(Role::G),
            out: get(Role::OUT),
            state_in: get(Role::STATE_V_IN),
            state_out: get(Role::STATE_V_OUT),
            ..Tensors::default()
        };
        let snapshots = snapshots(call, Role::STATE_V_OUT, |state| state);
        Call { snapshots, ..Call::with(call, tensors) }
    }

    /// The key memory as `[slots, Hk, D, M]`, or snapshots of it as `[n_sequences, N, Hk, D, M]`.
    fn key_state(&self, mut state: Tensor) -> Tensor {
        if self.memory.gates == Gates::Logits {
            let columns = state.layout.rank - 1;
            state.layout.shape.swap(columns - 1, columns);
            state.layout.stride.swap(columns - 1, columns);
        }
        state
    }
}

/// Snapshots of one of the two memories, as its recurrence sees them.
fn snapshots(call: &call::Call, role: Role, view: impl Fn(Tensor) -> Tensor) -> Option<Snapshots> {
    let times = call::Snapshots::of(call)?;
    let state = call.tensors.get(role.snapshots()).map(view);
    Some(Snapshots { times, state, z: None, shift: None })
}

impl Engine for Slots {
    fn kernel_name(&self) -> &'static str {
        "slots:matmul_f32"
    }

    fn chunk(&self) -> usize {
        self.values.chunk()
    }

    fn panel(&self) -> usize {
        self.values.panel()
    }

    fn workspace_len(&self) -> usize {
        self.len
    }

    fn execute(&self, runner: &dyn Runner, call: &call::Call, workspace: &Workspace) -> Result<()> {
        let (keys, values) = (self.keys_call(call), Slots::values_call(call));
        let shared = run::Shared { engine: self, call, keys: &keys, values: &values };
        let units = call.sequences.len() * self.heads.state;
        // Steps are short: some of them make a task.
        let grain = match call.mode {
            Mode::Step => (STEP_GRAIN / (self.keys.state_len() + self.values.state_len())).max(1),
            _ => 1,
        };
        parallel::run(runner, units.div_ceil(grain), &|task, worker| {
            for unit in task * grain..units.min((task + 1) * grain) {
                if let Some(sequence) = call.sequences.get(unit / self.heads.state) {
                    shared.run(sequence, unit % self.heads.state, workspace.worker(worker));
                }
            }
        })
    }

    fn backward_len(&self, _sequences: usize, n_q: usize, n_k: usize, workers: usize) -> Option<usize> {
        self.backward_layout((n_q, n_k))?.len.checked_mul(workers)
    }

    fn backward(&self, runner: &dyn Runner, call: &call::Call, workspace: &Workspace) -> Result<()> {
        self.run_backward(runner, call, workspace)
    }
}
