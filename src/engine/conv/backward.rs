//! Gradients of the convolution.
//!
//! With `dz = dout ⊙ act'(z)`, zero outside the sequence, the gradient of the inputs, those of the state before them
//! included, is a convolution again:
//!
//! ```text
//! dx_p = Σ_j w_{W−1−j} dz_{p−W+1+j} (+ dstate_out)      p = 0 … T + W − 2, the state's rows first
//! dw_j = Σ_t dz_t x_{t−W+1+j}                           db = Σ_t dz_t
//! ```
//!
//! so the forward tile runs over `dz` with the taps in reverse, `W − 1` tokens longer than the sequence.
//!
//! *Tasks*: a block of channels with all sequences, in their order, so that its sums have one order.
//! *Cost*: twice to three times the forward pass. *Workspace*: independent of the length.

use super::{BLOCK, Block, CHUNK, Conv, Tensors};
use crate::catalog::Role;
use crate::engine::call::{Call, Sequence};
use crate::error::Result;
use crate::kernel::causal_conv::{self, PANEL};
use crate::kernel::causal_conv_grad;
use crate::parallel::{self, Runner};
use crate::tensor::Tensor;
use crate::workspace::{Carver, Workspace};
use std::ptr;

/// Offsets of the buffers that backward has beside those of forward, in elements.
#[derive(Clone, Copy, Debug)]
pub struct Offsets {
    /// Taps in reverse `[panels, W, 16]`.
    reversed: usize,
    /// `dz` of a chunk behind that before it `[panels, W − 1 + CHUNK, 16]`.
    dz: usize,
    /// `dout` of a panel's chunk `[CHUNK, 16]`.
    dout: usize,
    /// `dstate_out` of a panel `[W − 1, 16]`.
    state: usize,
    /// Gradient of the taps `[panels, W, 16]`.
    dw: usize,
    /// Gradient of the biases `[panels, 16]`.
    db: usize,
    /// Elements of one worker's buffers, those of forward included.
    pub len: usize,
}

impl Offsets {
    /// Buffers behind those that `carver` has carved.
    pub fn new(mut carver: Carver, n_panels: usize, width: usize) -> Result<Offsets> {
        let mut at = Offsets {
            reversed: carver.take(&[n_panels, width, PANEL]),
            dz: carver.take(&[n_panels, width - 1 + CHUNK, PANEL]),
            dout: carver.take(&[CHUNK, PANEL]),
            state: carver.take(&[width - 1, PANEL]),
            dw: carver.take(&[n_panels, width, PANEL]),
            db: carver.take(&[n_panels, PANEL]),
            len: 0,
        };
        at.len = carver.finish()?;
        Ok(at)
    }
}

/// Gradients that the call has, and those that it wants.
struct Gradients {
    dout: Tensor,
    dstate_out: Option<Tensor>,
    dx: Option<Tensor>,
    dstate_in: Option<Tensor>,
    dweight: Option<Tensor>,
    dbias: Option<Tensor>,
}

/// Runs a checked backward call.
pub fn run(engine: &Conv, runner: &dyn Runner, call: &Call, workspace: &Workspace) -> Result<()> {
    let grad = |role: Role| call.tensors.get(role.grad());
    let (Some(tensors), Some(dout)) = (Tensors::of(call), grad(Role::OUT)) else { return Ok(()) };
    let gradients = Gradients {
        dout,
        dstate_out: grad(Role::STATE_OUT),
        dx: grad(Role::X),
        dstate_in: grad(Role::STATE_IN),
        dweight: grad(Role::W_CONV),
        dbias: grad(Role::B_CONV),
    };
    let memory = *workspace;
    parallel::run(runner, engine.blocks(), &|task, worker| {
        let memory = memory.worker(0).wrapping_add(worker * engine.backward.len);
        let block = Backward { block: engine.block(&tensors, task * BLOCK, memory), gradients: &gradients };
        block.start();
        for i in 0..call.sequences.len() {
            if let Some(sequence) = call.sequences.get(i) {
                block.sequence(&tensors, &sequence);
            }
        }
        block.finish();
    })
}

/// A block of channels on its way back.
struct Backward<'a> {
    block: Block<'a>,
    gradients: &'a Gradients,
}

impl Backward<'_> {
    fn buffer(&self, at: impl Fn(&Offsets) -> usize, panel_len: usize, p: usize) -> *mut f32 {
        self.block.memory.wrapping_add(at(&self.block.engine.backward) + p * panel_len * PANEL)
    }

    fn reversed(&self, p: usize) -> *mut f32 {
        self.buffer(|at| at.reversed, self.block.width(), p)
    }

    fn dw(&self, p: usize) -> *mut f32 {
        self.buffer(|at| at.dw, self.block.width(), p)
    }

    fn db(&self, p: usize) -> *mut f32 {
        self.buffer(|at| at.db, 1, p)
    }

    /// Row `i` of panel `p` of `dz`: those of the chunk begin at `W − 1`.
    fn dz(&self, p: usize, i: usize) -> *mut f32 {
        self.buffer(|at| at.dz, self.block.width() - 1 + CHUNK, p).wrapping_add(i * PANEL)
    }

    /// Reverses the taps and clears the sums.
    fn start(&self) {
        let width = self.block.width();
        for p in 0..self.block.panels() {
            // SAFETY: the buffers have the extents that `Offsets` names and are this worker's.
            unsafe {
                for j in 0..width {
                    let (from, to) = (self.block.taps(p), self.reversed(p));
                    ptr::copy_nonoverlapping(from.add((width - 1 - j) * PANEL), to.add(j * PANEL), PANEL);
                }
                ptr::write_bytes(self.dw(p), 0, width * PANEL);
                ptr::write_bytes(self.db(p), 0, PANEL);
            }
        }
    }

    /// One sequence: adds to the sums, writes the gradients of its inputs.
    fn sequence(&self, tensors: &Tensors, s: &Sequence) {
        let before = self.block.width() - 1;
        self.block.load_state(tensors.state_in.as_ref(), s);
        for p in 0..self.block.panels() {
            // SAFETY: `dz` has W − 1 rows before the chunk.
            unsafe { ptr::write_bytes(self.dz(p, 0), 0, before * PANEL) };
        }
        for t in (0..s.n_q + before).step_by(CHUNK) {
            let n = CHUNK.min(s.n_q + before - t);
            (0..self.block.panels()).for_each(|p| self.chunk(tensors, s, (t, n), p));
        }
    }

    /// `n` tokens of a panel from token `t` on; those past the end of the sequence have no gradient.
    fn chunk(&self, tensors: &Tensors, s: &Sequence, (t, n): (usize, usize), p: usize) {
        let (block, before) = (&self.block, self.block.width() - 1);
        let there = s.n_q.saturating_sub(t).min(n);
        let dout = self.buffer(|at| at.dout, 0, 0);
        // SAFETY: `x` and `dout` are [B, D, T] (checked), the tokens that are there lie in the sequence; buffers have
        // the extents that `Offsets` names.
        unsafe {
            if there > 0 {
                let (b, first) = (s.batch, s.q0 + t);
                block.load(&block.channels_of(&tensors.x, b, first, p), p, there, block.row(p, before));
                block.load(&block.channels_of(&self.gradients.dout, b, first, p), p, there, dout);
            }
            (block.engine.conv_grad)(&causal_conv_grad::Args {
                n: there,
                width: before + 1,
                src: block.row(p, 0),
                weight: block.taps(p),
                bias: block.biases(p),
                silu: block.engine.settings.silu,
                dout,
                dz: self.dz(p, before),
                dw: self.dw(p),
                db: self.db(p),
            });
            ptr::write_bytes(self.dz(p, before + there), 0, (n - there) * PANEL);
            if self.gradients.dx.is_some() || self.gradients.dstate_in.is_some() {
                self.inputs(s, (t, n), p);
            }
            ptr::copy(block.row(p, n), block.row(p, 0), before * PANEL);
            ptr::copy(self.dz(p, n), self.dz(p, 0), before * PANEL);
        }
    }

    /// Gradients of the rows `t .. t + n` of what the sequence read: its state, then its inputs.
    ///
    /// # Safety
    /// The sequence has `T ≥ t + n − (W − 1)` tokens.
    unsafe fn inputs(&self, s: &Sequence, (t, n): (usize, usize), p: usize) {
        let (block, before) = (&self.block, self.block.width() - 1);
        let dx = block.memory.wrapping_add(block.engine.at.out);
        // SAFETY: gradients have the shapes of their roles (checked); buffers have the extents that `Offsets` names.
        unsafe {
            (block.engine.conv)(&causal_conv::Args {
                weight: self.reversed(p),
                bias: ptr::null(),
                silu: false,
                ..block.args(p, n, self.dz(p, 0), dx)
            });
            if let Some(tensor) = self.gradients.dstate_out.filter(|_| t + n > s.n_q) {
                // The last W − 1 rows are what was carried out.
                let first = t.max(s.n_q);
                let (rows, state) = (t + n - first, self.buffer(|at| at.state, 0, 0));
                block.load(&block.channels_of(&tensor, s.slot, first - s.n_q, p), p, rows, state);
                for i in 0..rows * PANEL {
                    *dx.add((first - t) * PANEL + i) += *state.add(i);
                }
            }
            let of_state = before.saturating_sub(t).min(n);
            if let Some(tensor) = self.gradients.dstate_in.filter(|_| of_state > 0) {
                block.store(dx, p, of_state, &block.channels_of(&tensor, s.slot, t, p));
            }
            if let Some(tensor) = self.gradients.dx.filter(|_| n > of_state) {
                let first = s.q0 + t + of_state - before;
                let rows = dx.add(of_state * PANEL);
                block.store(rows, p, n - of_state, &block.channels_of(&tensor, s.batch, first, p));
            }
        }
    }

    /// Writes the sums.
    fn finish(&self) {
        use super::Grid;
        let block = &self.block;
        for p in 0..block.panels() {
            let c = block.c0 + p * PANEL;
            // SAFETY: the gradients are [D, W] and [D] (checked), and these channels are this task's.
            unsafe {
                if let Some(tensor) = &self.gradients.dweight {
                    block.store(self.dw(p), p, block.width(), &Grid::new(tensor, &[c, 0], (0, 1)));
                }
                if let Some(tensor) = &self.gradients.dbias {
                    block.store(self.db(p), p, 1, &Grid::new(tensor, &[c], (0, 1)));
                }
            }
        }
    }
}
