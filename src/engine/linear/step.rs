//! Decoding: one token per sequence against the state in the caller's memory (`docs/spec/linear.md` 1.8).
//!
//! The token is prepared as a chunk of one; [`crate::kernel::step`] then makes its two passes over the state
//! where it lies. A state whose columns are not contiguous, and the maps that keep it in another form
//! (`exp`, a constant feature), go through the panels of [`super::scan`] instead.

use super::features::FeatureMap;
use super::prepare::Chunk;
use super::recurrence::Gain;
use super::tiles::Rows;
use super::{Call, Linear, Unit};
use crate::CHUNK;
use crate::kernel::step;
use std::ptr;

impl Linear {
    /// Whether a step can work on the caller's state directly.
    pub fn steps_in_place(&self, call: &Call) -> bool {
        let plain = |state: &crate::tensor::Tensor| state.stride(3) == 1;
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
    let two = unit.recurrence().writes() == 2;
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
        let plain = unit.buffer(g.at.x);
        if skip.is_some() {
            tiles.load(&from, 1.0, ptr::null(), plain, e16);
        }
        (tiles.step)(&step::Args {
            d: g.m,
            e: g.e,
            s: state_in.f32_at(&[s.slot, unit.head, 0, 0]),
            lds: state_in.stride(2),
            s_new: state_out.f32_at(&[s.slot, unit.head, 0, 0]),
            lds_new: state_out.stride(2),
            k: p.k,
            erase: if unit.recurrence().corrects() { p.erase } else { ptr::null_mut() },
            b: if two { p.k.add(g.ldm) } else { ptr::null_mut() },
            q: p.q,
            ldq: CHUNK * g.ldm,
            n_sets: g.n_sets,
            a: p.a,
            a2: p.a_second,
            lda: CHUNK * CHUNK,
            end: if unit.decays() { p.end } else { ptr::null_mut() },
            gamma: if tensors.gv.is_some() { p.gamma } else { ptr::null_mut() },
            v: if skip.is_some() { plain } else { ptr::null_mut() },
            skip: skip.unwrap_or(0.0),
            post: if unit.recurrence().has_denominator() { p.inv_den } else { ptr::null_mut() },
            ldpost: CHUNK,
            x,
            r: x.add(if two { e16 } else { 0 }),
            y,
            ldy: e16,
        });
        for set in 0..g.n_sets {
            let at = [s.batch, unit.output_head(set), s.q0];
            tiles.store(y.add(set * e16), e16, &Rows::tokens(&out, &at, (1, g.e)));
        }
    }
    if unit.recurrence().has_denominator() {
        unit.store_normaliser();
    }
}
