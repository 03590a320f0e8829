//! Gradients of the softmax engine (`docs/spec/softmax.md` 1.6): one more sweep over the keys of each tile of queries.
//!
//! ```text
//! for each sequence and key head, a task:                                                      mod.rs
//!     for each of its query heads, each tile of 32 queries:
//!         the forward loop: maximum and normaliser, Δ = do·o            (from `lse` and `out` where a call gives them)
//!         for each tile of 64 keys that some of them see, ascending:                           tile.rs
//!             X  = K qᵀ, then cap, ALiBi, bias, decay, mask as in forward
//!             dP = V doᵀ
//!             P  = e^{X − lse}      dX = P (dP − Δ)      dY = dX (1 − (Y / cap)²)              kernel::score_grad
//!             dV += P do            dK += dY q           dqᵀ += Kᵀ dY
//!             bias, slopes, scales, sinks, gates                                               sums.rs
//!         dq = scale · dq
//!     dK, dV, gates
//! ```
//!
//! Tiles, layouts, masks and decays are those of forward, queries across the lanes, so the two passes see the same
//! scores. What is summed over queries (`dK`, `dV`) lies in the workspace, 64 rows of it beside each tile; `dq`, `lse` and
//! `Δ` live no longer than a tile. `diff` has two streams, the weights of the second times `−lam`; `parallax` one, with
//! a second score whose gradient goes to the keys and the probe. `hard_retrieval` gives `do` to the value that each query
//! chose in place of `P do` to all (best.rs); `fam_block` sweeps the rows of its memory too, and has queries of theirs
//! (memory.rs); `srformer` has a sweep for each segment, with a recurrence beside it (segments.rs). `dnas` sweeps twice, as its
//! gradients need sums over the queries (columns.rs); `lla` solves once more with the same matrix, then sweeps (local.rs);
//! `dape_v2` goes query by query, all heads together (convolution.rs).
//!
//! *Masked pairs* have a weight of −0 and a gradient of 0, selected, and a number of a query, key or output's gradient that
//! is not finite takes no part in the sums of what does not see it (products.rs). *Rows that see nothing* have gradients
//! of 0. A gate of `−inf` has a gradient of 0, and none goes through it.
//!
//! *Order*: query heads, tiles and keys ascending in a task; what sequences or heads share is added up at the end, in
//! order, a bias by a task of its own that runs all that share it. No bit depends on threads, nor on what else is
//! wanted. Few sequences of few key heads keep few threads busy: there is no partition by queries.
//! *Cost*: `6D + 4E` FLOPs per pair of a query and a key that it sees, and an exponential, where forward has `2D + 2E`
//! and one: 2.5 times as much where `lse` and `out` are given, 3.5 times where they are computed anew. Measured, CPU time
//! on one core shared with others, causal, `D = E = 128`, AVX-512: 2.5 and 3.4 times forward at 512 tokens, 2.7 and 3.8 at
//! 2048, where `dK` and `dV` leave L2; with AVX2 2.4 and 3.3 at either length; `D = E = 64`, four query heads to a key head,
//! 1024 tokens: 2.4 and 3.3. `diff` 3.3 and `parallax` 3.1 at 1024. *Workspace*: per worker the buffers of forward,
//! `64 (D + E + 64)` elements (`64 D` more for `diff` and `parallax`), `S (D + E)` for `dK` and `dV` (`S (2D + E)` for
//! `diff`) and `2 S` for gates, rows padded by up to 31 and those of a memory among the `S`; per sequence and query head 12,
//! and 1 per sequence and key head where keys may be left out (`prune.rs`). `dnas` keeps `2 S` and 10 per query besides.

mod best;
mod bias;
mod columns;
mod convolution;
mod local;
mod memory;
mod products;
mod segments;
mod sums;
mod sweep;
mod tile;

use super::call::Call;
use super::products::pitch;
use super::prune::Norms;
use super::rows::{KEYS, ROWS, Unit};
use super::{Attention, Form, Softmax};
use crate::engine::call::{self as shared, Sequence};
use crate::engine::linear::Rows as Slice;
use crate::error::Result;
use crate::kernel::{KernelFn, score_grad, select};
use crate::parallel::{self, Runner};
use crate::simd::Isa;
use crate::tensor::Tensor;
use crate::workspace::{Carver, Workspace};
use columns::Sweep;
pub use products::along_outputs;
use std::ptr;
use sums::SUMS;

/// What only gradients call.
#[derive(Clone, Copy)]
pub struct Kernels {
    score_grad: KernelFn<score_grad::Args>,
}

impl Kernels {
    /// Those of an instruction set.
    pub fn new(isa: Isa) -> Kernels {
        Kernels { score_grad: select::<score_grad::ScoreGrad>(isa) }
    }
}

/// Offsets of a worker's buffers, in elements, behind those of forward.
#[derive(Clone, Copy, Debug)]
struct Offsets {
    /// Rows of queries, of a probe `[32][D]` padded, and of gradients of outputs `[32][E]`.
    q: [usize; 2],
    dout: usize,
    /// Gradients of outputs `[E][32]`.
    dout_t: usize,
    /// Gradients of weights `[64][32]`, of scores, and capped scores.
    dp: usize,
    dx: usize,
    y: usize,
    /// Gradients of queries and of a probe `[D][32]`.
    dq: [usize; 2],
    /// Gradients of keys of each stream, of values `[S][…]` padded, and of running sums of gates, `f64`.
    dk: [usize; 2],
    dv: usize,
    gates: usize,
    segments: segments::Offsets,
    kept: columns::Kept,
    fits: local::Fits,
    /// Elements of a worker.
    len: usize,
}

impl Offsets {
    fn new(engine: &Softmax, (n_q, n_k): (usize, usize)) -> Result<Offsets> {
        let (d16, e16) = (engine.d.next_multiple_of(16), engine.e.next_multiple_of(16));
        let form = engine.settings.form;
        let second = |yes: bool, n: usize| if yes { n } else { 0 };
        let mut carver = Carver::default();
        let fit = engine.settings.local().is_some();
        // What lies behind the parts is of forward alone, but for a fit and for the matrices of segments.
        let used = fit || matches!(form, Form::Segments(_));
        carver.take(&[if used { engine.len } else { engine.at.parts }]);
        let rows = |carver: &mut Carver, yes| carver.take(&[second(yes, ROWS), d16]);
        let two = rows_of_queries(form) > 1;
        let q = [true, two].map(|yes| rows(&mut carver, yes));
        let (dout, dout_t) = (carver.take(&[ROWS, e16]), carver.take(&[e16, ROWS]));
        let mut tile = |yes| carver.take(&[second(yes, KEYS), ROWS]);
        let dp = tile(true);
        let dx = tile(form.softmaxes() > 1);
        let y = tile(engine.settings.softcap > 0.0 || form == Form::Blend || fit);
        let dq = [true, two].map(|yes| rows(&mut carver, yes));
        let ld = pitch(engine.d);
        let dk = [true, form == Form::Difference].map(|yes| carver.take(&[second(yes, n_k), ld]));
        let dv = carver.take(&[n_k, pitch(engine.e)]);
        let gates = carver.take(&[2, n_k]);
        let segments = segments::Offsets::new(&mut carver, engine, (n_q, n_k));
        let kept = columns::Kept::new(&mut carver, form == Form::Blend, n_q, n_k);
        let fits = local::Fits::new(&mut carver, fit, engine.d);
        let len = carver.finish()?;
        Ok(Offsets { q, dout, dout_t, dp, dx, y, dq, dk, dv, gates, segments, kept, fits, len })
    }
}

/// Where things lie in the workspace of a call.
#[derive(Clone, Copy)]
struct Regions {
    at: Offsets,
    /// Where the largest norms of keys begin, behind the sums of each sequence and query head.
    norms: usize,
    /// Elements before gradients of weights that all share.
    weights: usize,
    /// Elements before those of the workers.
    workers: usize,
    len: usize,
}

impl Regions {
    fn new(engine: &Softmax, sequences: usize, lengths: (usize, usize), workers: usize) -> Result<Regions> {
        let at = Offsets::new(engine, lengths)?;
        let mut carver = Carver::default();
        carver.take(&[sequences, engine.heads.0, SUMS, 2]);
        let pruned = if engine.settings.prune.is_some() { sequences } else { 0 };
        let norms = carver.take(&[pruned, engine.heads.1]);
        let d = if matches!(engine.settings.form, Form::Segments(_)) { engine.d } else { 0 };
        let weights = carver.take(&[sequences, engine.heads.0, d, d.next_multiple_of(16)]);
        let workers = carver.take(&[workers, at.len]);
        Ok(Regions { at, norms, weights, workers, len: carver.finish()? })
    }
}

/// Rows of each query: with a second map, or a probe, there are two.
fn rows_of_queries(form: Form) -> usize {
    if matches!(form, Form::Difference | Form::Probe) { 2 } else { 1 }
}

/// A call in reverse.
#[derive(Clone, Copy)]
struct Run<'a> {
    engine: &'a Softmax,
    call: &'a Call,
    /// Gradients by the names of what they are gradients of: `out` is given, the others are wanted where they are there.
    grads: &'a Call,
    regions: Regions,
    workspace: &'a Workspace,
    /// What finds the key whose value is a query's output, where that is one.
    best: Option<&'a Softmax>,
    memory: memory::Gradients,
    /// Whether there are sums over the queries.
    has_columns: bool,
}

impl Softmax {
    /// Elements of workspace for all workers together.
    pub fn backward_workspace(
        &self,
        sequences: usize,
        lengths: (usize, usize),
        workers: usize,
    ) -> Option<usize> {
        if let Some(settings) = self.settings.convolution() {
            return convolution::workspace(self, settings, sequences, lengths.1, workers);
        }
        Regions::new(self, sequences, lengths, workers).ok().map(|regions| regions.len)
    }

    /// The attention whose gradients those of a call are, and what finds the best keys where outputs are single values.
    fn of_call(&self, call: &Call) -> (Softmax, Option<Softmax>) {
        if let Some((softmax, best)) = self.retrieval() {
            return (softmax, Some(best));
        }
        let one = self.settings.form == Form::Blend && call.blend.is_none();
        let form = if one { Form::Plain } else { self.settings.form };
        (Softmax { settings: Attention { form, ..self.settings }, ..self.clone() }, None)
    }

    /// Runs a checked backward call.
    pub fn run_backward(
        &self,
        runner: &dyn Runner,
        call: &shared::Call,
        workspace: &Workspace,
    ) -> Result<()> {
        let memory = memory::Gradients::new(call);
        let (call, grads) = (&Call::new(call), &Call::gradients(call));
        if let Some(settings) = self.settings.convolution() {
            return convolution::run(self, settings, runner, (call, grads), workspace);
        }
        let n = call.sequences.len();
        let (queries, keys) = call.sequences.longest();
        let keys = keys + call.memory.map_or(0, |memory| memory.len());
        let regions = Regions::new(self, n, (queries, keys), runner.max_workers())?;
        let (softmax, best) = self.of_call(call);
        let (engine, best) = (&softmax, best.as_ref());
        let norms = Norms::new(engine, runner, call, (workspace, regions.norms), 0..n * self.heads.1)?;
        let call = &Call { norms, ..*call };
        let has_columns = self.settings.form == Form::Blend;
        let run = Run { engine, call, grads, regions, workspace, best, memory, has_columns };
        // SAFETY: the first region of the workspace, before any task runs.
        unsafe {
            ptr::write_bytes(run.sums(0, 0), 0, n * self.heads.0 * SUMS);
            run.clear_weights();
        }
        run.clear_bias(runner)?;
        let groups = run.groups();
        parallel::run(runner, groups.0 * groups.1, &|task, worker| {
            let (sequences, heads) = (n / groups.0, self.heads.1 / groups.1);
            let (first, of) = (task / groups.1 * sequences, task % groups.1 * heads);
            for index in first..first + sequences {
                (of..of + heads).for_each(|head| run.head(index, head, worker));
            }
        })?;
        run.store_sums();
        run.store_weights(runner)
    }
}

impl Run<'_> {
    /// Memory of a worker.
    fn worker(&self, worker: usize) -> *mut f32 {
        self.workspace.worker(0).wrapping_add(self.offset(worker))
    }

    /// Where it begins.
    fn offset(&self, worker: usize) -> usize {
        self.regions.workers + worker * self.regions.at.len
    }

    /// Gradients of a key head of a sequence, and of its query heads.
    fn head(&self, index: usize, head: usize, worker: usize) {
        let Some(sequence) = self.call.sequences.get(index) else { return };
        let (engine, at, base) = (self.engine, &self.regions.at, self.worker(worker));
        let maps = engine.settings.form.score_heads();
        let (ldd, lde) = (pitch(engine.d), pitch(engine.e));
        let keys = sequence.n_k + self.call.memory.map_or(0, |memory| memory.len());
        // SAFETY: buffers have the extents that `Offsets` names; gradients the shapes of what they are gradients of,
        // and the rows of these heads are this task's.
        unsafe {
            for dk in at.dk.into_iter().take(maps) {
                ptr::write_bytes(base.add(dk), 0, keys * ldd);
            }
            ptr::write_bytes(base.add(at.dv), 0, keys * lde);
            if let Form::Segments(settings) = &engine.settings.form {
                self.segments(settings, (index, sequence), head, base);
            } else {
                self.query_heads((index, sequence), head, worker);
            }
            self.of_memory((index, sequence), head, base);
            let store = |to: &Option<Tensor>, head, from: usize, ld, channels| {
                let Some(to) = to else { return };
                let first = [sequence.batch, head, sequence.k0];
                let rows = Slice::tokens(to, &first, (sequence.n_k, channels));
                engine.kernels.common.store(base.add(from), ld, &rows);
            };
            for (map, &dk) in at.dk.iter().enumerate().take(maps) {
                store(&self.grads.k, head * maps + map, dk, ldd, engine.d);
            }
            store(&self.grads.v, head, at.dv, lde, engine.e);
        }
    }

    /// The query heads of a key head.
    ///
    /// # Safety
    /// As [`tile::run`]; the worker is the task's.
    unsafe fn query_heads(&self, (index, sequence): (usize, Sequence), head: usize, worker: usize) {
        let base = self.worker(worker);
        let gates: *mut f64 = base.wrapping_add(self.regions.at.gates).cast();
        for set in 0..self.engine.sets() {
            let (of, query_head) = ((head, set), head * self.engine.sets() + set);
            // SAFETY: by contract; there is a sum for each key.
            unsafe {
                if self.grads.g.is_some() {
                    ptr::write_bytes(gates, 0, sequence.n_k);
                }
                if self.has_columns {
                    let (call, sweeps) = self.sum_columns((index, sequence), query_head, worker);
                    let run = Run { call: &call, ..*self };
                    for sweep in sweeps {
                        run.tiles((index, sequence), of, base, Some(sweep));
                    }
                } else {
                    self.tiles((index, sequence), of, base, None);
                }
                self.store_gates(&sequence, query_head, gates);
            }
        }
    }

    /// All tiles of a query head.
    ///
    /// # Safety
    /// As [`tile::run`].
    unsafe fn tiles(
        &self,
        (index, sequence): (usize, Sequence),
        of: (usize, usize),
        base: *mut f32,
        sweep: Option<Sweep>,
    ) {
        for first in (0..self.call.queries(sequence.n_q)).step_by(ROWS) {
            let unit = Unit::of_head(self.engine, self.call, (index, sequence), of, first);
            // SAFETY: by contract.
            unsafe { tile::run(self, &unit, base, sweep) };
        }
    }
}
