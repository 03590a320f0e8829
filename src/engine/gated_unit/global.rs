//! What blocks see of each other: linear attention to the blocks before (`docs/spec/linear.md` 9).
//!
//! ```text
//! for each block:
//!     for each run of 64 queries of it:      q ← lin_scale · (γ_1 ⊙ z + β_1)      out = qᵀ S
//!     for each run of 64 tokens of it:       k ← γ_3 ⊙ z + β_3                    S = S + Σ k vᵀ      if it is whole
//! ```
//!
//! Without an order of tokens all are written first, then all are read. Reads and writes are passes of the linear
//! engine. Its heads are here groups of value columns, as wide as a panel, so that one sequence makes several tasks; the
//! rows of a run are made anew for each.

use super::{Blocks, maps, view, with_head};
use crate::catalog::{Mode, Role};
use crate::context::Context;
use crate::engine::call::{self, Heads, Sequence};
use crate::engine::linear::{Call, Linear, Pass, Recurrence, Rows, Tensors, Tiles, Unit};
use crate::engine::softmax::{Base, affine};
use crate::engine::{Engine, Extents};
use crate::error::{Error, Result};
use crate::parallel::{self, Runner};
use crate::tensor::{DType, Tensor};
use crate::workspace::{Carver, Workspace};
use std::ops::Range;
use std::ptr;

/// Tokens of a run: four chunks of the linear engine.
const RUN: usize = 64;
/// Most value columns of a group, and the least that are worth making one.
const WIDEST: usize = 256;
const NARROWEST: usize = 32;

/// The linear part.
#[derive(Debug)]
pub struct Global {
    blocks: Blocks,
    linear: Linear,
    tiles: Tiles,
    /// Groups of value columns, and columns of each.
    groups: usize,
    width: usize,
    d: usize,
    at: Offsets,
    len: usize,
}

/// Offsets of a worker's buffers, in elements.
#[derive(Clone, Copy, Debug)]
struct Offsets {
    /// Those of the linear engine.
    linear: usize,
    /// Rows of a run `[RUN, D]` padded.
    rows: usize,
    /// Maps of the queries, of the keys: weight and bias of each, `[4, D]` padded.
    maps: usize,
}

/// Which rows of the maps: of queries, of keys.
const HEADS: [usize; 2] = [1, 3];

impl Global {
    /// The linear engine on groups of columns.
    pub fn plan(context: &Context, blocks: Blocks, extents: Extents) -> Result<Global> {
        let Extents { d, e, .. } = extents;
        let fits = |groups: &usize| e.is_multiple_of(*groups) && e / groups <= WIDEST;
        let groups = (1..=e / NARROWEST).find(fits).unwrap_or(1);
        let width = e / groups;
        let heads = Heads::new(1, 1, groups);
        let recurrence = Recurrence::default();
        let linear = Linear::plan(
            context,
            recurrence,
            Extents {
                e: width,
                heads,
                dtype_qkv: DType::F32,
                dtype_out: DType::F32,
                bf16_dot: false,
                ..extents
            },
        )?;
        let d16 = d.next_multiple_of(16);
        let mut carver = Carver::default();
        let at = Offsets {
            linear: carver.take(&[linear.workspace_len()]),
            rows: carver.take(&[RUN, d16]),
            maps: carver.take(&[4, d16]),
        };
        let tiles = Tiles::new(context.isa(), &recurrence);
        Ok(Global { blocks, linear, tiles, groups, width, d, at, len: carver.finish()? })
    }

    /// Elements of one worker's buffers.
    pub fn workspace_len(&self) -> usize {
        self.len
    }

    /// Factor of the linear part.
    pub fn scale(&self, causal: bool, sequence: &Sequence) -> f32 {
        let length = if causal { self.blocks.block } else { sequence.n_k };
        self.blocks.scale.unwrap_or((length as f32).recip())
    }

    /// Writes the linear part of every query to `out`, and the state that is carried on.
    pub fn run(&self, runner: &dyn Runner, call: &call::Call, workspace: &Workspace) -> Result<()> {
        let missing = Error::Internal("a tensor of the call is missing");
        let tensors = self.tensors(call).ok_or(missing.clone())?;
        let base = call.tensors.get(Role::QK).map(|base| with_head(&base)).ok_or(missing.clone())?;
        let maps = maps(call).ok_or(missing)?;
        let linear = Call::with(call, tensors);
        parallel::run(runner, call.sequences.len() * self.groups, &|task, worker| {
            let Some(sequence) = call.sequences.get(task / self.groups) else { return };
            let (head, memory) = (task % self.groups, workspace.worker(worker));
            let causal = call.mode != Mode::Bidirectional;
            let mut scan = Scan { global: self, call: linear, base, sequence, head, memory };
            scan.load_maps(&maps, self.scale(causal, &sequence));
            scan.run(causal);
        })
    }

    /// The call as the linear engine sees it; queries and keys are bound run by run.
    fn tensors(&self, call: &call::Call) -> Option<Tensors> {
        let get = |role| call.tensors.get(role);
        let tokens = |tensor: Tensor| self.by_group(&with_head(&tensor));
        let state = |tensor: Tensor| self.by_group(&with_head(&tensor));
        Some(Tensors {
            v: Some(tokens(get(Role::V)?)),
            out: Some(tokens(get(Role::OUT)?)),
            state_in: get(Role::STATE_IN).map(state),
            state_out: get(Role::STATE_OUT).map(state),
            ..Tensors::default()
        })
    }

    /// `[n, 1, rows, E]` as `[n, groups, rows, width]`.
    pub fn by_group(&self, tensor: &Tensor) -> Tensor {
        let (shape, stride) = (tensor.layout.shape, tensor.layout.stride);
        let (groups, width) = (self.groups as i64, self.width as i64);
        view(
            tensor,
            [shape[0], groups, shape[2], width],
            [stride[0], width * stride[3], stride[2], stride[3]],
        )
    }
}

/// One sequence and group of columns.
struct Scan<'a> {
    global: &'a Global,
    call: Call,
    base: Tensor,
    sequence: Sequence,
    head: usize,
    /// This worker's buffers.
    memory: *mut f32,
}

impl Scan<'_> {
    fn buffer(&self, offset: usize) -> *mut f32 {
        self.memory.wrapping_add(offset)
    }

    fn d16(&self) -> usize {
        self.global.d.next_multiple_of(16)
    }

    /// Weight and bias of the map of queries, or of keys.
    fn map(&self, keys: bool) -> [*mut f32; 2] {
        [0, 1].map(|part| self.buffer(self.global.at.maps + (2 * usize::from(keys) + part) * self.d16()))
    }

    /// Loads both maps; the scale goes to that of the queries.
    fn load_maps(&self, maps: &Base, scale: f32) {
        let (tiles, d, d16) = (&self.global.tiles, self.global.d, self.d16());
        for (keys, scale) in [(false, scale), (true, 1.0)] {
            let at = [HEADS[usize::from(keys)]];
            for (tensor, to) in [&maps.weight, &maps.bias].into_iter().zip(self.map(keys)) {
                // SAFETY: maps are [4, D] (checked); buffers are vectors of `d16`.
                unsafe { tiles.load(&Rows::one(tensor, &at, 1, d), scale, ptr::null(), to, d16) };
            }
        }
    }

    fn unit<'b>(&'b self, call: &'b Call) -> Unit<'b> {
        let memory = self.buffer(self.global.at.linear);
        Unit::new(&self.global.linear, call, self.sequence, self.head, memory)
    }

    /// All of the sequence.
    fn run(&mut self, causal: bool) {
        let s = self.sequence;
        let ahead = s.n_k - s.n_q;
        self.unit(&self.call).load_state();
        if causal {
            for start in (0..s.n_k).step_by(self.global.blocks.block) {
                let block = start..s.n_k.min(start.saturating_add(self.global.blocks.block));
                self.pass(start.max(ahead).min(block.end)..block.end, false);
                if block.len() == self.global.blocks.block {
                    self.pass(block, true);
                }
            }
        } else {
            self.pass(0..s.n_k, true);
            self.pass(ahead..s.n_k, false);
        }
        self.unit(&self.call).store_state();
    }

    /// Reads or writes these tokens, run by run.
    fn pass(&mut self, tokens: Range<usize>, write: bool) {
        let s = self.sequence;
        for start in tokens.clone().step_by(RUN) {
            let n = RUN.min(tokens.end - start);
            self.rows(start, n, write);
            // As a query or as a key of the linear engine, where the pass reads one or writes one.
            let query = (s.q0 + start).wrapping_sub(s.n_k - s.n_q);
            let token = if write { s.k0 + start } else { query };
            let rows = Some(self.window(token));
            (self.call.tensors.q, self.call.tensors.k) = (rows, rows);
            self.unit(&self.call).run(Pass { q0: query, k0: s.k0 + start, n, read: !write, write });
        }
    }

    /// Rows of a run, as queries or as keys.
    fn rows(&self, start: usize, n: usize, keys: bool) {
        let (tiles, d, d16, s) = (&self.global.tiles, self.global.d, self.d16(), self.sequence);
        let (to, [weight, bias]) = (self.buffer(self.global.at.rows), self.map(keys));
        let at = [s.batch, 0, s.k0 + start];
        // SAFETY: the base is [B, 1, S, D] (checked), and the tokens lie in the sequence; `n ≤ RUN`.
        unsafe {
            tiles.load(&Rows::tokens(&self.base, &at, (n, d)), 1.0, ptr::null(), to, d16);
            affine(tiles, (n, d), (to, d16), weight, bias);
        }
    }

    /// The rows of a run as the tensor `[B, 1, tokens, D]` of which they hold a part, from this token on.
    fn window(&self, token: usize) -> Tensor {
        let d16 = self.d16();
        let data = self.buffer(self.global.at.rows).wrapping_sub(token * d16).cast();
        let rows = view(&self.base, [1, 1, 1, self.global.d as i64], [0, 0, d16 as i64, 1]);
        Tensor { data, dtype: DType::F32, ..rows }
    }
}
