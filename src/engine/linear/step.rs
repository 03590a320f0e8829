//! Decoding: one token per sequence against the state in the caller's memory (`docs/spec/linear.md` 1.8).
//!
//! The token is prepared as a chunk of one; [`crate::kernel::step`] then makes its two passes over the state
//! where it lies, in its own element type. A state whose columns are not contiguous, and the maps that keep it in
//! another form (`exp`, a constant feature), go through the panels of [`super::scan`] instead.

use super::features::FeatureMap;
use super::prepare::Chunk;
use super::recurrence::Gain;
use super::tiles::Rows;
use super::{Call, Linear, Unit};
use crate::CHUNK;
use crate::kernel::step;
use crate::tensor::{DType, Element, Tensor};
use std::ptr;

impl Linear {
    /// Whether a step can work on the caller's state directly.
    pub fn steps_in_place(&self, call: &Call) -> bool {
        let plain = |state: &Tensor| state.stride(3) == 1;
        let features = &self.recurrence.features;
        let t = &call.tensors;
        t.state_in.as_ref().is_some_and(plain)
            && t.state_out.as_ref().is_some_and(plain)
            && features.map != FeatureMap::Exp
            && features.constant.is_none()
    }
}

/// Runs one unit of a step.
pub fn step(unit: &Unit<'_>) {
    let (g, tiles, tensors) = (unit.geometry(), unit.tiles(), &unit.call.tensors);
    let (Some(v), Some(out)) = (tensors.v, tensors.out) else { return };
    let (Some(state_in), Some(state_out)) = (tensors.state_in, tensors.state_out) else { return };
    let s = unit.sequence;
    if unit.recurrence().has_denominator() {
        unit.load_normaliser();
    }
    unit.prepare_features();
    let chunk = unit.prepare(0, Chunk { q0: s.q0, k0: s.k0, n: 1, read: true, write: true });
    let p = unit.prepared(0);
    let e16 = g.e.next_multiple_of(16);
    let (x, y) = (unit.buffer(g.at.u), unit.buffer(g.at.y));
    // SAFETY: tensors have the shapes that `plan::check` made sure of; buffers those that `Offsets` names.
    unsafe {
        let head = unit.shared_head(unit.engine.heads.v);
        let at = [s.batch, head, s.k0];
        let from = Rows::tokens(&v, &at, (chunk.n, g.e));
        tiles.load(&from, 1.0, unit.token_gain(&p), x, e16);
        if unit.recurrence().gain == Gain::Write {
            unit.channel_gain(&[s.batch, unit.head, s.k0], (chunk.n, g.e), e16);
        }
        let skip = tensors.d_skip.map(|skip| tiles.value(&skip, &[unit.head]));
        if skip.is_some() {
            tiles.load(&from, 1.0, ptr::null(), unit.buffer(g.at.x), e16);
        }
        match state_in.dtype {
            DType::Bf16 => (tiles.step_bf16)(&operands(unit, [&state_in, &state_out], skip)),
            _ => (tiles.step_f32)(&operands(unit, [&state_in, &state_out], skip)),
        }
        for set in 0..g.n_sets {
            let at = [s.batch, unit.output_head(set), s.q0];
            tiles.store(y.add(set * e16), e16, &Rows::tokens(&out, &at, (1, g.e)));
        }
    }
    if unit.recurrence().has_denominator() {
        unit.store_normaliser();
    }
}

/// The prepared token of a unit against a state of elements `E`.
fn operands<E: Element>(unit: &Unit<'_>, state: [&Tensor; 2], skip: Option<f32>) -> step::Args<E> {
    let (g, p, tensors) = (unit.geometry(), unit.prepared(0), &unit.call.tensors);
    let at = [unit.sequence.slot, unit.head, 0, 0];
    let (x, e16) = (unit.buffer(g.at.u), g.e.next_multiple_of(16));
    let two = unit.recurrence().writes() == 2;
    let given = |on: bool, operand: *mut f32| if on { operand.cast_const() } else { ptr::null() };
    step::Args {
        d: g.m,
        e: g.e,
        s: state[0].address(&at),
        lds: state[0].stride(2),
        s_new: state[1].address(&at),
        lds_new: state[1].stride(2),
        k: p.k,
        erase: given(unit.recurrence().corrects(), p.erase),
        b: given(two, p.k.wrapping_add(g.ldm)),
        q: p.q,
        ldq: CHUNK * g.ldm,
        n_sets: g.n_sets,
        a: p.a,
        a2: p.a_second,
        lda: CHUNK * CHUNK,
        end: given(unit.decays(), p.end),
        gamma: given(tensors.gv.is_some(), p.gamma),
        v: given(skip.is_some(), unit.buffer(g.at.x)),
        skip: skip.unwrap_or(0.0),
        post: given(unit.recurrence().has_denominator(), p.inv_den),
        ldpost: CHUNK,
        x,
        r: x.wrapping_add(if two { e16 } else { 0 }),
        y: unit.buffer(g.at.y),
        ldy: e16,
    }
}
