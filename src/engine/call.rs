//! One call as every engine sees it: tensors by role, sequences, heads.

use crate::args::MAX_TENSORS;
use crate::catalog::{Mode, Role};
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

/// The tensors of a call by role, in the order in which they were bound. Some kilobytes: passed on, not copied, since a
/// step of one head takes two microseconds.
#[derive(Debug)]
pub struct Bindings {
    /// Apart from the tensors: a search reads one line of memory.
    roles: [Role; MAX_TENSORS],
    tensors: [Option<Tensor>; MAX_TENSORS],
    n: usize,
}

impl Bindings {
    /// None.
    pub const NONE: Bindings =
        Bindings { roles: [Role::OUT; MAX_TENSORS], tensors: [None; MAX_TENSORS], n: 0 };

    /// One more; at most [`MAX_TENSORS`] are kept, and the caller's `Args` hold no more.
    pub fn push(&mut self, role: Role, tensor: Tensor) {
        if let (Some(own), Some(slot)) = (self.roles.get_mut(self.n), self.tensors.get_mut(self.n)) {
            (*own, *slot) = (role, Some(tensor));
            self.n += 1;
        }
    }

    /// Roles and tensors.
    pub fn iter(&self) -> impl Iterator<Item = (Role, &Tensor)> {
        self.roles.iter().copied().zip(self.tensors[..self.n].iter().flatten())
    }

    /// The tensor of a role. A search: engines look their tensors up once per call.
    pub fn find(&self, role: Role) -> Option<&Tensor> {
        self.roles[..self.n].iter().position(|own| *own == role).and_then(|i| self.tensors[i].as_ref())
    }

    /// The same as a copy.
    pub fn get(&self, role: Role) -> Option<Tensor> {
        self.find(role).copied()
    }
}

/// Where the sequences of a call lie.
#[derive(Clone, Copy, Debug)]
pub struct Sequences {
    /// Number of sequences without `offsets_q`.
    pub batch: usize,
    /// Queries and keys per sequence, or in all where there are offsets.
    pub n_q: usize,
    pub n_k: usize,
    pub offsets_q: Option<Index>,
    pub offsets_k: Option<Index>,
    pub slots: Option<Index>,
}

/// One sequence: its number in the call, index of its batch entry, first token and number of tokens of queries and
/// keys, slot of its state.
#[derive(Clone, Copy, Debug)]
pub struct Sequence {
    pub index: usize,
    pub batch: usize,
    pub q0: usize,
    pub n_q: usize,
    pub k0: usize,
    pub n_k: usize,
    pub slot: usize,
}

impl Sequences {
    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.offsets_q.map_or(self.batch, |offsets| offsets.len() - 1)
    }

    /// Most queries and most keys that a sequence has.
    pub fn longest(&self) -> (usize, usize) {
        let most = |offsets: Option<Index>, n: usize| match offsets {
            Some(offsets) => {
                let length = |i| (offsets.get(i) - offsets.get(i - 1)) as usize;
                (1..offsets.len()).map(length).max().unwrap_or(0)
            }
            None => n,
        };
        (most(self.offsets_q, self.n_q), most(self.offsets_k, self.n_k))
    }

    /// Sequence `i`, or `None` if its slot says to skip it.
    pub fn get(&self, i: usize) -> Option<Sequence> {
        let slot = match self.slots {
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
        let (q0, n_q) = range(self.offsets_q, self.n_q);
        let (k0, n_k) = range(self.offsets_k, self.n_k);
        let batch = if self.offsets_q.is_some() { 0 } else { i };
        Some(Sequence { index: i, batch, q0, n_q, k0, n_k, slot })
    }
}

/// Where in its sequences a call takes snapshots of the state: `snapshot_at`.
#[derive(Clone, Copy, Debug)]
pub struct Snapshots(Tensor);

impl Snapshots {
    /// Those of a call that takes some.
    pub fn of(call: &Call) -> Option<Snapshots> {
        // A step is short, and takes none: it is spared the search.
        let at = if call.mode == Mode::Causal { call.tensors.get(Role::SNAPSHOT_AT) } else { None };
        at.map(Snapshots)
    }

    /// Snapshots that are wanted of a sequence: which, and after how many tokens, ascending.
    fn of_sequence(&self, s: &Sequence) -> impl Iterator<Item = (usize, usize)> + use<> {
        let at = Index(self.0.index(s.index));
        (0..at.len()).filter_map(move |i| Some((i, usize::try_from(at.get(i)).ok()?)))
    }

    /// How many of the `n` tokens after the first `done` come before a snapshot, or to it.
    pub fn until(&self, s: &Sequence, done: usize, n: usize) -> usize {
        self.of_sequence(s).find(|(_, at)| *at > done).map_or(n, |(_, at)| n.min(at - done))
    }

    /// Where the snapshots of a sequence go in the tensor `to`, `[n_sequences, N, …]`, each with the number of its
    /// tokens: tensors that are indexed as a state is, whatever the slot.
    pub fn places<'a>(
        &self,
        s: &'a Sequence,
        to: &'a Tensor,
    ) -> impl Iterator<Item = (usize, Tensor)> + use<'a> {
        self.of_sequence(s).map(|(i, at)| {
            let mut state = to.index(s.index).from(0, i);
            state.layout.stride[0] = 0;
            (at, state)
        })
    }

    /// Those of them that are due after `done` tokens.
    pub fn due<'a>(
        &self,
        s: &'a Sequence,
        done: usize,
        to: &'a Tensor,
    ) -> impl Iterator<Item = Tensor> + use<'a> {
        self.places(s, to).filter(move |(at, _)| *at == done).map(|(_, state)| state)
    }
}

/// A checked call.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    pub mode: Mode,
    pub sequences: Sequences,
    pub tensors: &'a Bindings,
}
