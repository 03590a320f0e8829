//! Exact softmax attention and what is made of the same loop (`docs/spec/softmax.md`): tiles of queries against tiles of
//! keys, a running maximum and sum per query, no matrix of scores.
//!
//! ```text
//! for each tile of 32 queries of a head, all query heads of a key head where queries are few:    rows.rs
//!     q ← rows · scale                                                                             products.rs
//!     for each tile of 64 keys that some of them see, ascending:                                   tile.rs
//!         X = K qᵀ                                             [keys, queries]
//!         X ← cap, ALiBi, bias, decay, mask                    terms.rs; a tile that all see whole has no mask
//!         X, factor, m, l ← online softmax                     kernel::online_softmax
//!         acc = acc · factor + Vᵀ X                            [channels, queries]
//!     out = acc / l, lse = m + ln l, a sink counted in both
//! ```
//!
//! **Queries lie across the lanes.** Scores and sums are kept transposed, queries last: maxima, sums, factors, positions
//! and slopes are then vectors, and nothing is reduced across lanes; keys and values are the broadcast operand of the
//! matrix tile, so they are read where they lie, not packed. The queries of a tile are transposed once.
//!
//! **Few queries.** Below [`products::WIDE`] rows (a decode step, its query heads stacked) lanes would stay empty: scores are dot products
//! along the channels (`kernel::dots`), sums are kept by rows, values are the vector operand.
//!
//! **What a row sees** is an interval of keys, whatever the mode, window or block rule says ([`rows::Rows`]): the mask
//! is two comparisons, and a tile of keys is skipped, whole or cut by them. Keys that a forget gate has made light may be
//! cut off as well (`prune.rs`).
//!
//! **Pairs of `bf16`.** Where the processor multiplies them, scores of `bf16` rows are sums of exact products of pairs, and with a
//! flag everything else is rounded to such operands (`pairs.rs`).
//!
//! *Numerics*: scores, maxima, sums in `f32`, whatever the element type. A `NaN` in a key or value reaches the rows that
//! see it and no other: a masked score is replaced, and a tile of values that some row does not see is searched for what
//! is not finite (`tile.rs`). *Order*: keys ascending, in tiles that end at multiples of 64, so that a row's bits depend
//! on nothing but its keys and the layout: a prefill in pieces of 16 tokens or more gives the same bits as a whole one. *Tasks*:
//! sequence × key head × tile of queries; few queries and many keys are cut into at most [`SPLITS`] runs of keys and merged
//! in order (`merge.rs`). All of this is decided by the lengths of a sequence alone: no bit depends on threads, nor on what else is in
//! the batch. *Cost*: `2(D + E)` FLOPs per pair of
//! a query and a key that it sees, and an exponential. *Workspace*: independent of the lengths, per worker
//! `32 (2D + 2E) + 64 (D + E + 128)` elements, with pairs up to `32 (D + E + 32)` more, and [`PARTS`] partial results of `32 (E + 2)` over all workers.

mod backward;
mod base;
mod best;
mod cache;
mod call;
mod columns;
mod dape;
mod decay;
mod few;
mod local;
mod merge;
mod pairs;
mod products;
mod prune;
mod rows;
mod segments;
mod terms;
mod tile;

use super::call as shared;
use super::linear::{Recurrence, Tiles};
use super::{Engine, Extents};
use crate::context::Context;
use crate::error::Result;
use crate::kernel::{KernelFn, best_key, elementwise, online_softmax, products as sums, score_terms, select};
use crate::parallel::{self, Runner};
use crate::simd::Isa;
use crate::workspace::{Carver, Workspace};
pub use base::affine;
pub use call::{Base, Call};
pub use dape::Convolution;
use few::Few;
pub use local::Local;
use pairs::Pairs;
use prune::Norms;
use rows::{KEYS, ROWS, Unit};
use segments::Carried;
pub use segments::Segments;

/// Which keys a query at position `p` sees, besides what the mode says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// `p − left ≤ s ≤ p + right`; `None`: no bound.
    Window { left: Option<usize>, right: Option<usize> },
    /// The block of `p`, and this many blocks before it.
    Blocks { block: usize, memory: usize },
}

/// Score products, softmaxes and sums of a mechanism.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// One of each.
    Plain,
    /// One, over rows of a memory too, which has queries of its own (`fam_block`).
    Memory,
    /// Two softmaxes over two pairs of heads, their outputs subtracted (`diff`).
    Difference,
    /// One softmax, and a second score that weighs the values of a second sum (`parallax`).
    Probe,
    /// The value of the best key, with this share of the others' (`hard_retrieval`). Gradients are those of a softmax with
    /// this scale.
    Best { smoothing: f32, scale: f32 },
    /// Softmaxes over the same scores, less their sums over the queries and as they are, blended (`dnas`).
    Blend,
    /// One softmax over the keys of the query's segment, and a memory of the others (`srformer`).
    Segments(Segments),
    /// A local linear fit (`lla`).
    Local(Local),
    /// One softmax per head over scores that a convolution has corrected (`dape_v2`).
    Convolution(Convolution),
}

impl Form {
    /// Running softmaxes, or sums.
    fn streams(self) -> usize {
        match self {
            Form::Plain | Form::Memory | Form::Best { .. } | Form::Segments(_) | Form::Convolution(_) => 1,
            Form::Difference | Form::Probe | Form::Blend | Form::Local(_) => 2,
        }
    }

    /// Softmaxes among them.
    fn softmaxes(self) -> usize {
        match self {
            Form::Difference | Form::Blend => 2,
            _ => 1,
        }
    }

    /// Whether values are summed up.
    fn reads_values(self) -> bool {
        !matches!(self, Form::Best { smoothing: 0.0, .. })
    }

    /// Heads of scores for each head of values.
    fn score_heads(self) -> usize {
        if self == Form::Difference { 2 } else { 1 }
    }
}

/// What becomes of a score that is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// `e^x`, and the outputs are divided by the sum of these.
    Softmax,
    /// `max(x, 0)`; nothing is divided.
    Relu,
    /// `max(x, 0)²`, likewise.
    Relu2,
    /// A normal distribution that resembles it, likewise ([`crate::simd::math::laplace`]).
    Laplace,
}

/// Settings of a mechanism.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Factor of the scores, where role `scale_bh` does not give it.
    pub scale: f32,
    /// Scores go through `cap · tanh(· / cap)`; 0: they don't.
    pub softcap: f32,
    pub reach: Reach,
    pub form: Form,
    pub weights: Weights,
    /// Logarithm of the share of its weight that a row may lose where a gate has made keys light ([`prune`]).
    pub prune: Option<f64>,
    /// Queries and keys are affine maps of one tensor: by these rows of [`Base`] ([`Form::Plain`] only).
    pub base: Option<[usize; 2]>,
}

impl Attention {
    /// Plain attention to everything that the mode allows.
    pub fn new(scale: f32) -> Attention {
        let reach = Reach::Window { left: None, right: None };
        let (form, weights) = (Form::Plain, Weights::Softmax);
        Attention { scale, softcap: 0.0, reach, form, weights, prune: None, base: None }
    }

    /// The fit, if there is one.
    fn local(&self) -> Option<&Local> {
        if let Form::Local(local) = &self.form { Some(local) } else { None }
    }

    /// The convolution, if there is one.
    fn convolution(&self) -> Option<&Convolution> {
        if let Form::Convolution(settings) = &self.form { Some(settings) } else { None }
    }

    /// Whether a tensor gives the ridge of a fit; `None` where there is no fit.
    pub fn wants_ridge(&self) -> Option<bool> {
        self.local().map(|local| local.ridge.is_none())
    }

    /// Most keys of a sequence, where sums over the queries are kept.
    pub fn most_keys(&self) -> Option<i64> {
        (self.form == Form::Blend).then_some(columns::TABLE as i64)
    }

    /// Whether keys are found by [`cache`], and may lie in pages or in a ring.
    pub fn maps_keys(&self) -> bool {
        use Form::{Best, Difference, Local, Plain, Probe};
        matches!(self.form, Plain | Difference | Probe | Best { .. } | Local(_))
    }

    /// Whether the queries of a sequence may come in pieces, by their number.
    pub fn counts_queries(&self) -> bool {
        matches!(self.form, Form::Segments(Segments { gen_len: Some(_), .. }))
    }

    /// Whether there is a bound on distances, so that positions have to be those of a self-attention.
    pub fn is_windowed(&self) -> bool {
        self.reach != Reach::Window { left: None, right: None }
    }
}

/// Most runs that the keys of few queries are cut into.
const SPLITS: usize = 16;
/// Keys of a run, but for the longest caches.
const SPLIT_KEYS: usize = 1024;
/// Partial results that are kept at a time.
const PARTS: usize = 32;

/// The tiles of one plan.
#[derive(Clone, Copy)]
struct Kernels {
    common: Tiles,
    few: Few,
    terms: KernelFn<score_terms::Args>,
    online: KernelFn<online_softmax::Args>,
    end: KernelFn<online_softmax::EndArgs>,
    sums: KernelFn<sums::Args>,
    /// Of single scores, where there is no softmax.
    weights: Option<KernelFn<elementwise::Args>>,
    best: KernelFn<best_key::Args>,
}

impl Kernels {
    fn new(isa: Isa, weights: Weights) -> Kernels {
        let weights = match weights {
            Weights::Softmax => None,
            Weights::Relu => Some(select::<elementwise::ReluWeight>(isa)),
            Weights::Relu2 => Some(select::<elementwise::Relu2Weight>(isa)),
            Weights::Laplace => Some(select::<elementwise::LaplaceWeight>(isa)),
        };
        Kernels {
            weights,
            common: Tiles::new(isa, &Recurrence::default()),
            few: Few::new(isa),
            terms: select::<score_terms::ScoreTerms>(isa),
            online: select::<online_softmax::OnlineSoftmax>(isa),
            end: select::<online_softmax::SoftmaxEnd>(isa),
            sums: select::<sums::Products>(isa),
            best: select::<best_key::BestKey>(isa),
        }
    }
}

/// Offsets of a worker's buffers, in elements.
#[derive(Clone, Copy, Debug)]
struct Offsets {
    /// Queries of each stream: `[D][32]`, or `[32][D]` padded where they are few.
    q: [usize; 2],
    /// Rows of queries on their way in, of outputs on their way out, `[32][max(D, E)]` padded, and of biases.
    rows: usize,
    /// Scores, then weights, `[64][32]`, and those of a second product.
    x: [usize; 2],
    /// Additive terms `[64][32]`.
    terms: usize,
    /// A tile of keys, of values, where they can't be read in place.
    k: usize,
    v: usize,
    /// Sums of each stream: `[E][32]`, or `[32][E]` padded where the queries are few.
    acc: [usize; 2],
    /// Affine maps folded into one of the queries `[4, D]` padded, and what it adds to the scores of each, `[32]`.
    folded: usize,
    shift: usize,
    /// Partial results of runs of keys. Gradients have neither these nor what follows.
    parts: usize,
    /// Sums over the queries.
    columns: usize,
    matrices: segments::Matrices,
    sums: local::Sums,
    maps: dape::Maps,
    pairs: pairs::Offsets,
}

/// Attention with its tiles and buffers.
#[derive(Clone)]
pub struct Softmax {
    settings: Attention,
    /// Query heads, key heads.
    heads: (usize, usize),
    /// Query heads that share a head of `q`: several, where keys are the queries.
    shared: usize,
    d: usize,
    e: usize,
    kernels: Kernels,
    pairs: Pairs,
    backward: backward::Kernels,
    at: Offsets,
    /// Elements of one partial result.
    part: usize,
    workers: usize,
    len: usize,
}

impl std::fmt::Debug for Softmax {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Softmax")
            .field("settings", &self.settings)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl Softmax {
    /// Attention of these extents on the machine of `context`.
    pub fn plan(context: &Context, settings: Attention, extents: Extents) -> Result<Softmax> {
        let Extents { heads, d, e, .. } = extents;
        let (d16, e16) = (d.next_multiple_of(16), e.next_multiple_of(16));
        let workers = context.max_workers();
        let second = |yes: bool, n: usize| if yes { n } else { 0 };
        let two = settings.form.streams() == 2;
        let pairs = Pairs::new(context.isa(), &settings, &extents);
        let mut carver = Carver::default();
        let part = settings.form.streams() * ROWS * (e16 + 2);
        let at = Offsets {
            q: [carver.take(&[ROWS, d16]), carver.take(&[second(two, ROWS), d16])],
            rows: carver.take(&[ROWS, d16.max(e16).max(KEYS)]),
            x: [carver.take(&[KEYS, ROWS]), carver.take(&[second(two, KEYS), ROWS])],
            terms: carver.take(&[KEYS, ROWS]),
            k: carver.take(&[KEYS, products::pitch(d)]),
            v: carver.take(&[KEYS, products::pitch(e)]),
            acc: [carver.take(&[e16, ROWS]), carver.take(&[second(two, e16), ROWS])],
            folded: carver.take(&[second(settings.base.is_some(), 4), d16]),
            shift: carver.take(&[ROWS]),
            pairs: pairs::Offsets::new(&mut carver, pairs, d, e),
            parts: carver.take(&[PARTS.div_ceil(workers), part]),
            columns: carver.take(&[second(settings.form == Form::Blend, columns::chunks(workers)), KEYS]),
            matrices: segments::Matrices::new(&mut carver, d, matches!(settings.form, Form::Segments(_))),
            sums: local::Sums::new(&mut carver, d, settings.local()),
            maps: dape::Maps::new(&mut carver, (heads.out, d, e), KEYS, settings.convolution()),
        };
        let kernels = Kernels::new(context.isa(), settings.weights);
        let backward = backward::Kernels::new(context.isa());
        let heads = (heads.out, heads.k);
        let shared = 1;
        Ok(Softmax {
            settings,
            heads,
            shared,
            d,
            e,
            kernels,
            pairs,
            backward,
            at,
            part,
            workers,
            len: carver.finish()?,
        })
    }

    /// Query heads that share a key head.
    fn sets(&self) -> usize {
        self.heads.0 / self.heads.1
    }

    /// Where partial result `i` lies.
    fn part(&self, workspace: &Workspace, i: usize) -> *mut f32 {
        workspace.worker(i % self.workers).wrapping_add(self.at.parts + i / self.workers * self.part)
    }

    /// Runs the tiles of a call.
    pub fn run(&self, runner: &dyn Runner, call: &Call, workspace: &Workspace) -> Result<()> {
        let grid = rows::Grid::new(self, call);
        let (units, splits) = (grid.units(), grid.splits);
        // As many units at a time as there is memory for their partial results: all, where there are none.
        let wave = match splits {
            // Largest norms of keys lie in the place of one.
            1 if self.settings.prune.is_some() => self.part * grid.tiles.max(1),
            1 => units.max(1),
            _ => PARTS / splits,
        };
        for start in (0..units).step_by(wave) {
            let n = wave.min(units - start);
            let heads = start / grid.tiles..(start + n) / grid.tiles;
            let norms = Norms::new(self, runner, call, (workspace, self.at.parts), heads)?;
            let call = &Call { norms, ..*call };
            let part = |unit: usize, split| self.part(workspace, unit * splits + split);
            parallel::run(runner, n * splits, &|task, worker| {
                // The tiles with the most keys first.
                let (index, split) = (n - 1 - task / splits, task % splits);
                let Some(unit) = Unit::new(self, call, &grid, start + index) else { return };
                if let Some(settings) = self.settings.local() {
                    return local::run(&unit, workspace.worker(worker), settings);
                }
                let part = (unit.splits > 1).then(|| part(index, split));
                if split < unit.splits {
                    tile::run(&unit, workspace.worker(worker), split, part);
                }
            })?;
            if splits == 1 {
                continue;
            }
            parallel::run(runner, n, &|index, worker| {
                let unit = Unit::new(self, call, &grid, start + index);
                if let Some(unit) = unit.filter(|unit| unit.splits > 1) {
                    merge::run(&unit, workspace.worker(worker), |split| part(index, split));
                }
            })?;
        }
        Ok(())
    }
}

impl Engine for Softmax {
    fn kernel_name(&self) -> &'static str {
        match self.pairs {
            Pairs { values: true, .. } => "softmax:matmul_bf16",
            Pairs { scores: true, .. } => "softmax:matmul_bf16+matmul_f32",
            _ => "softmax:matmul_f32",
        }
    }

    fn chunk(&self) -> usize {
        KEYS
    }

    fn panel(&self) -> usize {
        ROWS
    }

    fn workspace_len(&self) -> usize {
        self.len
    }

    fn execute(&self, runner: &dyn Runner, call: &shared::Call, workspace: &Workspace) -> Result<()> {
        let (tensors, call) = (call.tensors, Call::new(call));
        match &self.settings.form {
            Form::Blend => return columns::run(self, runner, &call, workspace),
            Form::Convolution(settings) => return dape::run(self, settings, runner, &call, workspace),
            Form::Segments(settings) => {
                return segments::run(self, settings, runner, (&call, &Carried::new(tensors)), workspace);
            }
            _ => {}
        }
        self.run(runner, &call, workspace)?;
        match call.of_memory() {
            Some(call) => self.run(runner, &call, workspace),
            None => Ok(()),
        }
    }

    fn backward_len(&self, sequences: usize, n_q: usize, n_k: usize, workers: usize) -> Option<usize> {
        let known = matches!(self.settings.weights, Weights::Softmax | Weights::Relu);
        let form = matches!(
            self.settings.form,
            Form::Plain
                | Form::Memory
                | Form::Difference
                | Form::Probe
                | Form::Blend
                | Form::Best { .. }
                | Form::Local(_)
                | Form::Convolution(_)
                | Form::Segments(_)
        );
        // Queries and keys of a base belong to an engine of their own.
        let own = known && form && self.settings.base.is_none();
        own.then(|| self.backward_workspace(sequences, (n_q, n_k), workers)).flatten()
    }

    fn backward(&self, runner: &dyn Runner, call: &shared::Call, workspace: &Workspace) -> Result<()> {
        Softmax { pairs: Pairs::default(), ..self.clone() }.run_backward(runner, call, workspace)
    }
}
