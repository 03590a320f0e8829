//! Gate functions (`docs/spec/linear.md` 7): `out = post · f(pre · (x + bias))`, element by element.
//!
//! | form | `f` | `pre` | `post` |
//! | --- | --- | --- | --- |
//! | `softplus` | softplus | 1 | `−e^{a_log}` |
//! | `lower_bound` | σ | `e^{a_log}` | lower bound |
//! | `logsigmoid` | softplus | −1 | −1 / normaliser |
//! | `sigmoid` | σ | 1 | gain |
//!
//! *Tasks*: tiles of rows and columns, as many as make some tens of microseconds. *Element types* are converted where a
//! tile is loaded and stored. *Cost*: 8 bytes per element of `f32`. *Workspace*: one tile.

mod backward;

use super::call::Call;
use super::linear::{Recurrence, Rows, Tiles};
use super::{Engine, Extents};
use crate::catalog::Role;
use crate::context::Context;
use crate::error::Result;
use crate::kernel::{KernelFn, gate, gate_grad, select};
use crate::parallel::{self, Runner};
use crate::tensor::Tensor;
use crate::workspace::{Carver, Workspace};
use std::ptr;

/// Which gate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// `−e^{a_log} · softplus(x + dt_bias)`.
    Softplus,
    /// `bound · σ(e^{a_log} (x + dt_bias))`.
    LowerBound { bound: f32 },
    /// `log σ(x) / normalizer`.
    LogSigmoid { normalizer: f32 },
    /// `gain · σ(x)`.
    Sigmoid { gain: f32 },
}

impl Form {
    /// Whether the gate has a rate, `a_log`, and may have a bias.
    pub fn has_rate(self) -> bool {
        matches!(self, Form::Softplus | Form::LowerBound { .. })
    }

    fn function(self) -> gate::Function {
        match self {
            Form::Softplus | Form::LogSigmoid { .. } => gate::Function::Softplus,
            Form::LowerBound { .. } | Form::Sigmoid { .. } => gate::Function::Sigmoid,
        }
    }

    /// `pre` and `post` of a head.
    fn factors(self, a_log: f32) -> (f32, f32) {
        match self {
            Form::Softplus => (1.0, -a_log.exp()),
            Form::LowerBound { bound } => (a_log.exp(), bound),
            Form::LogSigmoid { normalizer } => (-1.0, -normalizer.recip()),
            Form::Sigmoid { gain } => (1.0, gain),
        }
    }
}

/// Columns of a tile.
const LANES: usize = 256;
/// Rows of a tile.
const ROWS: usize = 16;
/// Elements that a task should cover.
const GRAIN: usize = 1 << 14;

/// A gate with its tiles.
#[derive(Clone)]
pub struct Gate {
    form: Form,
    gate: KernelFn<gate::Args>,
    grad: KernelFn<gate_grad::Args>,
    /// Loads and stores by element type.
    tiles: Tiles,
    at: Offsets,
}

/// Offsets of a worker's buffers, in elements.
#[derive(Clone, Copy, Debug)]
struct Offsets {
    /// A tile `[ROWS, LANES]`.
    x: usize,
    /// Bias, `pre` and `post` of its columns `[3, LANES]`.
    factors: usize,
    len: usize,
    /// Backward only: gradient of a tile, and two sums per column.
    dy: usize,
    sums: usize,
    len_backward: usize,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("form", &self.form).finish_non_exhaustive()
    }
}

/// Which axis of `x [B, H, T]` or `[B, H, T, D]` gives the columns of a tile.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Columns {
    Heads,
    Tokens,
    Channels,
}

/// The tensors of a call and how they are cut.
struct Cut {
    x: Tensor,
    a_log: Option<Tensor>,
    bias: Option<Tensor>,
    columns: Columns,
}

impl Cut {
    fn of(call: &Call, columns: impl FnOnce(&Tensor) -> Columns) -> Option<Cut> {
        let x = call.tensors.get(Role::X)?;
        let (a_log, bias) = (call.tensors.get(Role::A_LOG), call.tensors.get(Role::DT_BIAS));
        Some(Cut { x, a_log, bias, columns: columns(&x) })
    }

    /// The axis of rows and that of columns.
    fn axes(&self) -> (usize, usize) {
        match self.columns {
            Columns::Heads => (2, 1),
            // A row is all there is: its stride is not used.
            Columns::Tokens => (0, 2),
            Columns::Channels => (2, 3),
        }
    }

    /// Pairs of batch entry and head, batch entries, rows and columns of each.
    fn extents(&self) -> (usize, usize, usize) {
        let x = &self.x;
        match self.columns {
            Columns::Heads => (x.extent(0), x.extent(2), x.extent(1)),
            Columns::Tokens => (x.extent(0) * x.extent(1), 1, x.extent(2)),
            Columns::Channels => (x.extent(0) * x.extent(1), x.extent(2), x.extent(3)),
        }
    }

    /// Head, of those that columns don't run over.
    fn head(&self, outer: usize) -> usize {
        if self.columns == Columns::Heads { 0 } else { outer % self.x.extent(1) }
    }

    /// Indices of the element in a row and column.
    fn index(&self, outer: usize, row: usize, column: usize) -> [usize; 4] {
        let (batch, head) = (outer / self.x.extent(1), self.head(outer));
        match self.columns {
            Columns::Heads => [outer, column, row, 0],
            Columns::Tokens => [batch, head, column, 0],
            Columns::Channels => [batch, head, row, column],
        }
    }
}

impl Engine for Gate {
    fn kernel_name(&self) -> &'static str {
        "transform:gate_f32"
    }

    fn chunk(&self) -> usize {
        1
    }

    fn panel(&self) -> usize {
        LANES
    }

    fn workspace_len(&self) -> usize {
        self.at.len
    }

    fn execute(&self, runner: &dyn Runner, call: &Call, workspace: &Workspace) -> Result<()> {
        let columns = |x: &Tensor| match x.layout.rank {
            4 => Columns::Channels,
            _ if x.stride(2) == 1 && x.extent(2) > 1 => Columns::Tokens,
            _ => Columns::Heads,
        };
        let (Some(cut), Some(out)) = (Cut::of(call, columns), call.tensors.get(Role::OUT)) else {
            return Ok(());
        };
        let (outer, rows, columns) = cut.extents();
        let (down, across) = (rows.div_ceil(ROWS), columns.div_ceil(LANES));
        let tiles = outer * across * down;
        let grain = (GRAIN / (rows.clamp(1, ROWS) * columns.clamp(1, LANES))).max(1);
        parallel::run(runner, tiles.div_ceil(grain), &|task, worker| {
            let mut packed = None;
            for tile in task * grain..tiles.min((task + 1) * grain) {
                let (strip, first) = (tile / down, tile % down * ROWS);
                let at = (strip / across, first, strip % across * LANES);
                let tile = Tile {
                    gate: self,
                    cut: &cut,
                    memory: workspace.worker(worker),
                    at,
                    n: ROWS.min(rows - first),
                    d: LANES.min(columns - at.2),
                };
                if packed.replace(strip) != Some(strip) {
                    tile.pack();
                }
                tile.forward(&out);
            }
        })
    }

    fn backward_len(&self, _sequences: usize, _n_q: usize, _n_k: usize, workers: usize) -> Option<usize> {
        self.at.len_backward.checked_mul(workers)
    }

    fn backward(&self, runner: &dyn Runner, call: &Call, workspace: &Workspace) -> Result<()> {
        backward::run(self, runner, call, workspace)
    }
}

impl Gate {
    /// Tiles for the machine of `context`.
    pub fn plan(context: &Context, form: Form, _: Extents) -> Result<Gate> {
        let isa = context.isa();
        let mut carver = Carver::default();
        let (x, factors) = (carver.take(&[ROWS, LANES]), carver.take(&[3, LANES]));
        let len = carver.finish()?;
        let (dy, sums) = (carver.take(&[ROWS, LANES]), carver.take(&[2, LANES]));
        let at = Offsets { x, factors, len, dy, sums, len_backward: carver.finish()? };
        Ok(Gate {
            form,
            gate: select::<gate::Gate>(isa),
            grad: select::<gate_grad::GateGrad>(isa),
            tiles: Tiles::new(isa, &Recurrence::default()),
            at,
        })
    }
}

/// Some rows and columns, and a worker's buffers.
struct Tile<'a> {
    gate: &'a Gate,
    cut: &'a Cut,
    memory: *mut f32,
    /// Outer index, first row, first column.
    at: (usize, usize, usize),
    n: usize,
    d: usize,
}

impl Tile<'_> {
    fn buffer(&self, at: usize) -> *mut f32 {
        self.memory.wrapping_add(at)
    }

    /// Bias, `pre` and `post` of the columns.
    fn factors(&self) -> [*mut f32; 3] {
        [0, 1, 2].map(|i| self.buffer(self.gate.at.factors + i * LANES))
    }

    fn pack(&self) {
        let (outer, _, column) = self.at;
        let [bias, pre, post] = self.factors();
        let first = self.cut.head(outer);
        for l in 0..self.d {
            let head = if self.cut.columns == Columns::Heads { column + l } else { first };
            let index = [head, if self.cut.columns == Columns::Channels { column + l } else { 0 }];
            // SAFETY: `a_log` is [H], `dt_bias` [H] or [H, D] as `x` has channels (checked); l < LANES.
            unsafe {
                let value = |tensor: &Option<Tensor>| {
                    tensor.map_or(0.0, |t| self.gate.tiles.value(&t, &index[..t.layout.rank]))
                };
                *bias.add(l) = value(&self.cut.bias);
                (*pre.add(l), *post.add(l)) = self.gate.form.factors(value(&self.cut.a_log));
            }
        }
    }

    /// This tile of a tensor with the extents of `x`.
    fn rows<'b>(&self, tensor: &'b Tensor, index: &'b [usize; 4]) -> Rows<'b> {
        let (rows, columns) = self.cut.axes();
        Rows { tensor, at: index, rows, columns, n: self.n, d: self.d }
    }

    fn index(&self) -> [usize; 4] {
        let (outer, row, column) = self.at;
        self.cut.index(outer, row, column)
    }

    /// The tile of a tensor with the extents of `x`, packed.
    ///
    /// # Safety
    /// The tensor has these extents.
    unsafe fn load(&self, tensor: &Tensor, dst: *mut f32) {
        let index = self.index();
        // SAFETY: the caller's contract; the buffer has ROWS rows of LANES.
        unsafe { self.gate.tiles.load(&self.rows(tensor, &index), 1.0, ptr::null(), dst, LANES) }
    }

    /// The reverse.
    ///
    /// # Safety
    /// The tensor has the extents of `x`, and no other task touches this tile of it.
    unsafe fn store(&self, src: *const f32, tensor: &Tensor) {
        let index = self.index();
        // SAFETY: the caller's contract; the buffer has ROWS rows of LANES.
        unsafe { self.gate.tiles.store(src, LANES, &self.rows(tensor, &index)) }
    }

    fn forward(&self, out: &Tensor) {
        let x = self.buffer(self.gate.at.x);
        let [bias, pre, post] = self.factors();
        let (n, d, function) = (self.n, self.d, self.gate.form.function());
        // SAFETY: `out` has the extents of `x` (checked), tiles don't overlap; factors are packed for these columns.
        unsafe {
            self.load(&self.cut.x, x);
            (self.gate.gate)(&gate::Args { n, d, x, ld: LANES, bias, pre, post, function });
            self.store(x, out);
        }
    }
}
