//! Gradients of the linear engine (`docs/spec/linear.md` 1.9): the chunks of the forward pass in reverse order.
//!
//! For one sequence and state head, with `N = −B`, erase rows `e` that carry their sign and factor (`e_i = −β_i k_i`,
//! or `−erase_i ⊙ k_i`), and everything that the forward pass prepares for a chunk:
//!
//! ```text
//! forward over the sequence, storing the state before every block of 256 tokens, and what early.rs says
//! for each block, the last one first:
//!     for each chunk: what forward prepares                                   blocks.rs
//!     for each panel of value columns:                                        panel.rs
//!         for each chunk: U, dY, S1 as forward makes them
//!         for each chunk, the last one first; the panel of dS stays in L1:
//!             dU = (K ⊙ F) dS + Aᵀ dY
//!             dR = solve (I + B)ᵀ dR = dU            (correction only; else dR = dU)
//!             dA += dY Uᵀ      dN += dR Uᵀ
//!             dQᵀ += S0 dYᵀ    dKᵀ += dS Uᵀ    deᵀ += S0 dRᵀ
//!             end += rowsum(S1 ∘ dS)
//!             dS = P_C ⊙ dS + (Q ⊙ P)ᵀ dY + (e ⊙ P)ᵀ dR
//!             dv = gain · dR      dgain = rowsum(dR ∘ V)
//!     for each chunk, the last one first:                                     finish.rs
//!         the normaliser as one more value column, factors and scores (`kernel::scores_grad`), gates, gains,
//!         features (features.rs, maps.rs, gated.rs; power.rs when all tasks are done)
//! ```
//!
//! Without a correction the way forward makes `dQ`, `end` follows from chunk to chunk, and no state inside a block is
//! computed again; with one, it leaves `U` in the caller's `dv` (early.rs).
//!
//! With two writes per token (forward: `R = (a ⊙ P⁻) S + N X`, `R = solve (I − M) R`, `U = [X; R]`) what is corrected is
//! what the second ones write, and scores and rows come in pairs, those of the keys and those of `b`:
//!
//! ```text
//!             [dX; dR] = [K ⊙ F; b ⊙ F] dS + [A; A₂]ᵀ dY
//!             dR = solve (I − M)ᵀ dR      dX += Nᵀ dR
//!             dA += dY Xᵀ     dA₂ += dY Rᵀ     dN += dR Xᵀ     dM += dR Rᵀ
//!             dQᵀ += S0 dYᵀ    dKᵀ += dS Xᵀ    dbᵀ += dS Rᵀ    daᵀ += S0 dRᵀ
//!             dS = P_C ⊙ dS + (Q ⊙ P)ᵀ dY + (a ⊙ P⁻)ᵀ dR
//! ```
//!
//! What reads the state before the decay of its token, `a` and the queries of a bonus, differs only in its factors and
//! scores (`kernel::scores_grad`). The bonus itself is summed over the tokens of a unit in `f64`, `dwrite = dR ⊙ v` is
//! made with `dv`, `derase = −de ⊙ k` with the keys.
//!
//! Products with 16 tokens come out transposed, `[D, EP] · [EP, 16]`: the state is read by rows, as everywhere, and
//! only the chunk's own rows are transposed. Value decay (`gv`) is `kernel::scores_grad` in the value channels.
//!
//! *Normalisers.* The denominator needs no second pass: `y` is linear in `q`, so `dn = −(q·dq)/n`, both before the
//! normaliser's own part. A norm of the output needs `Σ y²` and `Σ y·do` of the whole row, which the first pass
//! measures (norm.rs), and has gradients of its own operands (norm_operands.rs). *Modes without an order of tokens*: the queries first, against the one state, then the keys.
//!
//! *Tasks*: sequence × group of state heads that share a head of `q`, `k` or `v`. A task runs its heads in order and
//! adds what they share; per-head parameters and weights of features are summed at the end, in order. So no bit depends on
//! threads. Few such groups keep few threads busy: there is no partition by panels.
//!
//! *Cost*, FLOPs per token and head: `10DE` where forward takes `4DE`, `18DE` where it takes `6DE` (a correction),
//! `28DE` where it takes `8DE` (two writes). It is `12DE` and `20DE` where early.rs finds no place for what it would
//! leave: heads that share a `dq` or `dv`, features of another length, norms of the output. Of the last 256 tokens only
//! `dQ` asks for a way forward: there it is `16DE` with a correction, `22DE` with two writes, `10DE` for all others.
//! Inside a chunk `C (D + E)` for each of `Aᵀ dY`, `dA`, the scores anew, and four times that for the features, as far as
//! they apply; twice all that with two writes.
//!
//! Measured at `D = E = 128`, `H = 16`, `T = 1024` with AVX-512 on one Zen 4 core (CPU time, best of many, on a busy
//! machine), times forward: `simple_gla` 2.9, `gated_delta_rule` 3.8. The products with the state run at 94 % to 100 % of the
//! peak there and take half of the time; most of the rest are loads and stores of rows that are not in L2.
//!
//! *Tried and lost*: blocks of 8 chunks, within noise, for twice the stored states. Sums across the lanes of every row
//! of `S1 ∘ dS`: 17 % of the time, ten times what the products take. Copies of the state before each chunk: 5 %. All 16
//! chunks of a block prepared at once where four will do: 10 %, since operands then leave L2; with them, fetching rows
//! ahead gained nothing, with four 5 %.
//!
//! *Workspace*, elements, besides a few hundred: per worker, with `P` panels of `EP ≥ E/P` columns and `Q` queries to
//! a state,
//!
//! ```text
//! ⌈T / 256⌉ · (D·P·EP + D)                                   states before the blocks
//! 256 · (2D·Q + 4D + (Q + 1)·(EP + 32)) + 16·D·EP            a block's operands, gradients and states; with two
//!                                                            writes 256 · (2D + EP + 32·(Q + 1)) more, with a
//!                                                            correction and decay per channel 256 · D
//! 2·D·P·EP + 16·(2Q + 10)·D + 16·(3Q + 10)·EP                  the state and its gradient, a chunk's rows
//! ```
//!
//! and per sequence `2·T·Ho + 2·E·Ho` with a norm of the output, `2·D·Hs` with a bonus; where features have weights with
//! a gradient, their sums per sequence and state head, for queries and keys if they differ; with 16-bit `q`, `k` and
//! `v` a row of `f32` for each row of them that several heads share. The map `exp` takes `D` more
//! for each stored state, and `33·D` per worker.
//!
//! *To extend*: a feature map, `Reverse::features_backward` in place, else maps.rs; a gain, `store_values`,
//! `erase_rows` and `store_gain`; a correction, `values_gradient` and `finish`; what the caller's `Role` is called,
//! [`grads::Grads`]. The map `exp` cuts chunks short (shift.rs): a block of it may take several turns, for each of which
//! the state is brought forward from the block's start.
//!
//! *Element types*: as forward, all arithmetic is `f32` in the same order whatever the types, and a gradient is rounded
//! once: one of 16-bit rows that is a sum over heads waits for its last term (rounded.rs).

mod blocks;
mod convex;
mod early;
mod features;
mod finish;
mod gated;
mod grads;
mod layout;
mod maps;
mod norm;
mod norm_operands;
mod panel;
mod power;
mod rounded;
mod shift;
mod state;
mod weights;

use super::features::FeatureMap;
use super::geometry::Geometry;
use super::recurrence::{Decay, Normaliser};
use super::{Call, Linear, Unit, norm as forward_norm};
use crate::engine::call::{self as shared, Heads};
use crate::error::{Error, Result};
use crate::kernel::{
    KernelFn, elementwise, map_grad, products, row_l2norm, row_softmax, scores_grad, select,
};
use crate::parallel::{self, Runner};
use crate::simd::Isa;
use crate::tensor::Tensor;
use crate::workspace::Workspace;
pub use features::softmax_gradient;
pub use grads::Grads;
use layout::{Layout, Regions, SUMS, Sum};

/// Chunks of a block: the state before each block is stored, those inside are computed anew.
const BLOCK: usize = 16;

/// What a plan fixes for its gradients.
#[derive(Clone, Copy)]
pub struct Backward {
    geometry: Geometry,
    layout: Layout,
    tiles: Tiles,
}

impl std::fmt::Debug for Backward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Backward")
    }
}

/// The tiles that only gradients call.
#[derive(Clone, Copy)]
struct Tiles {
    products: KernelFn<products::Args>,
    lane_products: KernelFn<products::lanes::Args>,
    scores_grad: KernelFn<scores_grad::Args>,
    map_grad: Option<KernelFn<map_grad::Args>>,
    l2norm: KernelFn<row_l2norm::Args>,
    softmax: KernelFn<row_softmax::Args>,
    sigmoid: KernelFn<elementwise::Args>,
    silu: KernelFn<elementwise::Args>,
    silu_grad: KernelFn<map_grad::Args>,
}

impl Tiles {
    fn new(isa: Isa, map: FeatureMap) -> Tiles {
        let map_grad = match map {
            FeatureMap::Elu1 => Some(select::<map_grad::Elu1Grad>(isa)),
            FeatureMap::Elu1Neg => Some(select::<map_grad::Elu1NegGrad>(isa)),
            FeatureMap::Tanh1 => Some(select::<map_grad::Tanh1Grad>(isa)),
            FeatureMap::Relu => Some(select::<map_grad::ReluGrad>(isa)),
            FeatureMap::Relu2 => Some(select::<map_grad::Relu2Grad>(isa)),
            FeatureMap::Silu => Some(select::<map_grad::SiluGrad>(isa)),
            _ => None,
        };
        Tiles {
            products: select::<products::Products>(isa),
            lane_products: select::<products::lanes::LaneProducts>(isa),
            scores_grad: select::<scores_grad::ScoresGrad>(isa),
            map_grad,
            l2norm: select::<row_l2norm::RowL2Norm>(isa),
            softmax: select::<row_softmax::RowSoftmax>(isa),
            sigmoid: select::<elementwise::Sigmoid>(isa),
            silu: select::<elementwise::Silu>(isa),
            silu_grad: select::<map_grad::SiluGrad>(isa),
        }
    }
}

/// One state head of a sequence, in reverse.
struct Reverse<'a> {
    unit: Unit<'a>,
    plan: &'a Backward,
    grads: &'a Grads,
    /// Sums of this unit, `[SUMS / 2]`.
    sums: *mut f64,
    /// Gradient of the bonus from this unit, `[ldm]`, where there is one.
    bonus: *mut f64,
    /// Sums of this sequence's output rows, `[n_q, Ho, 2]`.
    rows: *mut f32,
    /// Sums of this unit for what feature maps share, and for the weights of the norm.
    parameters: *mut f32,
    norm_sums: *mut f64,
    /// Whether the first pass has to measure those of the rows.
    measures: bool,
    /// Only the gradient of what was carried in.
    only_state: bool,
}

impl Backward {
    /// Blocking for an engine of this blocking; `None` where its sizes overflow.
    pub fn new(isa: Isa, engine: &Linear) -> Option<Backward> {
        let recurrence = &engine.recurrence;
        let geometry = engine.geometry.with_chunks(recurrence, &engine.heads, BLOCK).ok()?;
        let layout = Layout::new(recurrence, &geometry).ok()?;
        Some(Backward { geometry, layout, tiles: Tiles::new(isa, recurrence.features.map) })
    }
}

/// A call in reverse.
struct Run<'a> {
    engine: &'a Linear,
    plan: &'a Backward,
    call: &'a Call,
    grads: &'a Grads,
    regions: &'a Regions,
    workspace: &'a Workspace,
}

impl Linear {
    fn regions(
        &self,
        plan: &Backward,
        sequences: usize,
        lengths: (usize, usize),
        workers: usize,
    ) -> Result<Regions> {
        Regions::new(&plan.layout, self, sequences, lengths, workers)
    }

    /// Elements of workspace for all workers together.
    pub fn backward_workspace(
        &self,
        sequences: usize,
        lengths: (usize, usize),
        workers: usize,
    ) -> Option<usize> {
        let regions = self.regions(self.backward.as_ref()?, sequences, lengths, workers);
        regions.ok().map(|regions| regions.len)
    }

    /// Runs a checked backward call.
    pub fn run_backward(
        &self,
        runner: &dyn Runner,
        call: &shared::Call,
        workspace: &Workspace,
    ) -> Result<()> {
        let plan = self.backward.as_ref().ok_or(Error::Internal("the engine has no gradient"))?;
        let mut grads = Grads::new(call.tensors, &self.recurrence);
        let call = &Call::new(call, &self.recurrence);
        let (n, lengths) = (call.n_sequences(), call.sequences.longest());
        let regions = &self.regions(plan, n, lengths, runner.max_workers())?;
        let sums = self.hold_sums(call, &mut grads, &regions.waiting, workspace.worker(0))?;
        let engine = &Linear { geometry: plan.geometry, ..self.clone() };
        let grads = &grads;
        let run = Run { engine, plan, call, grads, regions, workspace };
        // SAFETY: the first regions of the workspace, before any task runs.
        unsafe {
            std::ptr::write_bytes(run.sums(0, 0), 0, n * self.heads.state * SUMS / 2);
            std::ptr::write_bytes(run.bonus(0, 0), 0, n * self.heads.state * regions.bonus_len / 2);
            std::ptr::write_bytes(run.parameters(0, 0), 0, n * self.heads.state * regions.parameters_len);
        }
        let all_heads = matches!(self.recurrence.normaliser, Normaliser::SrmsAll { .. });
        if all_heads {
            parallel::run(runner, n * self.heads.state, &|task, worker| {
                let (sequence, head) = (task / self.heads.state, task % self.heads.state);
                if let Some(reverse) = run.unit(sequence, head, worker, true) {
                    reverse.measure();
                }
            })?;
        }
        let groups = groups(&self.heads);
        let measures = !all_heads && forward_norm::wanted(&self.recurrence);
        parallel::run(runner, n * groups, &|task, worker| {
            let (sequence, group) = (task / groups, task % groups);
            let size = self.heads.state / groups;
            for i in 0..size {
                let head = if self.recurrence.cyclic_heads { i * groups + group } else { group * size + i };
                if let Some(reverse) = run.unit(sequence, head, worker, measures) {
                    reverse.run();
                }
            }
        })?;
        run.powers(runner)?;
        run.round_sums(runner, &sums)?;
        run.store_sums();
        run.store_bonus();
        run.store_parameters();
        run.store_norm_weights();
        Ok(())
    }
}

/// One head at a time, for an engine that runs several recurrences: these have no parameters, no bonus
/// and no norm of the output, and heads share nothing but queries.
impl Linear {
    /// Elements of memory that [`Linear::reverse`] needs; `None`: no gradient.
    pub fn reverse_len(&self, lengths: (usize, usize)) -> Option<usize> {
        let regions = self.regions(self.backward.as_ref()?, 1, lengths, 1);
        regions.ok().map(|regions| regions.worker_len)
    }

    /// Gradients of one state head of a sequence. `memory` has [`Linear::reverse_len`] elements for its lengths.
    /// Returns that of the head's decay rate.
    pub fn reverse(
        &self,
        call: &Call,
        grads: &Grads,
        sequence: shared::Sequence,
        head: usize,
        memory: *mut f32,
    ) -> f64 {
        self.reverse_head(call, grads, (sequence, head), memory, false)
    }

    /// Only the gradient of the incoming state, which depends on the outgoing one's and on the tokens, not on a state.
    ///
    /// *Cost*: `2DE` FLOPs per token, `6DE` with a correction.
    pub fn reverse_state(
        &self,
        call: &Call,
        grads: &Grads,
        sequence: shared::Sequence,
        head: usize,
        memory: *mut f32,
    ) {
        self.reverse_head(call, grads, (sequence, head), memory, true);
    }

    fn reverse_head(
        &self,
        call: &Call,
        grads: &Grads,
        (sequence, head): (shared::Sequence, usize),
        memory: *mut f32,
        only_state: bool,
    ) -> f64 {
        let Some(plan) = &self.backward else { return 0.0 };
        let engine = &Linear { geometry: plan.geometry, ..self.clone() };
        let unit = Unit::new(engine, call, sequence, head, memory);
        let mut sums = [0.0; SUMS];
        // Such recurrences have neither of these.
        let (bonus, rows, parameters) = (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
        let (own, norm_sums) = (sums.as_mut_ptr(), std::ptr::null_mut());
        let measures = false;
        let own = Reverse {
            unit,
            plan,
            grads,
            sums: own,
            bonus,
            rows,
            parameters,
            norm_sums,
            measures,
            only_state,
        };
        own.run();
        sums[Sum::Rate as usize]
    }
}

/// Groups of state heads that share no head of `q`, `k` or `v` with another group: the greatest common divisor.
fn groups(heads: &Heads) -> usize {
    let mut groups = heads.k;
    for mut n in [heads.v, heads.q] {
        while n != 0 {
            (groups, n) = (n, groups % n);
        }
    }
    groups
}

impl Run<'_> {
    fn sums(&self, sequence: usize, head: usize) -> *mut f64 {
        let unit = sequence * self.engine.heads.state + head;
        self.workspace.worker(0).wrapping_add(self.regions.sums + unit * SUMS).cast()
    }

    fn bonus(&self, sequence: usize, head: usize) -> *mut f64 {
        let unit = sequence * self.engine.heads.state + head;
        self.workspace.worker(0).wrapping_add(self.regions.bonus + unit * self.regions.bonus_len).cast()
    }

    fn parameters(&self, sequence: usize, head: usize) -> *mut f32 {
        let unit = sequence * self.engine.heads.state + head;
        self.workspace.worker(0).wrapping_add(self.regions.parameters + unit * self.regions.parameters_len)
    }

    fn unit(&self, i: usize, head: usize, worker: usize, measures: bool) -> Option<Reverse<'_>> {
        let Run { engine, plan, call, grads, regions, workspace } = *self;
        let sequence = call.sequence(i)?;
        let base = workspace.worker(0);
        let memory = base.wrapping_add(regions.workers + worker * regions.worker_len);
        let panels = 0..plan.geometry.n_panels;
        let rows = base.wrapping_add(regions.rows + i * regions.rows_len);
        let unit = Unit { engine, call, sequence, head, panels, memory };
        let (sums, bonus, parameters) = (self.sums(i, head), self.bonus(i, head), self.parameters(i, head));
        let (norm_sums, only_state) = (self.norm_sums(i, head), false);
        Some(Reverse { unit, plan, grads, sums, bonus, rows, parameters, norm_sums, measures, only_state })
    }

    /// Gradients of what all sequences share.
    fn store_sums(&self) {
        let rate = match self.engine.recurrence.decay {
            Decay::Head => self.grads.g,
            _ => self.grads.decay_rate,
        };
        let wanted = [(Sum::Rate, rate), (Sum::Skip, self.grads.d_skip), (Sum::Bias, self.grads.dt_bias)];
        for (sum, tensor) in wanted {
            let Some(tensor) = tensor else { continue };
            for head in 0..self.engine.heads.state {
                let own = |i| {
                    // SAFETY: every unit has its sums, and no task runs any more.
                    unsafe { *self.sums(i, head).add(sum as usize) }
                };
                let total: f64 = (0..self.call.n_sequences()).map(own).sum();
                // SAFETY: parameters of heads are [Hs] (checked).
                unsafe { self.engine.tiles.set(&tensor, &[head], total as f32) };
            }
        }
    }
}

impl Run<'_> {
    /// The gradient of the bonus, which all sequences share.
    fn store_bonus(&self) {
        let Some(tensor) = self.grads.bonus.filter(|_| self.engine.recurrence.bonus) else { return };
        for (head, c) in
            (0..self.engine.heads.state).flat_map(|h| (0..self.engine.geometry.d).map(move |c| (h, c)))
        {
            // SAFETY: every unit has its sums, and no task runs any more.
            let own = |i| unsafe { *self.bonus(i, head).add(c) };
            let total: f64 = (0..self.call.n_sequences()).map(own).sum();
            // SAFETY: the bonus is [Hs, D] (checked).
            unsafe { self.engine.tiles.set(&tensor, &[head, c], total as f32) };
        }
    }
}

impl Reverse<'_> {
    /// A buffer of this worker, beside those of the forward pass.
    fn buffer(&self, offset: usize) -> *mut f32 {
        self.unit.buffer(offset)
    }

    fn at(&self) -> &layout::Offsets {
        &self.plan.layout.at
    }

    fn tiles(&self) -> &Tiles {
        &self.plan.tiles
    }

    /// A tensor that the plan made sure of.
    fn given(&self, tensor: Option<Tensor>) -> Tensor {
        self.unit.tensor(tensor)
    }

    /// Adds to a sum of this unit.
    fn add(&self, sum: Sum, value: f64) {
        // SAFETY: the unit's own sums.
        unsafe { *self.sums.add(sum as usize) += value }
    }

    /// Whether head `h` of `of` is the first to use one of `n` shared heads, and so writes its gradient
    /// instead of adding to it.
    fn first_user(&self, h: usize, of: usize, n: usize) -> bool {
        if self.unit.recurrence().cyclic_heads { h < n } else { h.is_multiple_of(of / n) }
    }

    /// Only the sums of the output's rows.
    fn measure(&self) {
        self.unit.prepare_features();
        self.unit.load_state();
        self.begin_shift();
        for pass in super::scan::passes(&self.unit) {
            self.first_pass(&pass);
            if !pass.read {
                self.keep_last_shift();
            }
        }
    }

    fn run(&self) {
        if self.only_state {
            self.unit.prepare_features();
        } else {
            self.measure();
        }
        self.load_gradient();
        self.shift_gradient();
        for pass in super::scan::passes(&self.unit).iter().rev() {
            self.blocks(pass);
        }
        self.unshift_gradient();
        self.store_gradient();
    }
}
