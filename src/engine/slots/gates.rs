//! Decay and write weights of a run from its logits: a running log of sums, slot by slot.
//!
//! ```text
//! z' = log(e^z + e^s)      decay g = z − z'      weight e^{s − z'}
//! ```
//!
//! With `d = s − z` these are `z' = max(z, s) + log(1 + e^{−|d|})`, `g = −(max(d, 0) + log(1 + e^{−|d|}))` and the
//! sigmoid of `d`: no exponent is above 0, and decay and weight add up to 1 within rounding, whatever `z` has
//! gathered. An empty slot has `z = −∞`, which its first token replaces (`g = −∞`, weight 1); a logit of `−∞` writes
//! nothing (`g = 0`, weight 0).

use super::Slots;
use super::run::Run;
use crate::catalog::Role;
use crate::engine::call::Call;
use crate::engine::linear::Rows;
use crate::kernel::{KernelFn, elementwise, select};
use crate::simd::Isa;
use crate::tensor::Tensor;
use std::ptr;

/// The functions.
pub struct GateTiles {
    softplus: KernelFn<elementwise::Args>,
    sigmoid: KernelFn<elementwise::Args>,
}

impl GateTiles {
    pub fn new(isa: Isa) -> GateTiles {
        GateTiles {
            softplus: select::<elementwise::Softplus>(isa),
            sigmoid: select::<elementwise::Sigmoid>(isa),
        }
    }
}

impl std::fmt::Debug for GateTiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GateTiles")
    }
}

/// Where gates lie.
#[derive(Clone, Copy)]
pub struct GateRows {
    /// Log decays `[n, ldm]`.
    pub decay: *mut f32,
    /// Write weights `[n, ldm]`.
    pub write: *mut f32,
    /// Log of the running sum `[ldm]`.
    pub log_sum: *mut f32,
}

impl Slots {
    /// Decay and weights of `n` tokens from `first` on, batch entry, head and token; carries the log of the sums on.
    ///
    /// # Safety
    /// The logits have these tokens, and the buffers the extents that [`GateRows`] names.
    pub unsafe fn gates(&self, logits: &Tensor, first: &[usize], n: usize, to: GateRows) {
        let (m, ldm) = (self.memory.n_slots, self.at.ldm);
        // SAFETY: the caller's contract.
        unsafe {
            self.tiles.load(&Rows::tokens(logits, first, (n, m)), 1.0, ptr::null(), to.write, ldm);
            let z = std::slice::from_raw_parts_mut(to.log_sum, m);
            for i in 0..n {
                let s = std::slice::from_raw_parts_mut(to.write.add(i * ldm), m);
                let g = std::slice::from_raw_parts_mut(to.decay.add(i * ldm), m);
                for ((s, g), z) in s.iter_mut().zip(&mut *g).zip(&mut *z) {
                    let d = if *s == f32::NEG_INFINITY { *s } else { *s - *z };
                    *z = if *s > *z { *s } else { *z };
                    (*s, *g) = (d, -d.abs());
                }
                (self.gate_tiles.softplus)(&elementwise::Args { n: m, src: g.as_ptr(), dst: g.as_mut_ptr() });
                for ((d, g), z) in s.iter().zip(&mut *g).zip(&mut *z) {
                    *z += *g;
                    *g = -(if *d > 0.0 { *d } else { 0.0 } + *g);
                }
            }
            (self.gate_tiles.sigmoid)(&elementwise::Args { n: n * ldm, src: to.write, dst: to.write });
        }
    }

    /// Takes the log of the sums that is carried in, or that of nothing.
    ///
    /// # Safety
    /// `log_sum` is `[ldm]`.
    pub unsafe fn load_log_sum(&self, call: &Call, (slot, head): (usize, usize), log_sum: *mut f32) {
        let m = self.memory.n_slots;
        // SAFETY: the caller's contract; the tensor is [slots, Hk, M] (checked) and only read.
        unsafe {
            match call.tensors.get(Role::LSE_IN) {
                Some(from) => self.tiles.gather(&from, &[slot, head], 2, m, log_sum),
                None => std::slice::from_raw_parts_mut(log_sum, m).fill(f32::NEG_INFINITY),
            }
        }
    }
}

impl Run<'_> {
    /// Decay and weights of `n` tokens from key `k0` on; carries the log of the sums on, and stores it where a snapshot
    /// is due.
    pub fn gates(&self, k0: usize, n: usize) {
        let Some(logits) = self.call.tensors.get(Role::SLOT_LOGITS) else { return };
        let at = &self.engine.at;
        let mut i = 0;
        while i < n {
            let m = self.until_snapshot(k0 + i, n - i);
            let to = GateRows {
                decay: self.buffer(at.decay + i * at.ldm),
                write: self.buffer(at.write + i * at.ldm),
                log_sum: self.buffer(at.log_sum),
            };
            // SAFETY: the logits are [B, Hk, S, M] (checked) and the tokens lie in the sequence; buffers have the
            // extents that `Offsets` names, and `i + m ≤ n ≤ RUN`.
            unsafe { self.engine.gates(&logits, &[self.sequence.batch, self.head, k0 + i], m, to) }
            i += m;
            self.snapshot_log_sum(k0 + i);
        }
    }

    fn until_snapshot(&self, k0: usize, n: usize) -> usize {
        let s = &self.sequence;
        self.keys.snapshots.as_ref().map_or(n, |snapshots| snapshots.times.until(s, k0 - s.k0, n))
    }

    /// Stores the log of the sums where a snapshot before key `k` wants it.
    fn snapshot_log_sum(&self, k: usize) {
        let Some(snapshots) = &self.keys.snapshots else { return };
        let Some(to) = self.call.tensors.get(Role::LSE_OUT.snapshots()) else { return };
        let s = &self.sequence;
        snapshots.times.due(s, k - s.k0, &to).for_each(|to| self.put_log_sum(&to));
    }

    /// Takes the log of the sums that is carried in, or that of nothing.
    pub fn load_log_sum(&self) {
        let log_sum = self.buffer(self.engine.at.log_sum);
        // SAFETY: `log_sum` is [ldm] and this worker's.
        unsafe { self.engine.load_log_sum(self.call, (self.sequence.slot, self.head), log_sum) }
        self.snapshot_log_sum(self.sequence.k0);
    }

    /// Stores it where it is wanted.
    pub fn store_log_sum(&self) {
        if let Some(to) = self.call.tensors.get(Role::LSE_OUT) {
            self.put_log_sum(&to);
        }
    }

    /// Stores it in a tensor `[slots, Hk, M]`.
    fn put_log_sum(&self, to: &Tensor) {
        let (at, of_head) = (&self.engine.at, [self.sequence.slot, self.head]);
        let rows = Rows::one(to, &of_head, 2, self.engine.memory.n_slots);
        // SAFETY: the tensor has these extents (checked), `log_sum` is [ldm]; one task has this slot and head.
        unsafe { self.engine.tiles.store(self.buffer(at.log_sum), at.ldm, &rows) }
    }
}
