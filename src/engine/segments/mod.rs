//! Sequences in segments (`docs/spec/linear.md` 10): summaries of segments, and `lasp`, which cuts a sequence into
//! equal ones that run at the same time.
//!
//! ```text
//! summaries   M_r, S⁰_r: what segment r does to a state that comes in, and its final state from none
//! fold        S_out,r = M_r S_in,r + S⁰_r      S_in,r+1 = S_out,r
//! correction  O_r += what S_in,r gives to the outputs of a segment that ran from none
//! segments    each from its S_in, all at once
//! ```
//!
//! `M` is a diagonal where the recurrence only decays; the delta rule's is a matrix, the final state of the
//! segment from the identity with all values zero. The linear engine does all of it: a summary is a scan
//! without outputs.
//!
//! What is bound decides how `lasp` works, never the number of threads, so bits do not depend on it. With
//! `msg_state`, and for the delta rule `msg_transition`, segments are tasks of their own. Without, a head is
//! one task and a plain scan.
//!
//! Gradients: backward.rs.
//!
//! *Cost*: the summaries add half of a plain scan's work, and for the delta rule `(D + E) / E` times two thirds,
//! so segments pay where sequences and heads are fewer than cores.
//! *Source*: Sun et al., LASP, arXiv 2404.02882; LASP-2, arXiv 2502.07563.

mod backward;

use super::call::{Call, Sequences};
use super::linear::{self, Carry, Decay, Linear, Recurrence};
use super::{Engine, Extents};
use crate::catalog::Role;
use crate::context::Context;
use crate::error::Result;
use crate::parallel::{self, Runner};
use crate::tensor::{DType, Layout, Tensor};
use crate::workspace::Workspace;

/// Summaries of a recurrence, and what puts them together.
#[derive(Debug)]
pub struct Summaries {
    inner: Linear,
    /// The same recurrence on a state `[M, M]`, where a transition is a matrix.
    square: Option<Linear>,
    extents: Extents,
    /// Zeros with a one in the middle: strides (−1, 1) from the one make an identity of it.
    one: Vec<f32>,
}

impl Summaries {
    /// Blocking and tiles for these extents; `matrix`: transitions are wanted as matrices.
    pub fn plan(
        context: &Context,
        recurrence: Recurrence,
        extents: Extents,
        matrix: bool,
    ) -> Result<Summaries> {
        let extents = Extents { bf16_dot: false, ..extents };
        let inner = Linear::plan(context, recurrence, extents)?;
        let square = Extents { e: extents.d, ..extents };
        let square = if matrix { Some(Linear::plan(context, recurrence, square)?) } else { None };
        let mut one = vec![0.0; 2 * extents.d - 1];
        one[extents.d - 1] = 1.0;
        Ok(Summaries { inner, square, extents, one })
    }

    /// Elements of one worker's workspace.
    pub fn workspace_len(&self) -> usize {
        let square = self.square.as_ref().map_or(0, Linear::workspace_len);
        self.inner.workspace_len().max(square).max(self.inner.combine_len())
    }

    /// Runs a checked summary: final states from nothing, and transitions where they are bound.
    pub fn summarise(&self, runner: &dyn Runner, call: &Call, workspace: &Workspace) -> Result<()> {
        let transition = call.tensors.get(Role::MSG_TRANSITION);
        let mut call = linear::Call::new(call, self.inner.recurrence());
        call.reads = false;
        let matrix = transition.filter(|tensor| tensor.layout.rank == 4);
        call.tensors.transition = transition.filter(|_| matrix.is_none());
        let units = call.n_sequences() * self.extents.heads.state;
        let kinds = if matrix.is_some() { 2 } else { 1 };
        parallel::run(runner, kinds * units, &|task, worker| {
            let memory = workspace.worker(worker);
            match (task.checked_sub(units), matrix) {
                (None, _) => self.inner.run_unit(&call, task, memory),
                (Some(unit), Some(matrix)) => self.transit(call, unit, matrix, memory),
                (Some(_), None) => {}
            }
        })
    }

    /// Runs a checked combination: `S_out = M S_in + S⁰`, and the same for the normaliser.
    pub fn combine(&self, runner: &dyn Runner, call: &Call, workspace: &Workspace) -> Result<()> {
        let get = |role| call.tensors.get(role);
        let (Some(local), Some(out)) = (get(Role::MSG_LOCAL), get(Role::STATE_OUT)) else { return Ok(()) };
        let (state_in, transition) = (get(Role::STATE_IN), get(Role::MSG_TRANSITION));
        let z = (get(Role::Z_IN), get(Role::MSG_LOCAL_Z), get(Role::Z_OUT));
        let carry = match &transition {
            None => Carry::Same,
            Some(tensor) => match tensor.layout.rank {
                2 => Carry::Factor(tensor),
                3 => Carry::Diagonal(tensor),
                _ => Carry::Matrix(tensor),
            },
        };
        let heads = self.extents.heads.state;
        parallel::run(runner, call.sequences.batch * heads, &|unit, worker| {
            let at = [unit / heads, unit % heads];
            let memory = workspace.worker(worker);
            self.inner.combine(at, carry, state_in.as_ref(), &local, &out, memory);
            if let (z_in, Some(local), Some(out)) = z {
                // A column beside the state's.
                let column = |tensor: Tensor| tensor.with_axis();
                let z_in = z_in.map(column);
                self.inner.combine_columns(1, at, carry, z_in.as_ref(), &column(local), &column(out), memory);
            }
        })
    }

    /// Runs a checked correction: adds to the outputs what an incoming state gives them, a scan from it with values of
    /// zero.
    pub fn correct(&self, runner: &dyn Runner, call: &Call, workspace: &Workspace) -> Result<()> {
        let recurrence = self.inner.recurrence();
        let mut call = linear::Call::new(call, recurrence);
        call.adds = true;
        // With a correction tokens change the state even so.
        call.tensors.v = recurrence.corrects().then(|| self.zeros());
        self.inner.run_scans(runner, &call, workspace)
    }

    /// What a segment does to an incoming state of one head: its final state from the identity, with values of
    /// zero.
    fn transit(&self, mut call: linear::Call, unit: usize, matrix: Tensor, memory: *mut f32) {
        let t = &mut call.tensors;
        (t.v, t.state_in, t.state_out) = (Some(self.zeros()), Some(self.identity()), Some(matrix));
        (t.z_in, t.z_out) = (None, None);
        if let Some(square) = &self.square {
            square.run_unit(&call, unit, memory);
        }
    }

    fn identity(&self) -> Tensor {
        let d = self.extents.d as i64;
        let shape = [i64::MAX, i64::MAX, d, d, 1];
        let data = self.one[self.extents.d - 1..].as_ptr().cast_mut().cast();
        Tensor { data, dtype: DType::F32, layout: Layout { rank: 4, shape, stride: [0, 0, -1, 1, 0] } }
    }

    /// Zeros of any extents.
    fn zeros(&self) -> Tensor {
        static ZERO: f32 = 0.0;
        let data = (&raw const ZERO).cast_mut().cast();
        Tensor { data, dtype: DType::F32, layout: Layout { rank: 4, shape: [i64::MAX; 5], stride: [0; 5] } }
    }
}

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
    summaries: Summaries,
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
        Ok(Segments { settings, summaries: Summaries::plan(context, settings.inner, extents, true)? })
    }

    fn inner(&self) -> &Linear {
        &self.summaries.inner
    }
}

impl Engine for Segments {
    fn kernel_name(&self) -> &'static str {
        self.inner().kernel_name()
    }

    fn chunk(&self) -> usize {
        self.inner().chunk()
    }

    fn panel(&self) -> usize {
        self.inner().panel()
    }

    fn workspace_len(&self) -> usize {
        self.summaries.workspace_len()
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
            return self.inner().execute(runner, call, workspace);
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

    fn backward_len(&self, sequences: usize, n_q: usize, _n_k: usize, workers: usize) -> Option<usize> {
        Some(self.regions(sequences, n_q / self.settings.ranks, workers)?.len)
    }

    fn backward(&self, runner: &dyn Runner, call: &Call, workspace: &Workspace) -> Result<()> {
        self.run_backward(runner, call, workspace)
    }
}

impl<'a> Job<'a> {
    fn new(engine: &'a Segments, call: &Call) -> Job<'a> {
        let states = call.tensors.get(Role::MSG_STATE);
        let transitions = call.tensors.get(Role::MSG_TRANSITION);
        let folds = states.is_some() && (!engine.settings.inner.corrects() || transitions.is_some());
        Job {
            engine,
            call: linear::Call::new(call, engine.inner().recurrence()),
            n: call.sequences.n_q / engine.settings.ranks,
            states,
            locals: call.tensors.get(Role::MSG_LOCAL),
            transitions,
            folds,
        }
    }

    fn units(&self) -> usize {
        self.call.n_sequences() * self.engine.summaries.extents.heads.state
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
        call.reads = false;
        call.tensors.state_out = match (self.locals, self.states) {
            (Some(locals), _) => Some(locals.index(rank)),
            (None, Some(states)) if rank < self.last() => Some(states.index(rank)),
            _ => return,
        };
        self.engine.inner().run_unit(&call, unit, memory);
    }

    fn transit(&self, rank: usize, unit: usize, memory: *mut f32) {
        let mut call = self.block(rank);
        call.reads = false;
        if let Some(transitions) = self.transitions {
            self.engine.summaries.transit(call, unit, transitions.index(rank), memory);
        }
    }

    /// Outgoing states of all segments but the last, one after the other.
    fn fold(&self, unit: usize, memory: *mut f32) {
        let heads = self.engine.summaries.extents.heads.state;
        let at = [unit / heads, unit % heads];
        let Some(states) = self.states else { return };
        for rank in 0..self.last() {
            let out = states.index(rank);
            let transition = self.transitions.map(|tensor| tensor.index(rank));
            let carry = match &transition {
                Some(matrix) => Carry::Matrix(matrix),
                None => Carry::Value(self.decay(rank, at)),
            };
            let incoming = if rank == 0 { self.call.tensors.state_in } else { Some(states.index(rank - 1)) };
            let local = self.locals.map_or(out, |locals| locals.index(rank));
            self.engine.inner().combine(at, carry, incoming.as_ref(), &local, &out, memory);
        }
    }

    /// Decay over a segment, one factor for all channels.
    fn decay(&self, rank: usize, [b, h]: [usize; 2]) -> f32 {
        let call = self.block(rank);
        // SAFETY: a gate is [H] or [B, H, T] (checked).
        let get = |g: &Tensor, at: &[usize]| f64::from(unsafe { self.engine.inner().value(g, at) });
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
        self.engine.inner().run_unit(&call, unit, memory);
    }
}
