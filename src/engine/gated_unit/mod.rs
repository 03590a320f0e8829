//! Gated attention units (`docs/spec/linear.md` 9): one head without a softmax, its queries and keys made of one base.
//!
//! ```text
//! h_n = γ_n ⊙ z + β_n      o_i = gate_i ⊙ (Σ_j w(h_0,i · h_1,j · scale + bias_ij) v_j)                           gau
//! o_i = gate_i ⊙ (Σ_{j in the block} w(h_0,i · h_2,j · scale + bias_ij) v_j + lin_scale · h_1,iᵀ S)              flash
//! S = Σ h_3,j v_jᵀ over the blocks before, or over all tokens
//! ```
//!
//! The first sum is the softmax engine's, with other weights; the second one is the linear engine's, which writes it to
//! `out` first (`global.rs`): the tiles of the other add theirs to it, and multiply by the gate.
//!
//! **Cache.** `qk`, `v` and `bias` may have more tokens than `gate` and `out`: those before the queries. A step takes
//! all tokens so far, or, with blocks, those of its block so far, and the state of the blocks before.
//!
//! *Tasks*: those of the two engines, one after the other. *Cost*: `2(D + E)` FLOPs for each pair of a query and a key
//! that it sees, and `4DE` for a token where there are blocks. *Workspace*: independent of the length.

mod backward;
mod global;

use super::call::{self, Heads};
use super::linear::{Recurrence, Tiles};
use super::softmax::{self, Attention, Base, Reach, Softmax, Weights};
use super::{Engine, Extents};
use crate::catalog::Role;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::kernel::{elementwise, products, select};
use crate::parallel::Runner;
use crate::tensor::{Layout, MAX_RANK, Tensor};
use crate::workspace::Workspace;
use global::Global;

/// Settings of a mechanism.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unit {
    pub weights: Weights,
    /// Factor of the scores.
    pub scale: f32,
    /// Tokens see each other inside blocks, and blocks by a linear part.
    pub blocks: Option<Blocks>,
}

/// Blocks of tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Blocks {
    /// Tokens of a block.
    pub block: usize,
    /// Factor of the linear part; by default one by the length: of a block, or of the sequence where it is read whole.
    pub scale: Option<f32>,
}

impl Unit {
    /// Which of the maps make queries and keys of the scores.
    fn heads(&self) -> [usize; 2] {
        if self.blocks.is_some() { [0, 2] } else { [0, 1] }
    }
}

/// A unit with its two parts.
#[derive(Debug)]
pub struct GatedUnit {
    unit: Unit,
    scores: Softmax,
    global: Option<Global>,
    kernels: backward::Kernels,
    d: usize,
    e: usize,
    len: usize,
}

impl GatedUnit {
    /// Blocking and tiles for these dimensions on the machine of `context`; there is one head.
    pub fn plan(context: &Context, unit: Unit, extents: Extents) -> Result<GatedUnit> {
        let extents = Extents { heads: Heads::new(1, 1, 1), ..extents };
        let plain = Attention::new(unit.scale);
        let reach =
            unit.blocks.map_or(plain.reach, |Blocks { block, .. }| Reach::Blocks { block, memory: 0 });
        let attention = Attention { reach, weights: unit.weights, base: Some(unit.heads()), ..plain };
        let scores = Softmax::plan(context, attention, extents)?;
        let global = unit.blocks.map(|blocks| Global::plan(context, blocks, extents)).transpose()?;
        let len = scores.workspace_len().max(global.as_ref().map_or(0, Global::workspace_len));
        let isa = context.isa();
        let kernels = backward::Kernels {
            tiles: Tiles::new(isa, &Recurrence::default()),
            weights: match unit.weights {
                Weights::Laplace => select::<elementwise::LaplaceWeight>(isa),
                _ => select::<elementwise::Relu2Weight>(isa),
            },
            products: select::<products::Products>(isa),
        };
        Ok(GatedUnit { unit, scores, global, kernels, d: extents.d, e: extents.e, len })
    }

    /// The call as the softmax engine sees it.
    fn scores_call(&self, call: &call::Call) -> Option<softmax::Call> {
        let get = |role| call.tensors.get(role);
        let base = with_head(&get(Role::QK)?);
        let ahead = call.sequences.n_k - call.sequences.n_q;
        Some(softmax::Call {
            q: Some(base.from(2, ahead)),
            k: Some(base),
            v: Some(with_head(&get(Role::V)?)),
            out: Some(with_head(&get(Role::OUT)?)),
            bias: get(Role::BIAS).map(|bias| self.bias(&bias, ahead)),
            base: Some(maps(call)?),
            bias_of_block: self.unit.blocks.is_some(),
            gate: get(Role::GATE).map(|gate| with_head(&gate)),
            begun: self.unit.blocks.is_some(),
            ..softmax::Call::new(call)
        })
    }

    /// A bias as `[1, 1, queries, keys]`, `ahead` keys before the first query; that of a block as it is.
    fn bias(&self, bias: &Tensor, ahead: usize) -> Tensor {
        let matrix = square(bias);
        if self.unit.blocks.is_some() { matrix } else { matrix.from(2, ahead) }
    }
}

/// The maps of a call.
fn maps(call: &call::Call) -> Option<Base> {
    let get = |role| call.tensors.get(role);
    Some(Base { weight: get(Role::AFFINE_WEIGHT)?, bias: get(Role::AFFINE_BIAS)? })
}

/// A tensor `[B, T, channels]` with one head, `[B, 1, T, channels]`.
fn with_head(tensor: &Tensor) -> Tensor {
    let (shape, stride) = (tensor.layout.shape, tensor.layout.stride);
    view(tensor, [shape[0], 1, shape[1], shape[2]], [stride[0], 0, stride[1], stride[2]])
}

/// A matrix `[n, n]`, or its diagonals `[2n − 1]`, of which the first is that of the last row and first column, as
/// `[1, 1, n, n]`.
fn square(bias: &Tensor) -> Tensor {
    let (shape, stride) = (bias.layout.shape, bias.layout.stride);
    if bias.layout.rank == 2 {
        return view(bias, [1, 1, shape[0], shape[1]], [0, 0, stride[0], stride[1]]);
    }
    let n = (shape[0] + 1) / 2;
    view(&bias.from(0, (n - 1).max(0) as usize), [1, 1, n, n], [0, 0, -stride[0], stride[0]])
}

/// The same memory with other axes.
fn view(tensor: &Tensor, shape: [i64; 4], stride: [i64; 4]) -> Tensor {
    let mut layout = Layout { rank: 4, shape: [1; MAX_RANK], stride: [0; MAX_RANK] };
    layout.shape[..4].copy_from_slice(&shape);
    layout.stride[..4].copy_from_slice(&stride);
    Tensor { layout, ..*tensor }
}

impl Engine for GatedUnit {
    fn kernel_name(&self) -> &'static str {
        self.scores.kernel_name()
    }

    fn chunk(&self) -> usize {
        let keys = self.scores.chunk();
        let Some(Blocks { block, .. }) = self.unit.blocks else { return keys };
        // Where it ends both a block and a tile of keys, a sequence can be cut without a difference.
        (1..=keys).filter_map(|n| block.checked_mul(n)).find(|n| n.is_multiple_of(keys)).unwrap_or(block)
    }

    fn panel(&self) -> usize {
        self.scores.panel()
    }

    fn workspace_len(&self) -> usize {
        self.len
    }

    fn execute(&self, runner: &dyn Runner, call: &call::Call, workspace: &Workspace) -> Result<()> {
        let scores = self.scores_call(call).ok_or(Error::Internal("a tensor of the call is missing"))?;
        if let Some(global) = &self.global {
            global.run(runner, call, workspace)?;
        }
        self.scores.run(runner, &scores, workspace)
    }

    fn backward_len(&self, sequences: usize, _n_q: usize, n_k: usize, workers: usize) -> Option<usize> {
        self.backward_elements(sequences, n_k, workers)
    }

    fn backward(&self, runner: &dyn Runner, call: &call::Call, workspace: &Workspace) -> Result<()> {
        self.run_backward(runner, call, workspace)
    }
}
