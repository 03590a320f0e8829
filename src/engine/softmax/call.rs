//! One call as the softmax engine sees it: its tensors by name.

use super::cache::Keys;
use super::columns::Columns;
use super::prune::Norms;
use crate::catalog::{Mode, Role};
use crate::engine::call::{self, Sequence, Sequences};
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
    /// Norms that say which keys rows do without.
    pub norms: Option<Norms>,
    pub key_len: Option<Index>,
    /// Where the keys and values of a sequence lie.
    pub keys: Keys,
    /// What makes queries and keys of `q` and `k`.
    pub base: Option<Base>,
    /// The bias is that of a block, `[1, 1, C, C]`, and the same in all.
    pub bias_of_block: bool,
    /// Factor of the outputs, as they are.
    pub gate: Option<Tensor>,
    /// The outputs hold a first part of the sums.
    pub begun: bool,
    pub query_len: Option<Index>,
    pub blend: Option<Tensor>,
    /// Sums over the queries, subtracted from the scores.
    pub columns: Option<Columns>,
    /// The same on their way: where the normalisers go, in place of outputs.
    pub to_columns: Option<Columns>,
    /// Where the best keys go.
    pub index: Option<Tensor>,
    pub ridge: Option<Tensor>,
    /// Weights and biases of two convolutions over the scores.
    pub convolutions: [Option<Tensor>; 4],
    pub w_mem: Option<Tensor>,
    pub memory: Option<Memory>,
    /// The queries are the memory's: they read the block of the call's queries, and the memory.
    pub asks_memory: bool,
}

/// Rows that belong to whole sequences, and that every query sees besides its keys (`fam_block`).
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub k: Tensor,
    pub v: Tensor,
    q: Option<Tensor>,
    out: Option<Tensor>,
}

impl Memory {
    /// Rows of a sequence.
    pub fn len(&self) -> usize {
        self.k.extent(2)
    }
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
            norms: None,
            key_len: get(Role::KEY_LEN).map(Index),
            keys: Keys::new(get(Role::K).as_ref(), get(Role::PAGE_TABLE), get(Role::KEY_START)),
            base: None,
            bias_of_block: false,
            gate: None,
            begun: false,
            query_len: get(Role::QUERY_LEN).map(Index),
            blend: get(Role::BLEND),
            columns: None,
            to_columns: None,
            index: get(Role::INDEX),
            ridge: get(Role::RIDGE),
            convolutions: [Role::W_CONV1, Role::B_CONV1, Role::W_CONV2, Role::B_CONV2].map(&get),
            w_mem: get(Role::W_MEM),
            memory: get(Role::FAM_K).zip(get(Role::FAM_V)).map(|(k, v)| Memory {
                k,
                v,
                q: get(Role::FAM_Q),
                out: get(Role::FAM_OUT),
            }),
            asks_memory: false,
        }
    }

    /// Sequence `i`, or `None` if it is skipped.
    pub fn sequence(&self, i: usize) -> Option<Sequence> {
        let sequence = self.sequences.get(i)?;
        match self.key_len.filter(|_| self.keys.are_counted()) {
            Some(lengths) => Some(Sequence { n_k: lengths.get(i) as usize, ..sequence }),
            None => Some(sequence),
        }
    }

    /// The call with the memory's queries in place of its own, if they are wanted.
    pub fn of_memory(&self) -> Option<Call> {
        self.asking_memory().filter(|call| call.out.is_some())
    }

    /// The same, wanted or not.
    pub fn asking_memory(&self) -> Option<Call> {
        let Memory { q, out, .. } = self.memory?;
        Some(Call { asks_memory: true, causal: false, q, out, lse: None, ..*self })
    }

    /// The call with keys for queries and queries for keys, which sums up to `columns`.
    pub fn exchanged(&self, columns: Columns) -> Call {
        let s = self.sequences;
        Call {
            sequences: Sequences {
                n_q: s.n_k,
                n_k: s.n_q,
                offsets_q: s.offsets_k,
                offsets_k: s.offsets_q,
                ..s
            },
            q: self.k,
            k: self.q,
            v: None,
            out: None,
            key_len: self.query_len,
            query_len: self.key_len,
            to_columns: Some(columns),
            ..*self
        }
    }

    /// Whether there are sums over the queries.
    pub fn has_columns(&self) -> bool {
        self.columns.is_some() || self.to_columns.is_some()
    }

    /// Queries of a sequence that has `n` tokens.
    pub fn queries(&self, n: usize) -> usize {
        self.memory.filter(|_| self.asks_memory).map_or(n, |memory| memory.len())
    }
}
