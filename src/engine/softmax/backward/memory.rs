//! The rows of a memory in reverse (`docs/spec/softmax.md` 5): every query has them among its keys, and they have queries of
//! their own, which read the block of the call's. Their gradients as keys and values lie behind those of the sequence.

use super::Run;
use super::sweep::Source;
use super::tile::Tile;
use crate::catalog::Role;
use crate::engine::call::{self as shared, Sequence};
use crate::engine::linear::Rows as Slice;
use crate::engine::softmax::call::Call;
use crate::engine::softmax::products::pitch;
use crate::engine::softmax::rows::ROWS;
use crate::tensor::Tensor;
use std::ptr;

/// Gradients of the memory: that of its outputs is given, the others are wanted where they are there.
#[derive(Clone, Copy)]
pub struct Gradients {
    q: Option<Tensor>,
    k: Option<Tensor>,
    v: Option<Tensor>,
    out: Option<Tensor>,
}

impl Gradients {
    /// Those of a backward call.
    pub fn new(call: &shared::Call) -> Gradients {
        let get = |role: Role| call.tensors.get(role.grad());
        Gradients { q: get(Role::FAM_Q), k: get(Role::FAM_K), v: get(Role::FAM_V), out: get(Role::FAM_OUT) }
    }
}

impl Tile<'_> {
    /// The memory as keys and values.
    pub fn memory(&self) -> Option<Source> {
        let (unit, memory, to) = (self.unit, self.unit.call.memory?, &self.run.memory);
        Some(Source {
            k: unit.as_keys(&memory.k),
            v: unit.as_keys(&memory.v),
            keys: 0..memory.len(),
            all: true,
            first: unit.sequence.n_k,
            wanted: [to.k.is_some(), to.v.is_some()],
        })
    }
}

impl Run<'_> {
    /// The memory's own queries, and the gradients of its rows.
    ///
    /// # Safety
    /// As [`super::tile::run`]; the call's own queries are done.
    pub unsafe fn of_memory(&self, (index, sequence): (usize, Sequence), head: usize, base: *mut f32) {
        let Some(call) = self.call.asking_memory() else { return };
        let Gradients { q, k, v, out } = self.memory;
        let grads = Call { q, out, ..*self.grads };
        let run = Run { call: &call, grads: &grads, ..*self };
        let (engine, rows) = (self.engine, call.queries(0));
        // SAFETY: by contract.
        unsafe {
            for set in 0..engine.sets() {
                match out {
                    Some(_) => run.tiles((index, sequence), (head, set), base, None),
                    None => run.no_gradient(index, head * engine.sets() + set, rows, base),
                }
            }
            let (ldd, lde) = (pitch(engine.d), pitch(engine.e));
            for (to, from, ld, channels) in
                [(k, self.regions.at.dk[0], ldd, engine.d), (v, self.regions.at.dv, lde, engine.e)]
            {
                let Some(to) = &to else { continue };
                let of = [index, head, 0];
                let of = Slice::tokens(to, &of, (rows, channels));
                engine.kernels.common.store(base.add(from + sequence.n_k * ld), ld, &of);
            }
        }
    }

    /// Gradients of queries whose outputs have none.
    ///
    /// # Safety
    /// As [`Run::of_memory`].
    unsafe fn no_gradient(&self, index: usize, head: usize, rows: usize, base: *mut f32) {
        let Some(to) = &self.grads.q else { return };
        let (engine, ld) = (self.engine, self.engine.d.next_multiple_of(16));
        // SAFETY: by contract; the buffer has 32 rows.
        unsafe {
            let zeros = base.add(engine.at.rows);
            ptr::write_bytes(zeros, 0, ROWS * ld);
            for first in (0..rows).step_by(ROWS) {
                let of = [index, head, first];
                let of = Slice::tokens(to, &of, ((rows - first).min(ROWS), engine.d));
                engine.kernels.common.store(zeros, ld, &of);
            }
        }
    }
}
