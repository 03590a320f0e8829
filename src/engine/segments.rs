//! A sequence in equal segments that run at the same time (`docs/spec/linear.md` 10).
//!
//! ```text
//! summaries   M_r, S⁰_r: what segment r does to a state that comes in, and its final state from none
//! fold        S_out,r = M_r S_in,r + S⁰_r      S_in,r+1 = S_out,r
//! segments    each from its S_in, all at once
//! ```
//!
//! `M` is a diagonal where the recurrence only decays, and then it is formed from the gates alone; the delta
//! rule's is a matrix, the final state of the segment from the identity with all values zero. The linear engine
//! does all of it: a summary is a scan without queries.
//!
//! What is bound decides how the work is done, never the number of threads, so bits do not depend on it. With
//! `msg_state`, and for the delta rule `msg_transition`, segments are tasks of their own. Without, a head is
//! one task and a plain scan.
//!
//! *Cost*: the summaries add half of a plain scan's work, and for the delta rule `(D + E) / E` times two thirds,
//! so segments pay where sequences and heads are fewer than cores.
//! *Source*: Sun et al., LASP, arXiv 2404.02882; LASP-2, arXiv 2502.07563.

use super::call::{Call, Sequences};
use super::linear::{self, Carry, Decay, Linear, Recurrence};
use super::{Engine, Extents};
use crate::catalog::Role;
use crate::context::Context;
use crate::error::Result;
use crate::parallel::{self, Runner};
use crate::tensor::{DType, Layout, Tensor};
use crate::workspace::Workspace;

/// Settings of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Segments.
    pub ranks: usize,
    /// What each of them runs.
    pub inner: Recurrence,
}

/// The planned engine.
#[derive(Debug)]
pub struct Segments {
    settings: Settings,
    extents: Extents,
    inner: Linear,
    /// The same recurrence on a state `[D, D]`.
    transition: Linear,
    /// Zeros with a one in the middle: strides (−1, 1) from the one make an identity of it.
    one: Vec<f32>,
    len: usize,
}

/// The tensors of a call, and what follows from them.
struct Job<'a> {
    engine: &'a Segments,
    call: linear::Call,
    /// Tokens of a segment.
    n: usize,
    states: Option<Tensor>,
    locals: Option<Tensor>,
    transitions: Option<Tensor>,
    /// Every segment can get its incoming state before the one before it has run.
    folds: bool,
}

impl Segments {
    /// Blocking and tiles for these extents on the machine of `context`.
    pub fn plan(context: &Context, settings: Settings, extents: Extents) -> Result<Segments> {
        let inner = Linear::plan(context, settings.inner, extents)?;
        let square = Extents { e: extents.d, ..extents };
        let transition = Linear::plan(context, settings.inner, square)?;
        let len = inner.workspace_len().max(transition.workspace_len()).max(inner.combine_len());
        let mut one = vec![0.0; 2 * extents.d - 1];
        one[extents.d - 1] = 1.0;
        Ok(Segments { settings, extents, inner, transition, one, len })
    }

    fn identity(&self) -> Tensor {
        let d = self.extents.d as i64;
        let shape = [i64::MAX, i64::MAX, d, d, 1];
        let data = self.one[self.extents.d - 1..].as_ptr().cast_mut().cast();
        Tensor { data, dtype: DType::F32, layout: Layout { rank: 4, shape, stride: [0, 0, -1, 1, 0] } }
    }

    /// Zeros of any extents.
    fn zeros(&self) -> Tensor {
        // With D = 1 there is no zero beside the one, and a stride of 0 needs a single one.
        static ZERO: f32 = 0.0;
        let data = (&raw const ZERO).cast_mut().cast();
        Tensor { data, dtype: DType::F32, layout: Layout { rank: 4, shape: [i64::MAX; 5], stride: [0; 5] } }
    }
}

impl Engine for Segments {
    fn kernel_name(&self) -> &'static str {
        self.inner.kernel_name()
    }

    fn chunk(&self) -> usize {
        self.inner.chunk()
    }

    fn panel(&self) -> usize {
        self.inner.panel()
    }

    fn workspace_len(&self) -> usize {
        self.len
    }

    fn execute(&self, runner: &dyn Runner, call: &Call, workspace: &Workspace) -> Result<()> {
        let job = Job::new(self, call);
        let (ranks, units) = (self.settings.ranks, job.units());
        // Each summary is a task: first the local states, then the transitions.
        let summaries =
            [job.summarises(), job.transitions.is_some()].map(|wanted| usize::from(wanted) * ranks * units);
        parallel::run(runner, summaries[0] + summaries[1], &|task, worker| {
            let memory = workspace.worker(worker);
            match task.checked_sub(summaries[0]) {
                None => job.summarise(task / units, task % units, memory),
                Some(task) => job.transit(task / units, task % units, memory),
            }
        })?;
        if job.states.is_none() {
            return self.inner.execute(runner, call, workspace);
        }
        if job.folds {
            parallel::run(runner, units, &|unit, worker| job.fold(unit, workspace.worker(worker)))?;
        }
        let at_once = if job.folds { ranks } else { 1 };
        parallel::run(runner, at_once * units, &|task, worker| {
            let (first, unit) = (task / units, task % units);
            let last = if job.folds { first + 1 } else { ranks };
            (first..last).for_each(|rank| job.segment(rank, unit, workspace.worker(worker)));
        })
    }
}

impl<'a> Job<'a> {
    fn new(engine: &'a Segments, call: &Call) -> Job<'a> {
        let states = call.tensors.get(Role::MSG_STATE);
        let transitions = call.tensors.get(Role::MSG_TRANSITION);
        let folds = states.is_some() && (!engine.settings.inner.correction || transitions.is_some());
        Job {
            engine,
            call: linear::Call::new(call),
            n: call.sequences.n_q / engine.settings.ranks,
            states,
            locals: call.tensors.get(Role::MSG_LOCAL),
            transitions,
            folds,
        }
    }

    fn units(&self) -> usize {
        self.call.n_sequences() * self.engine.extents.heads.state
    }

    fn last(&self) -> usize {
        self.engine.settings.ranks - 1
    }

    fn summarises(&self) -> bool {
        self.folds || self.locals.is_some()
    }

    /// The linear engine's call on one segment, without states.
    fn block(&self, rank: usize) -> linear::Call {
        let n = self.n;
        let tokens = |tensor: Option<Tensor>| tensor.map(|tensor| tensor.from(2, rank * n));
        let mut call = self.call;
        call.sequences = Sequences { n_q: n, n_k: n, ..call.sequences };
        let t = &mut call.tensors;
        (t.q, t.k, t.v, t.out) = (tokens(t.q), tokens(t.k), tokens(t.v), tokens(t.out));
        t.beta = tokens(t.beta);
        if self.engine.settings.inner.decay != Decay::Head {
            t.g = tokens(t.g);
        }
        (t.state_in, t.state_out) = (None, None);
        call
    }

    /// The final state of a segment that nothing comes into.
    fn summarise(&self, rank: usize, unit: usize, memory: *mut f32) {
        let mut call = self.block(rank);
        call.tensors.out = None;
        call.tensors.state_out = match (self.locals, self.states) {
            (Some(locals), _) => Some(locals.index(rank)),
            (None, Some(states)) if rank < self.last() => Some(states.index(rank)),
            _ => return,
        };
        self.engine.inner.run_unit(&call, unit, memory);
    }

    /// What a segment does to an incoming state: its final state from the identity, with values of zero.
    fn transit(&self, rank: usize, unit: usize, memory: *mut f32) {
        let mut call = self.block(rank);
        call.tensors.out = None;
        call.tensors.v = Some(self.engine.zeros());
        call.tensors.state_in = Some(self.engine.identity());
        call.tensors.state_out = self.transitions.map(|tensor| tensor.index(rank));
        self.engine.transition.run_unit(&call, unit, memory);
    }

    /// Outgoing states of all segments but the last, one after the other.
    fn fold(&self, unit: usize, memory: *mut f32) {
        let heads = self.engine.extents.heads.state;
        let at = [unit / heads, unit % heads];
        let Some(states) = self.states else { return };
        for rank in 0..self.last() {
            let out = states.index(rank);
            let transition = self.transitions.map(|tensor| tensor.index(rank));
            let carry = match &transition {
                Some(matrix) => Carry::Matrix(matrix),
                None => Carry::Factor(self.decay(rank, at)),
            };
            let incoming = if rank == 0 { self.call.tensors.state_in } else { Some(states.index(rank - 1)) };
            let local = self.locals.map_or(out, |locals| locals.index(rank));
            self.engine.inner.combine(at, carry, incoming.as_ref(), &local, &out, memory);
        }
    }

    /// Decay over a segment, one factor for all channels.
    fn decay(&self, rank: usize, [b, h]: [usize; 2]) -> f32 {
        let call = self.block(rank);
        // SAFETY: a gate is [H] or [B, H, T] (checked).
        let get = |g: &Tensor, at: &[usize]| f64::from(unsafe { *g.f32_at(at) });
        let log = match (self.engine.settings.inner.decay, &call.tensors.g) {
            (Decay::Head, Some(g)) => get(g, &[h]) * self.n as f64,
            // Only the exponential of the whole sum is wanted, and in double precision it is exact enough; a
            // reset's −∞ stays −∞.
            (_, Some(g)) => (0..self.n).map(|t| get(g, &[b, h, t])).sum(),
            (_, None) => 0.0,
        };
        log.exp() as f32
    }

    /// The outputs of a segment, and its outgoing state where that is not known yet.
    fn segment(&self, rank: usize, unit: usize, memory: *mut f32) {
        let mut call = self.block(rank);
        let before = |tensor: Option<Tensor>| tensor.map(|tensor| tensor.index(rank - 1));
        call.tensors.state_in = if rank == 0 { self.call.tensors.state_in } else { before(self.states) };
        if rank == self.last() {
            call.tensors.state_out = self.call.tensors.state_out;
        } else if !self.folds {
            call.tensors.state_out = self.states.map(|tensor| tensor.index(rank));
        }
        self.engine.inner.run_unit(&call, unit, memory);
    }
}
