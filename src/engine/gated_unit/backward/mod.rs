//! Gradients of gated units (`docs/spec/linear.md` 9).
//!
//! ```text
//! dgate = dout ⊙ o      G = dout ⊙ gate      A = w(X)      dX = w'(X) ⊙ (G Vᵀ)      dbias = dX
//! dh_q = scale · dX K      dh_k = scale · dXᵀ Q      dv = Aᵀ G
//! dlin_q_i = s · S G_i      dlin_k_j = dS v_j      dv_j += dSᵀ lin_k_j      dS = Σ s · lin_q_i G_iᵀ of the blocks after
//! dz = Σ_n γ_n ⊙ dh_n      dγ_n = Σ z ⊙ dh_n      dβ_n = Σ dh_n
//! ```
//!
//! In phases, each of which reads what the ones before wrote:
//!
//! 1. the linear part, with blocks only (`scans.rs`): one task forward and one in reverse for each sequence;
//! 2. rows of the scores, then columns, then the bias (`pairs.rs`): a task for each tile of 64 tokens. All three make
//!    the weights of a tile anew, so that no two tasks add to the same gradient;
//! 3. the base and the maps (`finish.rs`): a task for each tile, and one for each map.
//!
//! The linear parts of `o` and `dv` wait in `dgate` and `dv`. *Workspace*: a row of `D` for each token and map, and
//! per worker `D·E` and some tiles. *Cost*: 2.5 to 5 times the forward pass; phase 1 has two tasks a sequence.

mod finish;
mod pairs;
mod scans;

use super::{GatedUnit, maps, with_head};
use crate::catalog::Role;
use crate::engine::call::{self, Sequence};
use crate::engine::linear::{Rows, Tiles};
use crate::engine::softmax::{Base, affine};
use crate::error::{Error, Result};
use crate::kernel::{KernelFn, elementwise, products};
use crate::parallel::{self, Runner};
use crate::tensor::Tensor;
use crate::workspace::{Carver, Workspace};
use std::ops::Range;
use std::ptr;

/// Tokens of a tile.
const TILE: usize = 64;

/// What only gradients need.
#[derive(Clone, Copy)]
pub struct Kernels {
    pub tiles: Tiles,
    pub weights: KernelFn<elementwise::Args>,
    pub products: KernelFn<products::Args>,
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kernels")
    }
}

/// Offsets of buffers, in elements.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Gradients of the heads, of all tokens `[n, tokens, D]` padded.
    heads: usize,
    tokens: usize,
    /// Where the first worker's begin, and their number of elements.
    workers: usize,
    len: usize,
    /// Of a worker: maps, weight and bias of each `[n, 2, D]` padded.
    maps: usize,
    /// Queries, keys `[64, D]` padded, and a sum of such rows.
    q: usize,
    k: usize,
    dh: usize,
    /// Gradients times gates, values `[64, E]` padded, and a sum of such rows.
    g: usize,
    v: usize,
    de: usize,
    /// Gates `[64, E]` padded.
    gates: usize,
    /// One of these with its channels first `[max(D, E), 64]`.
    turned: usize,
    /// Scores, weights, gradients of the scores, bias `[64, 64]`.
    x: usize,
    a: usize,
    dx: usize,
    bias: usize,
    /// A state, or its gradient, and its transpose: `[D, E]` and `[E, D]` padded.
    state: usize,
    transposed: usize,
}

impl Layout {
    /// For so many tokens; `None` where they don't fit in memory.
    fn new(unit: &GatedUnit, tokens: usize) -> Option<Layout> {
        let (d16, e16) = unit.padded();
        let (n, global) = (unit.n_maps(), usize::from(unit.global.is_some()));
        let mut carver = Carver::default();
        let heads = carver.take(&[n, tokens, d16]);
        let workers = carver.finish().ok()?;
        let mut own = Carver::default();
        let layout = Layout {
            heads,
            tokens,
            workers,
            len: 0,
            maps: own.take(&[n, 2, d16]),
            q: own.take(&[TILE, d16]),
            k: own.take(&[TILE, d16]),
            dh: own.take(&[TILE, d16]),
            g: own.take(&[TILE, e16]),
            v: own.take(&[TILE, e16]),
            de: own.take(&[TILE, e16]),
            gates: own.take(&[TILE, e16]),
            turned: own.take(&[d16.max(e16), TILE]),
            x: own.take(&[TILE, TILE]),
            a: own.take(&[TILE, TILE]),
            dx: own.take(&[TILE, TILE]),
            bias: own.take(&[TILE, TILE]),
            state: own.take(&[global, d16, e16]),
            transposed: own.take(&[global, e16, d16]),
        };
        Some(Layout { len: own.finish().ok()?, ..layout })
    }
}

/// What all tasks share.
struct Shared<'a> {
    unit: &'a GatedUnit,
    call: &'a call::Call<'a>,
    at: Layout,
    memory: *mut f32,
    base: Tensor,
    v: Tensor,
    gate: Tensor,
    dout: Tensor,
    maps: Base,
    causal: bool,
}

// SAFETY: tasks write rows of the heads that are theirs, and their worker's buffers.
unsafe impl Sync for Shared<'_> {}

/// A sequence in the hands of a worker.
struct Task<'a> {
    shared: &'a Shared<'a>,
    sequence: Sequence,
    memory: *mut f32,
}

impl GatedUnit {
    /// Elements of a row of queries and of values.
    fn padded(&self) -> (usize, usize) {
        (self.d.next_multiple_of(16), self.e.next_multiple_of(16))
    }

    fn n_maps(&self) -> usize {
        if self.global.is_some() { 4 } else { 2 }
    }

    /// Elements of the workspace of backward.
    pub fn backward_elements(&self, sequences: usize, n_k: usize, workers: usize) -> Option<usize> {
        let layout = Layout::new(self, sequences.checked_mul(n_k)?)?;
        layout.len.checked_mul(workers)?.checked_add(layout.workers)
    }

    /// Runs a checked backward call.
    pub fn run_backward(&self, runner: &dyn Runner, call: &call::Call, workspace: &Workspace) -> Result<()> {
        let missing = || Error::Internal("a tensor of the call is missing");
        let get = |role| call.tensors.get(role).ok_or_else(missing);
        let (n_q, n_k) = call.sequences.longest();
        let at = Layout::new(self, call.sequences.len() * n_k).ok_or_else(missing)?;
        let shared = Shared {
            unit: self,
            call,
            at,
            memory: workspace.worker(0),
            base: with_head(&get(Role::QK)?),
            v: with_head(&get(Role::V)?),
            gate: with_head(&get(Role::GATE)?),
            dout: with_head(&get(Role::OUT.grad())?),
            maps: maps(call).ok_or_else(missing)?,
            causal: call.mode != crate::catalog::Mode::Bidirectional,
        };
        // Tokens that are no queries have no gradient as such.
        if n_q < n_k {
            // SAFETY: the buffer of the heads, which no task uses yet.
            unsafe { ptr::write_bytes(shared.memory.add(at.heads), 0, at.workers - at.heads) };
        }
        let sequences = call.sequences.len();
        let each = |n: usize, run: &(dyn Fn(&Task<'_>, usize) + Sync)| {
            parallel::run(runner, sequences * n, &|index, worker| {
                let Some(task) = shared.task(index / n, worker) else { return };
                run(&task, index % n);
            })
        };
        if self.global.is_some() {
            each(2, &|task, part| if part == 0 { task.forward_scan() } else { task.reverse_scan() })?;
        }
        let tiles = shared.tiles(n_k);
        each(tiles, &|task, tile| task.rows(tile))?;
        each(tiles, &|task, tile| task.columns(tile))?;
        shared.bias(runner)?;
        shared.finish(runner)
    }
}

impl<'a> Shared<'a> {
    fn task(&'a self, index: usize, worker: usize) -> Option<Task<'a>> {
        let sequence = self.call.sequences.get(index)?;
        let memory = self.memory.wrapping_add(self.at.workers + worker * self.at.len);
        Some(Task { shared: self, sequence, memory })
    }

    fn grad(&self, role: Role) -> Option<Tensor> {
        self.call.tensors.get(role.grad())
    }

    /// Tokens of a block; those of the sequence where there are none.
    fn block(&self, n_k: usize) -> usize {
        self.unit.unit.blocks.map_or(n_k, |blocks| blocks.block.min(n_k)).max(1)
    }

    /// Tiles of a sequence of this length.
    fn tiles(&self, n_k: usize) -> usize {
        let block = self.block(n_k);
        n_k.div_ceil(block) * block.div_ceil(TILE)
    }
}

impl Task<'_> {
    fn buffer(&self, offset: usize) -> *mut f32 {
        self.memory.wrapping_add(offset)
    }

    /// Tokens before the first query.
    fn ahead(&self) -> usize {
        self.sequence.n_k - self.sequence.n_q
    }

    /// Tile `index`: its block, and its tokens of that. No tile crosses blocks.
    fn tile(&self, index: usize) -> (Range<usize>, Range<usize>) {
        let n_k = self.sequence.n_k;
        let block = self.shared.block(self.shared.call.sequences.longest().1);
        let per = block.div_ceil(TILE);
        let start = index / per * block;
        let end = (start + block).min(n_k);
        let first = (start + index % per * TILE).min(end);
        (start.min(end)..end, first..(first + TILE).min(end))
    }

    /// Those of some tokens that are queries.
    fn queries(&self, tokens: &Range<usize>) -> Range<usize> {
        tokens.start.max(self.ahead()).min(tokens.end)..tokens.end
    }

    /// Address of the gradient of a head at a token.
    fn head(&self, head: usize, token: usize) -> *mut f32 {
        let (shared, s) = (self.shared, &self.sequence);
        let n_k = shared.call.sequences.n_k;
        // Packed sequences have tokens of their own, others a batch of as many.
        let row = s.batch * n_k + s.k0 + token;
        let (d16, _) = shared.unit.padded();
        shared.memory.wrapping_add(shared.at.heads + (head * shared.at.tokens + row) * d16)
    }

    /// Rows of a tensor of keys, times `scale`.
    ///
    /// # Safety
    /// The tensor is `[B, 1, S, channels]`, and the buffer has 64 rows of as many, padded.
    unsafe fn load(&self, tensor: &Tensor, tokens: &Range<usize>, channels: usize, to: *mut f32) {
        let s = &self.sequence;
        let at = [s.batch, 0, s.k0 + tokens.start];
        let from = Rows::tokens(tensor, &at, (tokens.len(), channels));
        let tiles = &self.shared.unit.kernels.tiles;
        // SAFETY: by contract.
        unsafe { tiles.load(&from, 1.0, ptr::null(), to, channels.next_multiple_of(16)) };
    }

    /// Where rows of queries lie in a tensor `[B, 1, T, E]`.
    fn at_queries(&self, tokens: &Range<usize>) -> [usize; 3] {
        [self.sequence.batch, 0, self.sequence.q0 + tokens.start - self.ahead()]
    }

    /// Rows of a head: weight and bias of its map have been loaded.
    ///
    /// # Safety
    /// As [`Task::load`].
    unsafe fn load_head(&self, head: usize, tokens: &Range<usize>, to: *mut f32) {
        let unit = self.shared.unit;
        let (d16, _) = unit.padded();
        let map = self.buffer(self.shared.at.maps + 2 * head * d16);
        // SAFETY: by contract; a map is two vectors of `d16`.
        unsafe {
            self.load(&self.shared.base, tokens, unit.d, to);
            affine(&unit.kernels.tiles, (tokens.len(), unit.d), (to, d16), map, map.add(d16));
        }
    }

    /// Loads all maps.
    fn load_maps(&self) {
        let (unit, at) = (self.shared.unit, self.shared.at);
        let (d16, _) = unit.padded();
        for head in 0..unit.n_maps() {
            for (part, tensor) in [&self.shared.maps.weight, &self.shared.maps.bias].into_iter().enumerate() {
                let to = self.buffer(at.maps + (2 * head + part) * d16);
                // SAFETY: maps are [n, D] (checked); the buffer has vectors of `d16`.
                unsafe {
                    let at = [head];
                    let from = Rows::one(tensor, &at, 1, unit.d);
                    unit.kernels.tiles.load(&from, 1.0, ptr::null(), to, d16);
                }
            }
        }
    }

    /// `G`, of queries, times `scale`.
    ///
    /// # Safety
    /// The tokens are queries, at most 64; buffer `g` is free.
    unsafe fn load_gated(&self, tokens: &Range<usize>, scale: f32) {
        let (unit, at, n) = (self.shared.unit, self.shared.at, tokens.len());
        let (_, e16) = unit.padded();
        let first = self.at_queries(tokens);
        let (g, gates, tiles) = (self.buffer(at.g), self.buffer(at.gates), &unit.kernels.tiles);
        // SAFETY: by contract.
        unsafe {
            let rows = |tensor| Rows::tokens(tensor, &first, (n, unit.e));
            tiles.load(&rows(&self.shared.dout), scale, ptr::null(), g, e16);
            tiles.load(&rows(&self.shared.gate), 1.0, ptr::null(), gates, e16);
            (tiles.product)(&elementwise::Args { n: n * e16, src: gates, dst: g });
        }
    }

    /// Rows with their channels first, 64 to a channel.
    ///
    /// # Safety
    /// `rows` has `n ≤ 64` rows of `channels`, padded.
    unsafe fn turn(&self, rows: *const f32, n: usize, channels: usize) -> *const f32 {
        let (to, ld) = (self.buffer(self.shared.at.turned), channels.next_multiple_of(16));
        for i in (0..n).step_by(16) {
            let (src, dst) = (rows.wrapping_add(i * ld), to.wrapping_add(i));
            // SAFETY: by contract.
            unsafe {
                let size = ((n - i).min(16), channels);
                self.shared.unit.kernels.tiles.transpose_to(src, size, ld, dst, TILE);
            }
        }
        to
    }
}
