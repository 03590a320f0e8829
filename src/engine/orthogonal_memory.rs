//! Attention to a running mean in an orthonormal basis (`docs/spec/linear.md` 11, `lavo`).
//!
//! ```text
//! H_t = H_{t−1} + (w x_t − H_{t−1}) / t      o_t = Σ_i softmax_i(scale · H_{t,i} (q_t·w_i)) H_{t,i} w_i
//! ```
//!
//! Chunks of 16 tokens, one sequence and head a task: `X Wᵀ` and `Q Wᵀ` are one matrix product each, the means run
//! token by token over `M` numbers, and the output is the product of the weighted rows `P ⊙ H` with `W`. Modes
//! without an order of tokens run through the keys first.
//!
//! The state is the mean and the number of tokens behind it, in `f32`: exact up to 2²⁴ tokens, from where on the
//! count stands still and the mean forgets at that rate.
//!
//! *Numerics*: the mean is updated by its difference, so it never leaves the range of its terms by more than
//! roundings; a count of 0 takes the first term whatever the state holds. *Cost*: `6MD` FLOPs per token. *Workspace*:
//! the basis twice, by rows and by columns, and some rows.

use super::call::{self, Heads, Sequence, Snapshots};
use super::linear::{Recurrence, Rows, STEP_GRAIN, Tiles};
use super::{Engine, Extents};
use crate::CHUNK;
use crate::catalog::{Mode, Role};
use crate::context::Context;
use crate::error::Result;
use crate::kernel::{matmul, row_softmax};
use crate::parallel::{self, Runner};
use crate::tensor::Tensor;
use crate::workspace::{Carver, Workspace};
use std::ptr;

/// Settings of a mechanism.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Basis {
    /// Rows `w_i`.
    pub n_rows: usize,
    /// Factor of the scores.
    pub scale: f32,
}

/// The engine for one number of heads and one dimension.
#[derive(Debug)]
pub struct OrthogonalMemory {
    basis: Basis,
    heads: Heads,
    d: usize,
    tiles: Tiles,
    at: Offsets,
    len: usize,
}

/// Offsets of a worker's buffers, in elements; `C` = 16.
#[derive(Clone, Copy, Debug)]
struct Offsets {
    /// Elements between rows of `D` and of `M`.
    ldd: usize,
    ldm: usize,
    /// The basis `[M, ldd]`, and by columns `[D, ldm]`.
    basis: usize,
    columns: usize,
    /// Rows of `q` or `kv`, then of outputs `[C, ldd]`.
    rows: usize,
    /// Coefficients of the values `[C, ldm]`, then the mean after each.
    values: usize,
    /// Coefficients of the queries `[C, ldm]`, then what the rows of the basis are added up with.
    queries: usize,
    /// The mean, and the number of tokens behind it `[ldm + 1]`.
    mean: usize,
}

impl OrthogonalMemory {
    /// Blocking and tiles for these extents on the machine of `context`.
    pub fn plan(context: &Context, basis: Basis, extents: Extents) -> Result<OrthogonalMemory> {
        let Extents { heads, d, .. } = extents;
        let (ldd, ldm) = (d.next_multiple_of(16), basis.n_rows.next_multiple_of(16));
        let mut carver = Carver::default();
        let at = Offsets {
            ldd,
            ldm,
            basis: carver.take(&[basis.n_rows, ldd]),
            columns: carver.take(&[d, ldm]),
            rows: carver.take(&[CHUNK, ldd]),
            values: carver.take(&[CHUNK, ldm]),
            queries: carver.take(&[CHUNK, ldm]),
            mean: carver.take(&[ldm + 1]),
        };
        let tiles = Tiles::new(context.isa(), &Recurrence::default());
        Ok(OrthogonalMemory { basis, heads, d, tiles, at, len: carver.finish()? })
    }
}

impl Engine for OrthogonalMemory {
    fn kernel_name(&self) -> &'static str {
        "orthogonal_memory:matmul_f32"
    }

    fn chunk(&self) -> usize {
        CHUNK
    }

    fn panel(&self) -> usize {
        self.d
    }

    fn workspace_len(&self) -> usize {
        self.len
    }

    fn execute(&self, runner: &dyn Runner, call: &call::Call, workspace: &Workspace) -> Result<()> {
        let get = |role| call.tensors.get(role);
        let (Some(q), Some(kv), Some(basis), Some(out)) =
            (get(Role::Q), get(Role::KV), get(Role::BASIS), get(Role::OUT))
        else {
            return Ok(());
        };
        let snapshots = Snapshots::of(call);
        let n_heads = self.heads.state;
        let units = call.sequences.len() * n_heads;
        // Steps are short: some of them make a task.
        let grain = match call.mode {
            Mode::Step => (STEP_GRAIN / (self.basis.n_rows * self.d)).max(1),
            _ => 1,
        };
        parallel::run(runner, units.div_ceil(grain), &|task, worker| {
            for unit in task * grain..units.min((task + 1) * grain) {
                if let Some(sequence) = call.sequences.get(unit / n_heads) {
                    let (head, memory) = (unit % n_heads, workspace.worker(worker));
                    Unit { engine: self, call, q, kv, basis, out, snapshots, sequence, head, memory }.run();
                }
            }
        })
    }
}

/// One head of one sequence.
struct Unit<'a> {
    engine: &'a OrthogonalMemory,
    call: &'a call::Call<'a>,
    q: Tensor,
    kv: Tensor,
    basis: Tensor,
    out: Tensor,
    snapshots: Option<Snapshots>,
    sequence: Sequence,
    head: usize,
    /// This worker's buffers.
    memory: *mut f32,
}

impl Unit<'_> {
    /// Runs the head from its incoming to its outgoing state.
    fn run(&self) {
        let s = self.sequence;
        let chunks = |n: usize| (0..n).step_by(CHUNK).map(move |t| (t, CHUNK.min(n - t)));
        self.load_basis();
        self.load_state();
        if matches!(self.call.mode, Mode::Causal | Mode::Step) {
            for (t, n) in chunks(s.n_q) {
                self.write(s.k0 + t, n);
                self.read(s.q0 + t, n);
            }
        } else {
            for (t, n) in chunks(s.n_k) {
                self.write(s.k0 + t, n);
            }
            for (t, n) in chunks(s.n_q) {
                self.repeat_mean(n);
                self.read(s.q0 + t, n);
            }
        }
        self.store_state();
    }

    fn buffer(&self, offset: usize) -> *mut f32 {
        self.memory.wrapping_add(offset)
    }

    /// Rows of `M` numbers, as far as they exist.
    fn rows_of_coefficients(&self, offset: usize, n: usize) -> impl Iterator<Item = &mut [f32]> {
        let (m, ldm) = (self.engine.basis.n_rows, self.engine.at.ldm);
        let first = self.buffer(offset);
        // SAFETY: the buffer is this worker's, [C, ldm], and `n ≤ C`; rows don't overlap.
        (0..n).map(move |i| unsafe { std::slice::from_raw_parts_mut(first.add(i * ldm), m) })
    }

    fn load_basis(&self) {
        let (engine, at) = (self.engine, &self.engine.at);
        let (m, d) = (engine.basis.n_rows, engine.d);
        let head = [self.head];
        let by_rows = Rows { tensor: &self.basis, at: &head, rows: 1, columns: 2, n: m, d };
        let by_columns = Rows { tensor: &self.basis, at: &head, rows: 2, columns: 1, n: d, d: m };
        // SAFETY: the basis is [H, M, D] (checked); buffers have the extents that `Offsets` names.
        unsafe {
            engine.tiles.load(&by_rows, 1.0, ptr::null(), self.buffer(at.basis), at.ldd);
            engine.tiles.load(&by_columns, 1.0, ptr::null(), self.buffer(at.columns), at.ldm);
        }
    }

    /// `n` rows of a tensor in the basis, times `scale`, to `[C, ldm]`.
    fn project(&self, tensor: &Tensor, token: usize, n: usize, scale: f32, to: usize) {
        let (engine, at) = (self.engine, &self.engine.at);
        let rows = self.buffer(at.rows);
        let from = [self.sequence.batch, self.head, token];
        let mut product =
            matmul::Args::product(n, engine.basis.n_rows, engine.d, self.buffer(to), at.ldm as isize);
        (product.a, product.lda) = (rows, at.ldd);
        (product.b, product.ldb) = (self.buffer(at.columns), at.ldm);
        // SAFETY: `tensor` is [B, H, tokens, D] (checked) and has these tokens; buffers have the extents that
        // `Offsets` names.
        unsafe {
            engine.tiles.load(&Rows::tokens(tensor, &from, (n, engine.d)), scale, ptr::null(), rows, at.ldd);
            (engine.tiles.matmul)(&product);
        }
    }

    /// Adds `n` tokens to the mean, and leaves the mean after each of them in `values`.
    fn write(&self, mut token: usize, n: usize) {
        let at = &self.engine.at;
        self.project(&self.kv, token, n, 1.0, at.values);
        // SAFETY: `mean` is [ldm + 1] and this worker's.
        let count = unsafe { &mut *self.buffer(at.mean + at.ldm) };
        for row in self.rows_of_coefficients(at.values, n) {
            *count += 1.0;
            for (x, mean) in row.iter_mut().zip(self.mean()) {
                *mean = if *count == 1.0 { *x } else { *mean + (*x - *mean) / *count };
                *x = *mean;
            }
            token += 1;
            self.snapshot(token);
        }
    }

    /// The same mean for `n` tokens.
    fn repeat_mean(&self, n: usize) {
        for row in self.rows_of_coefficients(self.engine.at.values, n) {
            row.copy_from_slice(self.mean());
        }
    }

    /// Outputs of `n` queries, each against its mean in `values`.
    fn read(&self, token: usize, n: usize) {
        let (engine, at) = (self.engine, &self.engine.at);
        let (m, d, ldm) = (engine.basis.n_rows, engine.d, at.ldm);
        self.project(&self.q, token, n, engine.basis.scale, at.queries);
        let means = || self.rows_of_coefficients(at.values, n);
        let weigh = || {
            for (x, mean) in self.rows_of_coefficients(at.queries, n).zip(means()) {
                x.iter_mut().zip(mean).for_each(|(x, mean)| *x *= *mean);
            }
        };
        let (weights, y) = (self.buffer(at.queries), self.buffer(at.rows));
        let mut product = matmul::Args::product(n, d, m, y, at.ldd as isize);
        (product.a, product.lda) = (weights, ldm);
        (product.b, product.ldb) = (self.buffer(at.basis), at.ldd);
        weigh();
        // SAFETY: buffers have the extents that `Offsets` names, `n ≤ C`; `out` is [B, H, T, D] (checked) and has
        // these tokens, which no other task writes.
        unsafe {
            (engine.tiles.softmax)(&row_softmax::Args { n, d: m, x: weights, ld: ldm });
            weigh();
            (engine.tiles.matmul)(&product);
            let to = [self.sequence.batch, self.head, token];
            engine.tiles.store(y, at.ldd, &Rows::tokens(&self.out, &to, (n, d)));
        }
    }

    /// The mean.
    #[allow(clippy::mut_from_ref, reason = "a buffer of this worker, which nothing else borrows meanwhile")]
    fn mean(&self) -> &mut [f32] {
        // SAFETY: `mean` is [ldm + 1] and this worker's.
        unsafe { std::slice::from_raw_parts_mut(self.buffer(self.engine.at.mean), self.engine.basis.n_rows) }
    }

    /// Loads the mean and its count, or clears them.
    fn load_state(&self) {
        let (tiles, at) = (&self.engine.tiles, &self.engine.at);
        let of_head = [self.sequence.slot, self.head];
        let (mean, count) = (self.buffer(at.mean), self.buffer(at.mean + at.ldm));
        // SAFETY: `mean` is [ldm + 1] and this worker's; the state is [slots, H, M], the count [slots, H]
        // (checked), and both are only read.
        unsafe {
            match self.call.tensors.get(Role::STATE_IN) {
                Some(state) => tiles.gather(&state, &of_head, 2, self.engine.basis.n_rows, mean),
                None => self.mean().fill(0.0),
            }
            *count = self.call.tensors.get(Role::COUNT_IN).map_or(0.0, |n| tiles.value(&n, &of_head));
        }
        self.snapshot(self.sequence.k0);
    }

    /// Stores them where they are wanted.
    fn store_state(&self) {
        if let Some(state) = self.call.tensors.get(Role::STATE_OUT) {
            self.store_mean(&state);
        }
        if let Some(count) = self.call.tensors.get(Role::COUNT_OUT) {
            self.store_count(&count);
        }
    }

    /// Stores them where a snapshot before key `k` wants them: token by token, so that no chunk is cut.
    fn snapshot(&self, k: usize) {
        let Some(snapshots) = self.snapshots else { return };
        let (s, to) = (&self.sequence, |role: Role| self.call.tensors.get(role.snapshots()));
        if let Some(to) = to(Role::STATE_OUT) {
            snapshots.due(s, k - s.k0, &to).for_each(|state| self.store_mean(&state));
        }
        if let Some(to) = to(Role::COUNT_OUT) {
            snapshots.due(s, k - s.k0, &to).for_each(|count| self.store_count(&count));
        }
    }

    /// Stores the mean in a tensor `[slots, H, M]`.
    fn store_mean(&self, state: &Tensor) {
        let (of_head, mean) = ([self.sequence.slot, self.head], self.buffer(self.engine.at.mean));
        let row = Rows::one(state, &of_head, 2, self.engine.basis.n_rows);
        // SAFETY: as in `load_state`; one task has this sequence and head.
        unsafe { self.engine.tiles.store(mean, self.engine.at.ldm, &row) }
    }

    /// Stores the count in a tensor `[slots, H]`.
    fn store_count(&self, count: &Tensor) {
        let (of_head, at) = ([self.sequence.slot, self.head], &self.engine.at);
        // SAFETY: as in `store_mean`.
        unsafe {
            self.engine.tiles.store(self.buffer(at.mean + at.ldm), 1, &Rows::one(count, &of_head, 1, 1))
        }
    }
}
