//! Causal depthwise convolution with carried state (`docs/spec/linear.md` 14):
//! `y_{c,t} = act(b_c + Σ_j w_{c,j} x_{c,t−W+1+j})`, the state the last `W − 1` inputs.
//!
//! Channels are taken in blocks of up to 128, and in these in panels of 16, tokens in chunks of 32. Panels of inputs
//! are packed behind the `W − 1` tokens before them, which is where the state comes in and goes out, and element types are
//! converted. Where channels lie side by side in two tensors of `f32`, all but the first chunk of a sequence is read and
//! written in place.
//!
//! *Tasks*: blocks of channels of a sequence, as many as make some tens of microseconds, the sequences of a block
//! together, since they share its packed taps. An output depends on nothing but its own channel, so no bit depends on
//! the partition, on strides, or on where a sequence is cut.
//! *Cost*: `2W` FLOPs and 8 bytes (of `f32`) per token and channel, the activation apart. *Workspace*: independent of the length.

mod backward;
mod panels;

use super::call::{Call, Sequence, Snapshots};
use super::{Engine, Extents};
use crate::catalog::Role;
use crate::context::Context;
use crate::error::Result;
use crate::kernel::causal_conv::{self, PANEL};
use crate::kernel::{KernelFn, causal_conv_grad, select};
use crate::parallel::{self, Runner};
use crate::tensor::{DType, Tensor};
use crate::workspace::{Carver, Workspace};
use panels::{Grid, Panels};
use std::ptr;

/// What a description says.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Taps `W`, at most [`causal_conv::MAX_WIDTH`].
    pub width: usize,
    /// `silu` of the sum.
    pub silu: bool,
}

/// Channels of a block: 512 bytes of a row, enough for the prefetchers, and panels that fit L1 with their outputs.
const BLOCK: usize = 8 * PANEL;
/// Tokens that are taken at a time.
const CHUNK: usize = 32;
/// Elements that a task should cover.
const GRAIN: usize = 1 << 15;

/// A convolution with its tiles and buffers.
#[derive(Clone)]
pub struct Conv {
    settings: Settings,
    /// Channels.
    d: usize,
    conv: KernelFn<causal_conv::Args>,
    conv_grad: KernelFn<causal_conv_grad::Args>,
    panels: Panels,
    at: Offsets,
    len: usize,
    backward: backward::Offsets,
}

/// Offsets of a worker's buffers, in elements.
#[derive(Clone, Copy, Debug)]
struct Offsets {
    /// Taps of a block `[panels, W, 16]`.
    weight: usize,
    /// Its biases `[panels, 16]`.
    bias: usize,
    /// Inputs of a chunk behind those before it `[panels, W − 1 + CHUNK, 16]`.
    rows: usize,
    /// Outputs of a panel `[CHUNK, 16]`.
    out: usize,
    /// What a transposition reads or writes.
    scratch: usize,
}

impl std::fmt::Debug for Conv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conv").field("settings", &self.settings).field("d", &self.d).finish_non_exhaustive()
    }
}

/// The tensors of a call.
struct Tensors {
    x: Tensor,
    weight: Tensor,
    bias: Option<Tensor>,
    state_in: Option<Tensor>,
}

impl Tensors {
    fn of(call: &Call) -> Option<Tensors> {
        Some(Tensors {
            x: call.tensors.get(Role::X)?,
            weight: call.tensors.get(Role::W_CONV)?,
            bias: call.tensors.get(Role::B_CONV),
            state_in: call.tensors.get(Role::STATE_IN),
        })
    }
}

/// A block of channels and a worker's buffers, with the block's taps packed.
struct Block<'a> {
    engine: &'a Conv,
    memory: *mut f32,
    /// First channel.
    c0: usize,
    /// Channels.
    d: usize,
    /// Packed biases, or null.
    bias: *const f32,
}

impl Engine for Conv {
    fn kernel_name(&self) -> &'static str {
        "transform:causal_conv_f32"
    }

    fn chunk(&self) -> usize {
        CHUNK
    }

    fn panel(&self) -> usize {
        PANEL
    }

    fn workspace_len(&self) -> usize {
        self.len
    }

    fn execute(&self, runner: &dyn Runner, call: &Call, workspace: &Workspace) -> Result<()> {
        let (Some(tensors), Some(out)) = (Tensors::of(call), call.tensors.get(Role::OUT)) else {
            return Ok(());
        };
        let state_out = call.tensors.get(Role::STATE_OUT);
        let to = call.tensors.get(Role::STATE_OUT.snapshots());
        let snapshots = Snapshots::of(call).zip(to);
        let sequences = call.sequences.len();
        let units = self.blocks() * sequences;
        let tokens = call.sequences.n_q * call.sequences.batch / sequences.max(1);
        let grain = (GRAIN / (BLOCK.min(self.d) * tokens.max(1))).max(1);
        parallel::run(runner, units.div_ceil(grain), &|task, worker| {
            let mut block: Option<Block<'_>> = None;
            for unit in task * grain..units.min((task + 1) * grain) {
                let c0 = unit / sequences * BLOCK;
                let block = match block.take() {
                    Some(packed) if packed.c0 == c0 => block.insert(packed),
                    _ => block.insert(self.block(&tensors, c0, workspace.worker(worker))),
                };
                if let Some(sequence) = call.sequences.get(unit % sequences) {
                    if let Some((snapshots, to)) = &snapshots {
                        snapshots
                            .places(&sequence, to)
                            .for_each(|(n, to)| block.snapshot(&tensors, &sequence, n, &to));
                    }
                    block.sequence(&tensors, &out, state_out.as_ref(), &sequence);
                }
            }
        })
    }

    fn backward_len(&self, _sequences: usize, _n_q: usize, _n_k: usize, workers: usize) -> Option<usize> {
        self.backward.len.checked_mul(workers)
    }

    fn backward(&self, runner: &dyn Runner, call: &Call, workspace: &Workspace) -> Result<()> {
        backward::run(self, runner, call, workspace)
    }
}

impl Conv {
    /// Tiles and buffers for these channels on the machine of `context`.
    pub fn plan(context: &Context, settings: Settings, extents: Extents) -> Result<Conv> {
        let (width, isa) = (settings.width, context.isa());
        let mut carver = Carver::default();
        let n_panels = extents.d.min(BLOCK).div_ceil(PANEL);
        let at = Offsets {
            weight: carver.take(&[n_panels, width, PANEL]),
            bias: carver.take(&[n_panels, PANEL]),
            rows: carver.take(&[n_panels, width - 1 + CHUNK, PANEL]),
            out: carver.take(&[CHUNK, PANEL]),
            scratch: carver.take(&[panels::SCRATCH]),
        };
        Ok(Conv {
            settings,
            d: extents.d,
            conv: select::<causal_conv::CausalConv>(isa),
            conv_grad: select::<causal_conv_grad::CausalConvGrad>(isa),
            panels: Panels::new(isa),
            at,
            len: carver.finish()?,
            backward: backward::Offsets::new(carver, n_panels, width)?,
        })
    }

    fn blocks(&self) -> usize {
        self.d.div_ceil(BLOCK)
    }

    /// Packs the taps and biases of the block that begins at channel `c0`.
    fn block(&self, tensors: &Tensors, c0: usize, memory: *mut f32) -> Block<'_> {
        let d = BLOCK.min(self.d - c0);
        let bias = memory.wrapping_add(self.at.bias);
        let block = Block {
            engine: self,
            memory,
            c0,
            d,
            bias: tensors.bias.map_or(ptr::null(), |_| bias.cast_const()),
        };
        for p in 0..block.panels() {
            let c = c0 + p * PANEL;
            // SAFETY: `w_conv` is [D, W], `b_conv` [D] (checked); buffers have the extents that `Offsets` names.
            unsafe {
                block.load(
                    &Grid::new(&tensors.weight, &[c, 0], (0, 1)),
                    p,
                    self.settings.width,
                    block.taps(p),
                );
                if let Some(tensor) = &tensors.bias {
                    block.load(&Grid::new(tensor, &[c], (0, 1)), p, 1, bias.wrapping_add(p * PANEL));
                }
            }
        }
        block
    }
}

impl Block<'_> {
    fn width(&self) -> usize {
        self.engine.settings.width
    }

    fn panels(&self) -> usize {
        self.d.div_ceil(PANEL)
    }

    /// Packed taps of panel `p`.
    fn taps(&self, p: usize) -> *mut f32 {
        self.memory.wrapping_add(self.engine.at.weight + p * self.width() * PANEL)
    }

    /// Packed biases of panel `p`, or null.
    fn biases(&self, p: usize) -> *const f32 {
        if self.bias.is_null() { self.bias } else { self.bias.wrapping_add(p * PANEL) }
    }

    /// Row `i` of panel `p` of the inputs: those of the chunk begin at `W − 1`.
    fn row(&self, p: usize, i: usize) -> *mut f32 {
        let rows = p * (self.width() - 1 + CHUNK) + i;
        self.memory.wrapping_add(self.engine.at.rows + rows * PANEL)
    }

    fn scratch(&self) -> *mut f32 {
        self.memory.wrapping_add(self.engine.at.scratch)
    }

    /// Channels of panel `p`.
    fn channels(&self, p: usize) -> usize {
        PANEL.min(self.d - p * PANEL)
    }

    /// `n` rows of panel `p` to packed memory.
    ///
    /// # Safety
    /// The grid has these rows of the panel's channels; `dst` has `16 n` elements.
    unsafe fn load(&self, from: &Grid, p: usize, n: usize, dst: *mut f32) {
        // SAFETY: the caller's contract; the scratch is this worker's.
        unsafe { self.engine.panels.load(from, (n, self.channels(p)), dst, self.scratch()) }
    }

    /// The reverse of [`Block::load`].
    ///
    /// # Safety
    /// As there, and no other task touches these elements of the grid.
    unsafe fn store(&self, src: *const f32, p: usize, n: usize, to: &Grid) {
        // SAFETY: the caller's contract; the scratch is this worker's.
        unsafe { self.engine.panels.store(src, (n, self.channels(p)), to, self.scratch()) }
    }

    /// The rows before the first token, from the state or zero.
    fn load_state(&self, state: Option<&Tensor>, s: &Sequence) {
        for p in 0..self.panels() {
            let before = self.width() - 1;
            // SAFETY: the state is [slots, D, W − 1] (checked), and the slot is one of them.
            unsafe {
                match state {
                    Some(state) => {
                        self.load(&self.channels_of(state, s.slot, 0, p), p, before, self.row(p, 0))
                    }
                    None => ptr::write_bytes(self.row(p, 0), 0, before * PANEL),
                }
            }
        }
    }

    /// Panel `p` of a tensor `[B, D, T]` from token `t` on.
    fn channels_of(&self, tensor: &Tensor, batch: usize, t: usize, p: usize) -> Grid {
        Grid::new(tensor, &[batch, self.c0 + p * PANEL, t], (1, 2))
    }

    /// One sequence from its incoming to its outgoing state.
    fn sequence(&self, tensors: &Tensors, out: &Tensor, state_out: Option<&Tensor>, s: &Sequence) {
        let (x, before) = (&tensors.x, self.width() - 1);
        let plain = |tensor: &Tensor| tensor.dtype == DType::F32 && tensor.stride(1) == 1;
        let in_place = plain(x) && plain(out);
        self.load_state(tensors.state_in.as_ref(), s);
        let mut t = 0;
        while t < s.n_q {
            let n = CHUNK.min(s.n_q - t);
            if in_place && t >= before {
                self.chunk_in_place(x, out, s, t, n);
            } else {
                (0..self.panels()).for_each(|p| self.chunk(x, out, s, (t, n), p));
            }
            t += n;
        }
        let Some(state) = state_out else { return };
        for p in 0..self.panels() {
            // SAFETY: the sequence has the tokens that are loaded; the state is [slots, D, W − 1] (checked), its
            // slot is this sequence's alone.
            unsafe {
                if in_place && t > CHUNK {
                    self.load(&self.channels_of(x, s.batch, s.q0 + t - before, p), p, before, self.row(p, 0));
                }
                self.store(self.row(p, 0), p, before, &self.channels_of(state, s.slot, 0, p));
            }
        }
    }

    /// The inputs before token `n` of a sequence, from the state where there are too few, to a state of its own.
    fn snapshot(&self, tensors: &Tensors, s: &Sequence, n: usize, to: &Tensor) {
        let before = self.width() - 1;
        self.load_state(tensors.state_in.as_ref(), s);
        let own = n.min(before);
        for p in 0..self.panels() {
            let from = self.channels_of(&tensors.x, s.batch, s.q0 + n - own, p);
            // SAFETY: the sequence has at least `n` tokens (checked), and behind the W − 1 rows of the state there is
            // room for as many; the state is [slots, D, W − 1] (checked), and this task's alone.
            unsafe {
                self.load(&from, p, own, self.row(p, before));
                self.store(self.row(p, own), p, before, &self.channels_of(to, s.slot, 0, p));
            }
        }
    }

    /// `n` tokens of a panel from token `t` on, by way of packed rows, which are moved on.
    fn chunk(&self, x: &Tensor, out: &Tensor, s: &Sequence, (t, n): (usize, usize), p: usize) {
        let before = self.width() - 1;
        let y = self.memory.wrapping_add(self.engine.at.out);
        // SAFETY: `x` and `out` are [B, D, T] (checked), the tokens lie in the sequence; buffers have the extents that
        // `Offsets` names.
        unsafe {
            self.load(&self.channels_of(x, s.batch, s.q0 + t, p), p, n, self.row(p, before));
            (self.engine.conv)(&self.args(p, n, self.row(p, 0), y));
            self.store(y, p, n, &self.channels_of(out, s.batch, s.q0 + t, p));
            ptr::copy(self.row(p, n), self.row(p, 0), before * PANEL);
        }
    }

    /// The convolution of packed rows of panel `p`.
    fn args(&self, p: usize, n: usize, src: *const f32, dst: *mut f32) -> causal_conv::Args {
        causal_conv::Args {
            n,
            d: PANEL,
            width: self.width(),
            src,
            src_stride: PANEL as isize,
            weight: self.taps(p),
            bias: self.biases(p),
            silu: self.engine.settings.silu,
            dst,
            dst_stride: PANEL as isize,
        }
    }

    /// `n` tokens of all channels from token `t ≥ W − 1` on, where they lie.
    fn chunk_in_place(&self, x: &Tensor, out: &Tensor, s: &Sequence, t: usize, n: usize) {
        let first = s.q0 + t;
        let args = causal_conv::Args {
            d: self.d,
            src: x.f32_at(&[s.batch, self.c0, first + 1 - self.width()]),
            src_stride: x.stride(2),
            dst: out.f32_at(&[s.batch, self.c0, first]),
            dst_stride: out.stride(2),
            ..self.args(0, n, ptr::null(), ptr::null_mut())
        };
        // SAFETY: channels lie side by side, the tensors are [B, D, T] (checked), and the tokens, with the W − 1 before
        // them, lie in the sequence; taps are packed for all panels of the block.
        unsafe { (self.engine.conv)(&args) }
    }
}
