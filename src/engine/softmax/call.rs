//! One call as the softmax engine sees it: its tensors by name.

use crate::catalog::{Mode, Role};
use crate::engine::call::{self, Sequences};
use crate::tensor::{Index, Tensor};

/// Affine maps that make rows of queries and of keys from a shared one: `weight[i] ⊙ z + bias[i]`.
#[derive(Clone, Copy, Debug)]
pub struct Base {
    /// `[n, D]`.
    pub weight: Tensor,
    pub bias: Tensor,
}

/// A call with its tensors looked up.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// A query sees no key after its own position.
    pub causal: bool,
    pub sequences: Sequences,
    pub q: Option<Tensor>,
    pub k: Option<Tensor>,
    pub v: Option<Tensor>,
    pub out: Option<Tensor>,
    pub lse: Option<Tensor>,
    pub probe: Option<Tensor>,
    pub lam: Option<Tensor>,
    pub scale_bh: Option<Tensor>,
    pub alibi_slopes: Option<Tensor>,
    pub bias: Option<Tensor>,
    pub sink: Option<Tensor>,
    pub g: Option<Tensor>,
    pub key_len: Option<Index>,
    /// What makes queries and keys of `q` and `k`.
    pub base: Option<Base>,
    /// The bias is that of a block, `[1, 1, C, C]`, and the same in all.
    pub bias_of_block: bool,
    /// Factor of the outputs, as they are.
    pub gate: Option<Tensor>,
    /// The outputs hold a first part of the sums.
    pub begun: bool,
}

impl Call {
    /// The engine's view of a checked call.
    pub fn new(call: &call::Call) -> Call {
        Call::of(call, |role| call.tensors.get(role))
    }

    /// The gradients of a backward call, by the names of what they are gradients of.
    pub fn gradients(call: &call::Call) -> Call {
        Call::of(call, |role| call.tensors.get(role.grad()))
    }

    fn of(call: &call::Call, get: impl Fn(Role) -> Option<Tensor>) -> Call {
        Call {
            causal: matches!(call.mode, Mode::Causal | Mode::Step),
            sequences: call.sequences,
            q: get(Role::Q),
            k: get(Role::K),
            v: get(Role::V),
            out: get(Role::OUT),
            lse: get(Role::LSE),
            probe: get(Role::PROBE),
            lam: get(Role::LAM),
            scale_bh: get(Role::SCALE_BH),
            alibi_slopes: get(Role::ALIBI_SLOPES),
            bias: get(Role::BIAS),
            sink: get(Role::SINK),
            g: get(Role::G),
            key_len: get(Role::KEY_LEN).map(Index),
            base: None,
            bias_of_block: false,
            gate: None,
            begun: false,
        }
    }
}
