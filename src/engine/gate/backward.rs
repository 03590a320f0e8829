//! Gradients of the gates: the formulas are the tile's ([`gate_grad`]).
//!
//! *Tasks*: a head with its channels, or 16 heads where gates have none, with all batch entries and tokens in their
//! order, so that the sums have one order whatever the strides.

use super::{Columns, Cut, Gate, LANES, ROWS, Tile};
use crate::catalog::Role;
use crate::engine::call::Call;
use crate::error::Result;
use crate::kernel::gate_grad;
use crate::parallel::{self, Runner};
use crate::tensor::Tensor;
use crate::workspace::Workspace;
use std::ptr;

/// Heads of a task.
const HEADS: usize = 16;

/// Gradients that the call has, and those that it wants.
struct Gradients {
    dout: Tensor,
    dx: Option<Tensor>,
    da_log: Option<Tensor>,
    dbias: Option<Tensor>,
}

/// Runs a checked backward call.
pub fn run(gate: &Gate, runner: &dyn Runner, call: &Call, workspace: &Workspace) -> Result<()> {
    let grad = |role: Role| call.tensors.get(role.grad());
    let columns = |x: &Tensor| if x.layout.rank == 4 { Columns::Channels } else { Columns::Heads };
    let (Some(cut), Some(dout)) = (Cut::of(call, columns), grad(Role::OUT)) else { return Ok(()) };
    let gradients =
        Gradients { dout, dx: grad(Role::X), da_log: grad(Role::A_LOG), dbias: grad(Role::DT_BIAS) };
    let heads = cut.x.extent(1);
    let work = Backward { gate, cut, gradients };
    let memory = *workspace;
    let memory = |worker| memory.worker(0).wrapping_add(worker * gate.at.len_backward);
    if work.cut.columns == Columns::Channels {
        parallel::run(runner, heads, &|head, worker| work.head(head, memory(worker)))
    } else {
        let tasks = heads.div_ceil(HEADS);
        parallel::run(runner, tasks, &|task, worker| {
            let first = task * HEADS;
            work.strip(first, HEADS.min(heads - first), memory(worker), |batch| batch);
            work.sums_of_heads(first, HEADS.min(heads - first), memory(worker));
        })
    }
}

struct Backward<'a> {
    gate: &'a Gate,
    cut: Cut,
    gradients: Gradients,
}

impl Backward<'_> {
    /// Sums of the bias and of the rate.
    fn sums(&self, memory: *mut f32) -> [*mut f32; 2] {
        [0, 1].map(|i| memory.wrapping_add(self.gate.at.sums + i * LANES))
    }

    /// `d` columns from `column` on, all rows of all batch entries; `outer` of a batch entry is the index of the cut.
    fn strip(&self, column: usize, d: usize, memory: *mut f32, outer: impl Fn(usize) -> usize) {
        let (gate, cut) = (self.gate, &self.cut);
        let [dbias, da] = self.sums(memory);
        // SAFETY: the sums are this worker's.
        unsafe {
            ptr::write_bytes(dbias, 0, LANES);
            ptr::write_bytes(da, 0, LANES);
        }
        let (_, rows, _) = cut.extents();
        for batch in 0..cut.x.extent(0) {
            for row in (0..rows).step_by(ROWS) {
                let n = ROWS.min(rows - row);
                let tile = Tile { gate, cut, memory, at: (outer(batch), row, column), n, d };
                if batch == 0 && row == 0 {
                    tile.pack();
                }
                let (x, dy) = (tile.buffer(gate.at.x), tile.buffer(gate.at.dy));
                let [bias, pre, post] = tile.factors();
                let function = gate.form.function();
                // SAFETY: `dout` and `dx` have the extents of `x` (checked), tiles don't overlap; factors are packed
                // for these columns.
                unsafe {
                    tile.load(&cut.x, x);
                    tile.load(&self.gradients.dout, dy);
                    (gate.grad)(&gate_grad::Args {
                        n,
                        d,
                        x,
                        dy,
                        ld: LANES,
                        bias,
                        pre,
                        post,
                        function,
                        dbias,
                        da,
                    });
                    if let Some(dx) = &self.gradients.dx {
                        tile.store(dy, dx);
                    }
                }
            }
        }
    }

    /// A head with channels: its bias has a gradient for each of them, its rate one for all.
    fn head(&self, head: usize, memory: *mut f32) {
        let (_, _, columns) = self.cut.extents();
        let heads = self.cut.x.extent(1);
        let [dbias, da] = self.sums(memory);
        let mut rate = 0f64;
        for column in (0..columns).step_by(LANES) {
            let d = LANES.min(columns - column);
            self.strip(column, d, memory, |batch| batch * heads + head);
            for l in 0..d {
                // SAFETY: the sums have LANES elements; gradients have the shapes of their roles (checked).
                unsafe {
                    rate += f64::from(*da.add(l));
                    if let Some(tensor) = &self.gradients.dbias {
                        self.gate.tiles.set(tensor, &[head, column + l], *dbias.add(l));
                    }
                }
            }
        }
        if let Some(tensor) = &self.gradients.da_log {
            // SAFETY: `da_log` is [H] (checked).
            unsafe { self.gate.tiles.set(tensor, &[head], rate as f32) };
        }
    }

    /// Heads without channels: each column is one.
    fn sums_of_heads(&self, first: usize, n: usize, memory: *mut f32) {
        let sums = self.sums(memory);
        for (tensor, sums) in [&self.gradients.dbias, &self.gradients.da_log].into_iter().zip(sums) {
            let Some(tensor) = tensor else { continue };
            // SAFETY: the sums have LANES elements; gradients have the shapes of their roles, [H] (checked).
            unsafe { self.gate.tiles.scatter(sums, tensor, &[first], 0, n) };
        }
    }
}
