//! From gradients of decays and write weights to those of logits.
//!
//! With an order of tokens, `z` the log of the running sum, `α_t = e^{z_{t−1} − z_t}` and `s_t = e^{logit − z_t}`,
//! which add up to 1, and `c` what later tokens leave of the gradient of `z_t`, 0 at the end:
//!
//! ```text
//! dlogit_t = s_t (α_t ds_t − dg_t + c)      c = α_t (c − s_t ds_t) + s_t dg_t
//! ```
//!
//! Without one, every query reads the memory after the last token, which no decay is needed for: the tokens, and what
//! is carried in, have the weights of one softmax over time.
//!
//! ```text
//! s = softmax over time of [z_in, logits]      dlogit_t = s_t (ds_t − Σ s ds)
//! ```
//!
//! What is carried in has no gradient, but for its term of that sum.

use super::Reverse;
use crate::catalog::Role;
use crate::engine::linear::{Call, Rows};
use crate::engine::slots::gates::GateRows;
use crate::tensor::{DType, Layout, MAX_RANK, Tensor};
use std::ptr;

/// Slots that are summed over time at once.
const LANES: usize = 16;

/// Gradients of what is carried in, in this worker's memory, where the weights of a softmax over time need them.
#[derive(Clone, Copy, Default)]
pub struct Incoming {
    pub keys: Option<Tensor>,
    pub values: Option<Tensor>,
}

/// The matrix `[n, ld]` as the state of any slot and head.
fn matrix(data: *mut f32, ld: usize) -> Tensor {
    let mut layout = Layout { rank: 4, shape: [1; MAX_RANK], stride: [0; MAX_RANK] };
    layout.stride[2..4].copy_from_slice(&[ld as i64, 1]);
    Tensor { data: data.cast(), dtype: DType::F32, layout }
}

/// `Σ a b`.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

impl Reverse<'_> {
    /// Makes the gates of both recurrences.
    pub fn prepare_logits(&self, logits: &Tensor, keys: &mut Call, values: &mut Call) -> Incoming {
        let (engine, s) = (self.engine, self.sequence);
        let first = [s.batch, self.head, s.k0];
        let to = GateRows {
            decay: self.buffer(self.at.decay),
            write: self.buffer(self.at.write),
            log_sum: self.buffer(self.at.log_sum),
        };
        let (decay, write) = (self.keys(self.at.decay, 0), self.keys(self.at.write, 0));
        (keys.tensors.v, values.tensors.k, values.tensors.g) = (Some(write), Some(write), Some(decay));
        // SAFETY: the logits are [B, Hk, S, M] (checked) and the tokens lie in the sequence; buffers have the
        // extents that `Layout` names, of which this sequence has at most `n_k` rows.
        unsafe {
            engine.load_log_sum(self.call, (s.slot, self.head), to.log_sum);
            if keys.causal {
                engine.gates(logits, &first, s.n_k, to);
                keys.tensors.gv = Some(decay);
                return Incoming::default();
            }
            ptr::write_bytes(to.decay, 0, s.n_k * engine.at.ldm);
            let rows = Rows::tokens(logits, &first, (s.n_k, engine.memory.n_slots));
            engine.tiles.load(&rows, 1.0, ptr::null(), to.write, engine.at.ldm);
        }
        self.softmax_over_time();
        self.carried_in(keys, values)
    }

    /// Rows of all keys, `[n_k, ldm]`.
    fn slice(&self, offset: usize) -> *mut [f32] {
        ptr::slice_from_raw_parts_mut(self.buffer(offset), self.sequence.n_k * self.engine.at.ldm)
    }

    /// The softmax over time of logits in `write`, and of the log of the sum that is carried in, in its place.
    fn softmax_over_time(&self) {
        let (ldm, m) = (self.engine.at.ldm, self.engine.memory.n_slots);
        // SAFETY: buffers have the extents that `Layout` names.
        let (rows, before) = unsafe {
            (&mut *self.slice(self.at.write), std::slice::from_raw_parts_mut(self.buffer(self.at.log_sum), m))
        };
        for (first, before) in (0..).step_by(LANES).zip(before.chunks_mut(LANES)) {
            let end = first + before.len();
            let mut top = [f32::NEG_INFINITY; LANES];
            top[..before.len()].copy_from_slice(before);
            for row in rows.chunks_exact(ldm) {
                row[first..end].iter().zip(&mut top).for_each(|(&x, top)| *top = top.max(x));
            }
            // A slot that nobody writes to.
            top.iter_mut().filter(|top| **top == f32::NEG_INFINITY).for_each(|top| *top = 0.0);
            for row in rows.chunks_exact_mut(ldm) {
                row[first..end].iter_mut().zip(&top).for_each(|(x, top)| *x -= top);
            }
            before.iter_mut().zip(&top).for_each(|(x, top)| *x -= top);
        }
        // SAFETY: both are slices of this length.
        unsafe {
            self.engine.tiles.exp_in_place(rows.as_mut_ptr(), rows.len());
            self.engine.tiles.exp_in_place(before.as_mut_ptr(), m);
        }
        for (first, before) in (0..).step_by(LANES).zip(before.chunks_mut(LANES)) {
            let end = first + before.len();
            let mut sum = [0.0f64; LANES];
            before.iter().zip(&mut sum).for_each(|(&x, sum)| *sum = f64::from(x));
            for row in rows.chunks_exact(ldm) {
                row[first..end].iter().zip(&mut sum).for_each(|(&x, sum)| *sum += f64::from(x));
            }
            let scale = sum.map(|sum| (1.0 / sum) as f32);
            for (x, &sum) in before.iter_mut().zip(&sum) {
                // The memory of such a slot stays as it is.
                *x = if sum == 0.0 { 1.0 } else { (f64::from(*x) / sum) as f32 };
            }
            for row in rows.chunks_exact_mut(ldm) {
                let weight = |x: f32, scale| if x == 0.0 { 0.0 } else { x * scale };
                row[first..end].iter_mut().zip(&scale).for_each(|(x, &scale)| *x = weight(*x, scale));
            }
        }
    }

    /// The memories carried in, under their weights.
    fn carried_in(&self, keys: &mut Call, values: &mut Call) -> Incoming {
        let engine = self.engine;
        let (ldm, lde, m) = (engine.at.ldm, engine.lde(), engine.memory.n_slots);
        let (d, e) = (engine.d, engine.e);
        let at = [self.sequence.slot, self.head, 0, 0];
        let (key_rows, value_rows) = (self.buffer(self.at.key_state), self.buffer(self.at.value_state));
        let weights = self.buffer(self.at.log_sum);
        let mut incoming = Incoming::default();
        // SAFETY: states are [slots, Hk, D, M] and [slots, Hk, M, E] (checked), buffers [2, D, ldm] and [2, M, lde].
        unsafe {
            if let Some(state) = keys.tensors.state_in {
                engine.tiles.load(&Rows::tokens(&state, &at, (d, m)), 1.0, ptr::null(), key_rows, ldm);
                let weights = std::slice::from_raw_parts(weights, m);
                for row in std::slice::from_raw_parts_mut(key_rows, d * ldm).chunks_exact_mut(ldm) {
                    row.iter_mut().zip(weights).for_each(|(x, weight)| *x *= weight);
                }
                keys.tensors.state_in = Some(matrix(key_rows, ldm));
                incoming.keys = Some(matrix(key_rows.add(d * ldm), ldm));
            }
            if let Some(state) = values.tensors.state_in {
                engine.tiles.load(&Rows::tokens(&state, &at, (m, e)), 1.0, weights, value_rows, lde);
                values.tensors.state_in = Some(matrix(value_rows, lde));
                incoming.values = Some(matrix(value_rows.add(m * lde), lde));
            }
        }
        incoming
    }

    /// Through the running log of sums, from the last token to the first.
    pub fn through_gates(&self) {
        let (ldm, m) = (self.engine.at.ldm, self.engine.memory.n_slots);
        // SAFETY: buffers have the extents that `Layout` names, and overlap nowhere.
        unsafe {
            let alpha = &mut *self.slice(self.at.decay);
            self.engine.tiles.exp_in_place(alpha.as_mut_ptr(), alpha.len());
            let (write, dg) = (&mut *self.slice(self.at.write), &mut *self.slice(self.at.dg));
            let later = std::slice::from_raw_parts_mut(self.buffer(self.at.log_sum), m);
            later.fill(0.0);
            let gates = alpha.chunks_exact(ldm).zip(write.chunks_exact(ldm)).zip(dg.chunks_exact(ldm));
            for (ds, ((alpha, write), dg)) in
                (&mut *self.slice(self.at.ds)).chunks_exact_mut(ldm).zip(gates).rev()
            {
                for i in 0..m {
                    let (a, s, c) = (alpha[i], write[i], later[i]);
                    later[i] = a * (c - s * ds[i]) + s * dg[i];
                    ds[i] = s * (a * ds[i] - dg[i] + c);
                }
            }
        }
    }

    /// Through the softmax over time.
    pub fn through_softmax(&self) {
        let (ldm, m) = (self.engine.at.ldm, self.engine.memory.n_slots);
        // SAFETY: buffers have the extents that `Layout` names, and overlap nowhere.
        let (write, ds) = unsafe { (&mut *self.slice(self.at.write), &mut *self.slice(self.at.ds)) };
        for first in (0..m).step_by(LANES) {
            let end = m.min(first + LANES);
            let mut sum = [0.0f64; LANES];
            (first..end).zip(&mut sum).for_each(|(slot, sum)| *sum = self.of_carried_in(slot));
            for (write, ds) in write.chunks_exact(ldm).zip(ds.chunks_exact(ldm)) {
                let terms = write[first..end].iter().zip(&ds[first..end]);
                terms.zip(&mut sum).for_each(|((&s, &ds), sum)| *sum += f64::from(s) * f64::from(ds));
            }
            let mean = sum.map(|sum| sum as f32);
            for (write, ds) in write.chunks_exact(ldm).zip(ds.chunks_exact_mut(ldm)) {
                let terms = ds[first..end].iter_mut().zip(&write[first..end]);
                terms.zip(&mean).for_each(|((ds, s), mean)| *ds = s * (*ds - mean));
            }
        }
    }

    /// Weight and gradient of what a slot carries in, multiplied.
    fn of_carried_in(&self, slot: usize) -> f64 {
        let (engine, bound) = (self.engine, |role| self.call.tensors.get(role).is_some());
        let (ldm, lde) = (engine.at.ldm, engine.lde());
        let (d, e, m) = (engine.d, engine.e, engine.memory.n_slots);
        let mut sum = 0.0;
        // SAFETY: memories and their gradients are [2, D, ldm] and [2, M, lde], set where there are any.
        unsafe {
            if bound(Role::STATE_V_IN) {
                let rows = self.buffer(self.at.value_state);
                let row = |i: usize| std::slice::from_raw_parts(rows.add(i * lde), e);
                sum += dot(row(slot), row(m + slot));
            }
            if bound(Role::STATE_K_IN) {
                let rows = self.buffer(self.at.key_state);
                let x = |i: usize| f64::from(*rows.add(i * ldm + slot));
                sum += (0..d).map(|i| x(i) * x(d + i)).sum::<f64>();
            }
        }
        sum
    }
}
