//! One call as the engine sees it: tensors by name, sequences, heads.

use crate::tensor::{Index, Tensor};

/// Head counts and who reads whom (`docs/spec/linear.md` 1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    pub q: usize,
    pub k: usize,
    pub v: usize,
    /// Heads that have a state: the larger of `k` and `v`.
    pub state: usize,
    /// Heads of the output: the larger of `q` and `state`.
    pub out: usize,
}

impl Heads {
    /// Head counts; that they divide each other was checked by the plan.
    pub fn new(q: usize, k: usize, v: usize) -> Heads {
        let state = k.max(v);
        Heads { q, k, v, state, out: q.max(state) }
    }

    /// Output heads that read one state.
    pub fn sets(&self) -> usize {
        self.out / self.state
    }

    /// Output head `set` of state head `s`.
    pub fn output(&self, s: usize, set: usize, cyclic: bool) -> usize {
        if cyclic { set * self.state + s } else { s * self.sets() + set }
    }

    /// Which of `n` heads head `h` of `of` reads.
    pub fn shared(h: usize, of: usize, n: usize, cyclic: bool) -> usize {
        if cyclic { h % n } else { h / (of / n) }
    }
}

/// The tensors of a call.
#[derive(Clone, Copy, Debug)]
pub struct Tensors {
    pub q: Option<Tensor>,
    pub k: Option<Tensor>,
    pub v: Option<Tensor>,
    pub out: Option<Tensor>,
    pub g: Option<Tensor>,
    pub gv: Option<Tensor>,
    pub beta: Option<Tensor>,
    pub dt: Option<Tensor>,
    pub dt_raw: Option<Tensor>,
    pub dt_bias: Option<Tensor>,
    pub decay_rate: Option<Tensor>,
    pub d_skip: Option<Tensor>,
    pub gate: Option<Tensor>,
    pub out_norm_weight: Option<Tensor>,
    pub state_in: Option<Tensor>,
    pub state_out: Option<Tensor>,
    pub z_in: Option<Tensor>,
    pub z_out: Option<Tensor>,
    pub shift_in: Option<Tensor>,
    pub shift_out: Option<Tensor>,
}

/// Where the sequences of a call lie.
#[derive(Clone, Copy, Debug)]
pub struct Sequences {
    /// Number of sequences without `offsets_q`.
    pub batch: usize,
    pub offsets_q: Option<Index>,
    pub offsets_k: Option<Index>,
    pub slots: Option<Index>,
}

/// One sequence: index of its batch entry, first token and number of tokens of queries and keys, slot of
/// its state.
#[derive(Clone, Copy, Debug)]
pub struct Sequence {
    pub batch: usize,
    pub q0: usize,
    pub n_q: usize,
    pub k0: usize,
    pub n_k: usize,
    pub slot: usize,
}

/// A checked call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Token `t` reads tokens up to its own.
    pub causal: bool,
    /// One token per sequence.
    pub step: bool,
    /// Queries and keys per sequence, or in all where there are offsets.
    pub n_q: usize,
    pub n_k: usize,
    pub sequences: Sequences,
    pub tensors: Tensors,
}

impl Call {
    /// Number of sequences.
    pub fn n_sequences(&self) -> usize {
        self.sequences.offsets_q.map_or(self.sequences.batch, |offsets| offsets.len() - 1)
    }

    /// Sequence `i`, or `None` if its slot says to skip it.
    pub fn sequence(&self, i: usize) -> Option<Sequence> {
        let slot = match self.sequences.slots {
            Some(slots) => usize::try_from(slots.get(i)).ok()?,
            None => i,
        };
        let range = |offsets: Option<Index>, n: usize| match offsets {
            Some(offsets) => {
                let first = offsets.get(i) as usize;
                (first, offsets.get(i + 1) as usize - first)
            }
            None => (0, n),
        };
        let (q0, n_q) = range(self.sequences.offsets_q, self.n_q);
        let (k0, n_k) = range(self.sequences.offsets_k, self.n_k);
        let batch = if self.sequences.offsets_q.is_some() { 0 } else { i };
        Some(Sequence { batch, q0, n_q, k0, n_k, slot })
    }
}
