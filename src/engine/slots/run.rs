//! One sequence and state head: both recurrences, run by run.

use super::{Gates, RUN, Slots};
use crate::engine::call::{self, Sequence};
use crate::engine::linear::{Call, Linear, Pass, Unit};
use crate::kernel::row_softmax;
use crate::tensor::{DType, Layout, MAX_RANK, Tensor};

/// What all units of a call share.
#[derive(Clone, Copy)]
pub struct Shared<'a> {
    pub engine: &'a Slots,
    pub call: &'a call::Call<'a>,
    /// The call as each recurrence sees it.
    pub keys: &'a Call,
    pub values: &'a Call,
}

/// One sequence and state head under way.
pub struct Run<'a> {
    pub engine: &'a Slots,
    pub call: &'a call::Call<'a>,
    pub sequence: Sequence,
    /// State head.
    pub head: usize,
    /// This worker's buffers.
    memory: *mut f32,
    pub keys: Call,
    values: Call,
}

impl Shared<'_> {
    /// Runs one unit from its incoming to its outgoing state.
    pub fn run(&self, sequence: Sequence, head: usize, memory: *mut f32) {
        let Shared { engine, call, .. } = *self;
        let mut run = Run { engine, call, sequence, head, memory, keys: *self.keys, values: *self.values };
        run.load_state();
        let s = sequence;
        if run.keys.causal {
            run.passes(Pass { q0: s.q0, k0: s.k0, n: s.n_q, read: true, write: true });
        } else {
            run.passes(Pass { q0: s.q0, k0: s.k0, n: s.n_k, read: false, write: true });
            run.passes(Pass { q0: s.q0, k0: s.k0, n: s.n_q, read: true, write: false });
        }
        run.store_state();
    }
}

impl Slots {
    /// Rows `[heads, n, ldm]` as the tensor `[B, H, T, M]` of which they hold a part: the first row is head `head`
    /// and token `token`, of any sequence.
    pub fn window(&self, rows: *mut f32, n: usize, head: usize, token: usize) -> Tensor {
        let ldm = self.at.ldm;
        let mut layout = Layout { rank: 4, shape: [1; MAX_RANK], stride: [0; MAX_RANK] };
        layout.shape[3] = self.memory.n_slots as i64;
        layout.stride[1..4].copy_from_slice(&[(n * ldm) as i64, ldm as i64, 1]);
        let before = (head * n + token).wrapping_mul(ldm);
        Tensor { data: rows.wrapping_sub(before).cast(), dtype: DType::F32, layout }
    }
}

impl Run<'_> {
    /// A buffer of this worker, `offset` elements from its start.
    pub fn buffer(&self, offset: usize) -> *mut f32 {
        self.memory.wrapping_add(offset)
    }

    fn has_logits(&self) -> bool {
        self.engine.memory.gates == Gates::Logits
    }

    /// Each recurrence with its call and its part of the worker's memory.
    fn parts(&self) -> [(&Linear, &Call, usize); 2] {
        let engine = self.engine;
        [(&engine.keys, &self.keys, engine.at.keys), (&engine.values, &self.values, engine.at.values)]
    }

    fn unit<'b>(&'b self, (linear, call, at): (&'b Linear, &'b Call, usize)) -> Unit<'b> {
        Unit::new(linear, call, self.sequence, self.head, self.buffer(at))
    }

    /// Whether a recurrence works on the caller's state, so that there is nothing to load or to store.
    fn in_place((linear, call, _): (&Linear, &Call, usize)) -> bool {
        call.step && linear.steps_in_place(call)
    }

    fn load_state(&self) {
        for part in self.parts().into_iter().filter(|part| !Run::in_place(*part)) {
            self.unit(part).load_state();
        }
        if self.has_logits() {
            self.load_log_sum();
        }
    }

    fn store_state(&self) {
        for part in self.parts().into_iter().filter(|part| !Run::in_place(*part)) {
            self.unit(part).store_state();
        }
        if self.has_logits() {
            self.store_log_sum();
        }
    }

    /// A pass over the whole sequence, run by run.
    fn passes(&mut self, all: Pass) {
        for t in (0..all.n).step_by(RUN) {
            self.pass(Pass { q0: all.q0 + t, k0: all.k0 + t, n: RUN.min(all.n - t), ..all });
        }
    }

    fn pass(&mut self, pass: Pass) {
        let at = self.engine.at;
        if self.has_logits() && pass.write {
            self.gates(pass.k0, pass.n);
            let decay = self.window(at.decay, self.head, pass.k0);
            let write = self.window(at.write, self.head, pass.k0);
            (self.keys.tensors.gv, self.values.tensors.g) = (Some(decay), Some(decay));
            (self.keys.tensors.v, self.values.tensors.k) = (Some(write), Some(write));
        }
        let first = self.engine.heads.output(self.head, 0, false);
        let scores = self.window(at.scores, first, pass.q0);
        (self.keys.tensors.out, self.values.tensors.q) = (Some(scores), Some(scores));
        for (i, part) in self.parts().into_iter().enumerate() {
            if Run::in_place(part) {
                self.unit(part).step();
            } else {
                self.unit(part).run(pass);
            }
            if i == 0 && pass.read {
                self.softmax(pass.n);
            }
        }
    }

    fn window(&self, offset: usize, head: usize, token: usize) -> Tensor {
        self.engine.window(self.buffer(offset), RUN, head, token)
    }

    fn softmax(&self, n: usize) {
        let at = &self.engine.at;
        for set in 0..self.engine.heads.sets() {
            let x = self.buffer(at.scores + set * RUN * at.ldm);
            let args = row_softmax::Args { n, d: self.engine.memory.n_slots, x, ld: at.ldm };
            // SAFETY: the scores are [sets, RUN, ldm], this worker's, and `n ≤ RUN`.
            unsafe { (self.engine.tiles.softmax)(&args) }
        }
    }
}
