//! Gradients of a sequence in segments (`docs/spec/linear.md` 10), the segments at the same time.
//!
//! ```text
//! summaries   M_r, S⁰_r, and R_r, the gradient of segment r's incoming state if the outgoing one has none
//! fold        S_out,r = M_r S_in,r + S⁰_r           dS_in,r = M_rᵀ dS_out,r + R_r
//! segments    each from its S_in and dS_out, all at once
//! ```
//!
//! All of it is the linear engine's: `R` is its reverse pass without what only tokens get, for the last segment with the
//! caller's `dS_out`. Gradients of states go to `msg_grad`, to the workspace where that is not bound: what is wanted
//! changes no bit.
//!
//! *Cost*, FLOPs per token and head, beside the plain gradient: `4DE`; with a correction `10DE + 4DD`. *Workspace*, elements:
//! `2(ranks − 1)·B·H·D·E`, with a correction `(ranks − 1)·B·H·D·D` more, and what a segment's gradient takes per worker.

use super::{Job, Segments};
use crate::catalog::Role;
use crate::engine::call::Call;
use crate::engine::linear::{Carry, Decay, Grads};
use crate::error::{Error, Result};
use crate::parallel::{self, Runner};
use crate::tensor::{DType, Layout, Tensor};
use crate::workspace::{Carver, Workspace};

/// The workspace of a call, in elements.
pub(super) struct Regions {
    /// Outgoing states of all segments but the last, and gradients of the incoming ones of all but the first
    /// `[ranks − 1, B, H, D, E]`.
    states: usize,
    gradients: usize,
    /// Transitions of all segments but the last `[ranks − 1, B, H, D, D]`; nothing without a correction.
    transitions: usize,
    /// Gradients of the decay rates, in `f64` `[ranks, B, H]`.
    rates: usize,
    workers: usize,
    worker_len: usize,
    /// Elements in all.
    pub len: usize,
}

impl Segments {
    /// The workspace for so many sequences with segments of `n` tokens; `None`: no gradient, or none fits in memory.
    pub(super) fn regions(&self, sequences: usize, n: usize, workers: usize) -> Option<Regions> {
        let (extents, last) = (&self.summaries.extents, self.settings.ranks - 1);
        let state = [last, sequences, extents.heads.state, extents.d, extents.e];
        let matrix =
            [if self.settings.inner.corrects() { last } else { 0 }, state[1], state[2], state[3], state[3]];
        let mut one = Carver::default();
        one.take(&[self.inner().reverse_len((n, n))?.max(self.summaries.workspace_len())]);
        let worker_len = one.finish().ok()?;
        let mut all = Carver::default();
        let (states, gradients) = (all.take(&state), all.take(&state));
        let transitions = all.take(&matrix);
        let rates = all.take(&[2, self.settings.ranks, state[1], state[2]]);
        let first = all.take(&[workers, worker_len]);
        let len = all.finish().ok()?;
        Some(Regions { states, gradients, transitions, rates, workers: first, worker_len, len })
    }

    /// Runs a checked backward call.
    pub(super) fn run_backward(&self, runner: &dyn Runner, call: &Call, workspace: &Workspace) -> Result<()> {
        let ranks = self.settings.ranks;
        let sequences = call.sequences.batch;
        let regions = self.regions(sequences, call.sequences.n_q / ranks, runner.max_workers());
        let regions = regions.ok_or(Error::Internal("the engine has no gradient"))?;
        let base = workspace.worker(0);
        let extents = &self.summaries.extents;
        let tensor = |offset: usize, columns: usize| {
            let shape = [ranks - 1, sequences, extents.heads.state, extents.d, columns].map(|n| n as i64);
            let data = base.wrapping_add(offset).cast();
            Ok(Tensor { data, dtype: DType::F32, layout: Layout::contiguous(&shape)? })
        };
        let corrects = self.settings.inner.corrects();
        let reverse = Reverse {
            job: Job {
                states: Some(tensor(regions.states, extents.e)?),
                locals: None,
                transitions: if corrects { Some(tensor(regions.transitions, extents.d)?) } else { None },
                folds: true,
                ..Job::new(self, call)
            },
            grads: Grads::new(call.tensors, &self.settings.inner),
            messages: match call.tensors.get(Role::MSG_GRAD) {
                Some(tensor) => tensor,
                None => tensor(regions.gradients, extents.e)?,
            },
            rates: base.wrapping_add(regions.rates).cast(),
        };
        let (job, units, last) = (&reverse.job, reverse.job.units(), ranks - 1);
        let memory =
            |worker: usize| workspace.worker(0).wrapping_add(regions.workers + worker * regions.worker_len);
        let kinds = if corrects { 3 } else { 2 };
        parallel::run(runner, kinds * last * units, &|task, worker| {
            let (kind, task) = (task / (last * units), task % (last * units));
            let (rank, unit, memory) = (task / units, task % units, memory(worker));
            match kind {
                0 => reverse.local(rank + 1, unit, memory),
                1 => job.summarise(rank, unit, memory),
                _ => job.transit(rank, unit, memory),
            }
        })?;
        parallel::run(runner, units, &|unit, worker| {
            job.fold(unit, memory(worker));
            reverse.fold(unit, memory(worker));
        })?;
        parallel::run(runner, ranks * units, &|task, worker| {
            reverse.segment(task / units, task % units, memory(worker));
        })?;
        reverse.store_rates();
        Ok(())
    }
}

/// The forward pass as segments, and the gradients.
struct Reverse<'a> {
    job: Job<'a>,
    grads: Grads,
    /// Gradients of the incoming states of all segments but the first.
    messages: Tensor,
    /// Of the decay rates `[ranks, B, H]`.
    rates: *mut f64,
}

// SAFETY: every task writes rates of its own, and nothing else through the pointer.
unsafe impl Sync for Reverse<'_> {}

impl Reverse<'_> {
    fn heads(&self) -> usize {
        self.job.engine.summaries.extents.heads.state
    }

    /// The gradients of one segment's tokens, and of its incoming state.
    fn block(&self, rank: usize) -> Grads {
        let tokens = |tensor: Option<Tensor>| tensor.map(|tensor| tensor.from(2, rank * self.job.n));
        let mut grads = self.grads;
        let t = &mut grads.0;
        (t.q, t.k, t.v, t.out, t.beta) =
            (tokens(t.q), tokens(t.k), tokens(t.v), tokens(t.out), tokens(t.beta));
        if self.job.engine.settings.inner.decay != Decay::Head {
            t.g = tokens(t.g);
        }
        if rank < self.job.last() {
            t.state_out = Some(self.messages.index(rank));
        }
        if rank > 0 {
            t.state_in = Some(self.messages.index(rank - 1));
        }
        grads
    }

    /// What a segment gives to the gradient of its incoming state by itself, the last one all of it.
    fn local(&self, rank: usize, unit: usize, memory: *mut f32) {
        let (call, mut grads) = (self.job.block(rank), self.block(rank));
        if rank < self.job.last() {
            grads.0.state_out = None;
        }
        if let Some(sequence) = call.sequence(unit / self.heads()) {
            self.job.engine.inner().reverse_state(&call, &grads, sequence, unit % self.heads(), memory);
        }
    }

    /// Gradients of the incoming states, from the last but one to the second segment.
    fn fold(&self, unit: usize, memory: *mut f32) {
        let at = [unit / self.heads(), unit % self.heads()];
        for rank in (1..self.job.last()).rev() {
            let (incoming, out) = (self.messages.index(rank), self.messages.index(rank - 1));
            let transition = self.job.transitions.map(|tensor| {
                let mut transposed = tensor.index(rank);
                transposed.layout.stride.swap(2, 3);
                transposed
            });
            let carry = match &transition {
                Some(matrix) => Carry::Matrix(matrix),
                None => Carry::Value(self.job.decay(rank, at)),
            };
            self.job.engine.inner().combine(at, carry, Some(&incoming), &out, &out, memory);
        }
    }

    /// All gradients of a segment.
    fn segment(&self, rank: usize, unit: usize, memory: *mut f32) {
        let (mut call, mut grads) = (self.job.block(rank), self.block(rank));
        call.tensors.state_in = match (rank, self.job.states) {
            (0, _) => self.job.call.tensors.state_in,
            (_, Some(states)) => Some(states.index(rank - 1)),
            _ => None,
        };
        if rank > 0 {
            // It is there, and read by the segment before.
            grads.0.state_in = None;
        }
        if let Some(sequence) = call.sequence(unit / self.heads()) {
            let rate = self.job.engine.inner().reverse(&call, &grads, sequence, unit % self.heads(), memory);
            // SAFETY: rates are [ranks, B, H], this one is this task's.
            unsafe { *self.rates.add(rank * self.job.units() + unit) = rate }
        }
    }

    /// Decay rates of heads are shared by all tokens.
    fn store_rates(&self) {
        let shared = self.job.engine.settings.inner.decay == Decay::Head;
        let Some(tensor) = self.grads.g.filter(|_| shared) else { return };
        let (heads, n) = (self.heads(), self.job.engine.settings.ranks * self.job.units());
        for head in 0..heads {
            // SAFETY: rates are [ranks, B, H], every one was written, and no task runs any more.
            let total: f64 = (head..n).step_by(heads).map(|i| unsafe { *self.rates.add(i) }).sum();
            // SAFETY: the rates are [H] (checked).
            unsafe { self.job.engine.inner().set(&tensor, &[head], total as f32) };
        }
    }
}
