//! Gradients: both recurrences in reverse (`docs/spec/linear.md` 6, `docs/spec/sparse.md` 7).
//!
//! For one sequence and state head:
//!
//! ```text
//! g, s from the logits                                                   logits.rs, where the mechanism has logits
//! P = softmax of the first recurrence (q, k; value s)
//! dP, ds₂, dv, dg₂ = second recurrence (P, s; value v) in reverse, from dO
//! dY = P ∘ (dP − rowsum(P ∘ dP))                                         in place of dP
//! dq, dk, ds₁, dg₁ = first recurrence in reverse, from dY
//! ds = ds₁ + ds₂      dg = dg₁ + dg₂                                     and on to the logits
//! ```
//!
//! *Tasks*: sequence × state head, which no other head shares anything with: the same bits for any number of threads.
//! *Cost*: of both recurrences' backward passes, and the first recurrence once more forward. *Workspace* of a worker:
//! that of the more demanding recurrence, and rows of `M` slots: two for every query of the group, four for every key
//! (six with logits).

mod logits;

use super::{Gates, Slots};
use crate::catalog::Role;
use crate::engine::Engine;
use crate::engine::call::{self, Sequence};
use crate::engine::linear::{Call, Grads, Linear, Pass, Rows, Tensors, Unit, softmax_gradient};
use crate::error::{Error, Result};
use crate::kernel::row_softmax;
use crate::parallel::{self, Runner};
use crate::tensor::Tensor;
use crate::workspace::{Carver, Workspace};
use logits::Incoming;

/// Offsets of a worker's buffers, in elements, for the longest sequence.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Those of the recurrence in hand.
    linear: usize,
    /// Softmax of the scores, and its gradient, then that of the scores `[sets, n_q, ldm]`.
    p: usize,
    dp: usize,
    /// Gradients of write weights and log decays, of the second recurrence and of the first `[2, n_k, ldm]`.
    ds: usize,
    dg: usize,
    /// Log decays and write weights `[n_k, ldm]`, and the log of the running sum `[ldm]`, made of logits.
    decay: usize,
    write: usize,
    log_sum: usize,
    /// The memories carried in, as the last token finds them, and their gradients, where there are logits:
    /// `[2, D, ldm]` and `[2, M, lde]`.
    key_state: usize,
    value_state: usize,
    /// Elements in all.
    pub len: usize,
}

/// One sequence and state head.
struct Reverse<'a> {
    engine: &'a Slots,
    call: &'a call::Call<'a>,
    at: Layout,
    sequence: Sequence,
    head: usize,
    /// This worker's buffers.
    memory: *mut f32,
}

impl Slots {
    /// Buffers for these numbers of queries and keys; `None` where they don't fit in memory.
    pub fn backward_layout(&self, (n_q, n_k): (usize, usize)) -> Option<Layout> {
        let (sets, ldm) = (self.heads.sets(), self.at.ldm);
        let reverse = |linear: &Linear| linear.reverse_len((n_q, n_k));
        let linear = reverse(&self.keys)?.max(reverse(&self.values)?).max(self.keys.workspace_len());
        let logits = usize::from(self.memory.gates == Gates::Logits);
        let mut carver = Carver::default();
        let layout = Layout {
            linear: carver.take(&[linear]),
            p: carver.take(&[sets, n_q, ldm]),
            dp: carver.take(&[sets, n_q, ldm]),
            ds: carver.take(&[2, n_k, ldm]),
            dg: carver.take(&[2, n_k, ldm]),
            decay: carver.take(&[logits * n_k, ldm]),
            write: carver.take(&[logits * n_k, ldm]),
            log_sum: carver.take(&[logits * ldm]),
            key_state: carver.take(&[logits * 2, self.d, ldm]),
            value_state: carver.take(&[logits * 2, self.memory.n_slots, self.lde()]),
            len: 0,
        };
        Some(Layout { len: carver.finish().ok()?, ..layout })
    }

    /// Elements between rows of values.
    fn lde(&self) -> usize {
        self.e.next_multiple_of(16)
    }

    /// Runs a checked backward call.
    pub fn run_backward(&self, runner: &dyn Runner, call: &call::Call, workspace: &Workspace) -> Result<()> {
        let layout = self.backward_layout(call.sequences.longest());
        let layout = layout.ok_or(Error::Internal("the engine has no gradient"))?;
        let heads = self.heads.state;
        parallel::run(runner, call.sequences.len() * heads, &|task, worker| {
            let Some(sequence) = call.sequences.get(task / heads) else { return };
            let memory = workspace.worker(0).wrapping_add(worker * layout.len);
            Reverse { engine: self, call, at: layout, sequence, head: task % heads, memory }.run();
        })
    }
}

impl Reverse<'_> {
    fn buffer(&self, offset: usize) -> *mut f32 {
        self.memory.wrapping_add(offset)
    }

    fn grad(&self, role: Role) -> Option<Tensor> {
        self.call.tensors.get(role.grad())
    }

    /// Rows of all queries of this head as a tensor.
    fn queries(&self, offset: usize) -> Tensor {
        let first = self.engine.heads.output(self.head, 0, false);
        self.engine.window(self.buffer(offset), self.sequence.n_q, first, self.sequence.q0)
    }

    /// Address of one of several blocks of rows of all keys.
    fn rows(&self, offset: usize, block: usize) -> *mut f32 {
        self.buffer(offset + block * self.sequence.n_k * self.engine.at.ldm)
    }

    /// Such a block as a tensor.
    fn keys(&self, offset: usize, block: usize) -> Tensor {
        self.engine.window(self.rows(offset, block), self.sequence.n_k, self.head, self.sequence.k0)
    }

    fn run(&self) {
        let (mut keys, mut values) = (self.engine.keys_call(self.call), Slots::values_call(self.call));
        let logits = self.call.tensors.get(Role::SLOT_LOGITS);
        let incoming = logits.map(|logits| self.prepare_logits(&logits, &mut keys, &mut values));
        let p = self.queries(self.at.p);
        (keys.tensors.out, values.tensors.q) = (Some(p), Some(p));
        self.scores(&keys);
        self.recurrences(&keys, &values, &incoming.unwrap_or_default());
        self.add_rows(self.at.ds);
        match &incoming {
            Some(_) if !keys.causal => self.through_softmax(),
            Some(_) => {
                self.add_rows(self.at.dg);
                self.through_gates();
            }
            None => {
                self.add_rows(self.at.dg);
                self.store(Role::SLOT_WRITE, self.at.ds);
                self.store(Role::G, self.at.dg);
            }
        }
        self.store(Role::SLOT_LOGITS, self.at.ds);
    }

    /// The rows of the softmax that the second recurrence reads with.
    fn scores(&self, keys: &Call) {
        let (engine, s) = (self.engine, self.sequence);
        let unit = Unit::new(&engine.keys, keys, s, self.head, self.buffer(self.at.linear));
        unit.load_state();
        for pass in passes(keys, s) {
            unit.run(pass);
        }
        let n = engine.heads.sets() * s.n_q;
        let (x, d, ld) = (self.buffer(self.at.p), engine.memory.n_slots, engine.at.ldm);
        // SAFETY: the scores are [sets, n_q, ldm], this worker's.
        unsafe { (engine.tiles.softmax)(&row_softmax::Args { n, d, x, ld }) }
    }

    /// Both recurrences in reverse, and the softmax between them.
    fn recurrences(&self, keys: &Call, values: &Call, incoming: &Incoming) {
        let (engine, memory) = (self.engine, self.buffer(self.at.linear));
        let (dp, decays) = (self.queries(self.at.dp), keys.tensors.gv.is_some());
        let key_state = |role| self.grad(role).map(|state| engine.key_state(state));
        let grads = Grads(Tensors {
            out: self.grad(Role::OUT),
            q: Some(dp),
            k: Some(self.keys(self.at.ds, 0)),
            v: self.grad(Role::V),
            g: decays.then(|| self.keys(self.at.dg, 0)),
            state_out: self.grad(Role::STATE_V_OUT),
            state_in: incoming.values.or(self.grad(Role::STATE_V_IN)),
            ..Tensors::default()
        });
        engine.values.reverse(values, &grads, self.sequence, self.head, memory);
        self.softmax_gradient();
        let grads = Grads(Tensors {
            out: Some(dp),
            q: self.grad(Role::Q),
            k: self.grad(Role::K),
            v: Some(self.keys(self.at.ds, 1)),
            gv: decays.then(|| self.keys(self.at.dg, 1)),
            state_out: key_state(Role::STATE_K_OUT),
            state_in: incoming.keys.or(key_state(Role::STATE_K_IN)),
            ..Tensors::default()
        });
        engine.keys.reverse(keys, &grads, self.sequence, self.head, memory);
    }

    /// `dp = p ∘ (dp − p·dp)`, row by row.
    fn softmax_gradient(&self) {
        let (ldm, m) = (self.engine.at.ldm, self.engine.memory.n_slots);
        for row in 0..self.engine.heads.sets() * self.sequence.n_q {
            let (p, dp) = (self.buffer(self.at.p + row * ldm), self.buffer(self.at.dp + row * ldm));
            // SAFETY: both are [sets, n_q, ldm], this worker's.
            unsafe {
                softmax_gradient(std::slice::from_raw_parts(p, m), std::slice::from_raw_parts_mut(dp, m));
            }
        }
    }

    /// Adds the second of two blocks of rows to the first.
    fn add_rows(&self, offset: usize) {
        let len = self.sequence.n_k * self.engine.at.ldm;
        // SAFETY: both are [n_k, ldm], one after the other, and this worker's.
        unsafe {
            let sum = std::slice::from_raw_parts_mut(self.rows(offset, 0), len);
            let more = std::slice::from_raw_parts(self.rows(offset, 1), len);
            sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
    }

    /// Stores rows of all keys where they are wanted.
    fn store(&self, role: Role, offset: usize) {
        let Some(to) = self.grad(role) else { return };
        let (engine, s) = (self.engine, self.sequence);
        let at = [s.batch, self.head, s.k0];
        let rows = Rows::tokens(&to, &at, (s.n_k, engine.memory.n_slots));
        // SAFETY: gradients of gates and logits are [B, Hk, S, M] (checked), and this head's are this task's.
        unsafe { engine.tiles.store(self.buffer(offset), engine.at.ldm, &rows) }
    }
}

/// What is done with the tokens of a sequence, in order.
fn passes(call: &Call, s: Sequence) -> [Pass; 2] {
    let pass = |n, read, write| Pass { q0: s.q0, k0: s.k0, n, read, write };
    if call.causal {
        [pass(s.n_q, true, true), pass(0, false, false)]
    } else {
        [pass(s.n_k, false, true), pass(s.n_q, true, false)]
    }
}
