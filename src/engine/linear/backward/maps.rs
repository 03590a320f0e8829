//! Maps that change a row's width in reverse (`docs/spec/random_features.md` 4 and 9).
//!
//! ```text
//! cosine      φ = [r sin θ | r cos θ], r = relu(x)       dx = dφ₁ sin θ + dφ₂ cos θ         where x > 0
//! rolled      φ_j = r ⊙ roll(r, j)                       dr_i += dφ_j,i r_{i−j},  dr_{i−j} += dφ_j,i r_i
//! mirrored    φ = [softmax(y) | softmax(−y)]             dy = p ∘ (dφ − p·dφ), the second half with its sign
//! Fourier     φ = c [sin y | cos y]                      dy = dφ₁ ∘ φ₂ − dφ₂ ∘ φ₁
//! ```
//!
//! A softmax that was floored has no gradient where it was. What a projection adds: weights.rs. A map over several
//! heads runs when the tasks are done (power.rs).

use super::Reverse;
use super::features::{dot, normalised};
use crate::engine::linear::features::{FeatureMap, Operand, Projection, Side, Source, relu, rows};
use crate::engine::linear::tiles::Rows;
use crate::kernel::{row_l2norm, row_softmax};
use crate::tensor::Tensor;
use std::f64::consts::FRAC_PI_2;
use std::ptr;

impl Reverse<'_> {
    /// From gradients of one side's features to those of its rows, which are returned.
    ///
    /// # Safety
    /// `dphi` is `[16, ldm]`.
    pub unsafe fn rows_backward(&self, source: &Source, dphi: *mut f32) -> Operand {
        let (g, unit) = (self.unit.geometry(), &self.unit);
        let features = &unit.recurrence().features;
        let plain = Operand { y: dphi, ld: g.ldm, width: g.d };
        let scale = match source.side {
            Side::Query(_) => unit.recurrence().scale,
            Side::Key => features.key_scale,
        };
        // SAFETY: the caller's contract.
        unsafe {
            if features.map == FeatureMap::Exp {
                self.through_exp(source, dphi);
                return match features.projection {
                    Projection::None => plain,
                    _ => self.projection_backward(source, plain),
                };
            }
            if features.in_place() {
                let at = [unit.sequence.batch, source.head, source.first];
                self.features_backward(&source.tensor, &at, source.n, dphi, scale);
                return plain;
            }
            self.scale(dphi, source.n, scale);
            if matches!(features.map, FeatureMap::Power { .. }) {
                return plain;
            }
            let dy = self.map_backward(source, dphi);
            if features.projection == Projection::None { dy } else { self.projection_backward(source, dy) }
        }
    }

    /// From gradients of features to those of projected rows.
    unsafe fn map_backward(&self, source: &Source, dphi: *mut f32) -> Operand {
        let (g, unit, n) = (self.unit.geometry(), &self.unit, source.n);
        let phi = self.buffer(self.at().maps.phi);
        let x = unit.operand(source, phi);
        let dy = Operand { y: self.buffer(self.at().maps.dy), ld: g.at.features.ldw, width: x.width };
        // SAFETY: buffers have the extents that `Maps` names, and are not each other.
        unsafe {
            match unit.recurrence().features.map {
                FeatureMap::Cosine { period, position0 } => {
                    let angle = |i| (position0 as f64 + (source.index + i) as f64) * FRAC_PI_2 / period;
                    let all = rows(x.y, (n, x.width), x.ld).zip(rows(dphi, (n, 2 * x.width), g.ldm));
                    for (i, ((x, dphi), dy)) in all.zip(rows(dy.y, (n, x.width), dy.ld)).enumerate() {
                        let (sin, cos) = angle(i).sin_cos();
                        let (sin, cos) = (sin as f32, cos as f32);
                        let (first, second) = dphi.split_at(x.len());
                        for (c, dy) in dy.iter_mut().enumerate() {
                            *dy = if x[c] > 0.0 { first[c] * sin + second[c] * cos } else { 0.0 };
                        }
                    }
                }
                FeatureMap::Rolled { nu } => self.rolled(n, x, dphi, dy, nu),
                FeatureMap::Mirrored { joint, floor } => {
                    unit.mirrored(source, x, phi, (joint, 0.0));
                    let floor = if joint { 0.0 } else { floor };
                    self.mirrored(n, dphi, dy, (joint, floor));
                }
                FeatureMap::Fourier { relu: true, scale } => {
                    let all = rows(x.y, (n, x.width), x.ld).zip(rows(dphi, (n, x.width), g.ldm));
                    for ((x, dphi), dy) in all.zip(rows(dy.y, (n, x.width), dy.ld)) {
                        for (c, dy) in dy.iter_mut().enumerate() {
                            *dy = if x[c] > 0.0 { scale * dphi[c] } else { 0.0 };
                        }
                    }
                }
                FeatureMap::Fourier { relu: false, scale } => {
                    unit.fourier(source, x, phi, (false, scale));
                    let all = rows(phi, (n, g.m), g.ldm).zip(rows(dphi, (n, g.m), g.ldm));
                    for ((phi, dphi), dy) in all.zip(rows(dy.y, (n, x.width), dy.ld)) {
                        for (c, dy) in dy.iter_mut().enumerate() {
                            let other = c + x.width;
                            *dy = dphi[c] * phi[other] - dphi[other] * phi[c];
                        }
                    }
                }
                FeatureMap::Softmax => {
                    let args = row_softmax::Args { n, d: x.width, x: x.y, ld: x.ld };
                    (self.tiles().softmax)(&args);
                    let all = rows(x.y, (n, x.width), x.ld).zip(rows(dphi, (n, x.width), g.ldm));
                    for ((p, dphi), dy) in all.zip(rows(dy.y, (n, x.width), dy.ld)) {
                        through_softmax(p, dphi);
                        dy.copy_from_slice(dphi);
                    }
                }
                // Maps in place, of several heads, of several tensors.
                _ => {}
            }
        }
        dy
    }

    unsafe fn rolled(&self, n: usize, x: Operand, dphi: *mut f32, dy: Operand, nu: usize) {
        let (g, d, width) = (self.unit.geometry(), x.width, 2 * x.width);
        let at = &g.at.features;
        // SAFETY: `projected` holds two rows of `2 d`; the rest is as in `map_backward`.
        unsafe {
            let r = std::slice::from_raw_parts_mut(self.buffer(at.projected), width);
            let dr = std::slice::from_raw_parts_mut(self.buffer(at.projected + at.ldw), width);
            let all = rows(x.y, (n, d), x.ld).zip(rows(dphi, (n, width * nu), g.ldm));
            for ((x, dphi), dy) in all.zip(rows(dy.y, (n, d), dy.ld)) {
                for (c, &x) in x.iter().enumerate() {
                    (r[c], r[d + c]) = (relu(x), relu(-x));
                }
                dr.fill(0.0);
                for (j, dphi) in dphi.chunks_exact(width).enumerate() {
                    let shift = (j + 1) % width;
                    for (i, dphi) in dphi.iter().enumerate() {
                        let other = if i < shift { i + width - shift } else { i - shift };
                        dr[i] += dphi * r[other];
                        dr[other] += dphi * r[i];
                    }
                }
                for (c, dy) in dy.iter_mut().enumerate() {
                    let sign = |x: f32, dr: f32| if x > 0.0 { dr } else { 0.0 };
                    *dy = sign(x[c], dr[c]) - sign(-x[c], dr[d + c]);
                }
            }
        }
    }

    /// With the softmaxes in `phi`, not floored.
    unsafe fn mirrored(&self, n: usize, dphi: *mut f32, dy: Operand, (joint, floor): (bool, f32)) {
        let (g, f) = (self.unit.geometry(), dy.width);
        let phi = self.buffer(self.at().maps.phi);
        // SAFETY: as in `map_backward`.
        unsafe {
            let all = rows(phi, (n, 2 * f), g.ldm).zip(rows(dphi, (n, 2 * f), g.ldm));
            for ((p, dphi), dy) in all.zip(rows(dy.y, (n, f), dy.ld)) {
                dphi.iter_mut().zip(&*p).filter(|(_, p)| **p < floor).for_each(|(dphi, _)| *dphi = 0.0);
                let piece = if joint { 2 * f } else { f };
                for (p, dphi) in p.chunks_exact_mut(piece).zip(dphi.chunks_exact_mut(piece)) {
                    through_softmax(p, dphi);
                }
                let factor = if joint { 2.0 } else { 1.0 };
                let (first, second) = dphi.split_at(f);
                for ((dy, a), b) in dy.iter_mut().zip(first).zip(second) {
                    *dy = factor * (a - b);
                }
            }
        }
    }

    /// From gradients of projected rows to those of the rows, with those of the weights.
    unsafe fn projection_backward(&self, source: &Source, dy: Operand) -> Operand {
        let (g, unit, n) = (self.unit.geometry(), &self.unit, source.n);
        let features = &unit.recurrence().features;
        let at = &g.at.features;
        let dx = Operand { y: self.buffer(self.at().maps.dx), ld: at.ldd, width: g.d };
        let [weights, _, factors] = unit.packed(source.side);
        let slot = self.slot_of(source.side);
        // SAFETY: buffers have the extents that `Maps` and the forward pass's `Layout` name; rows as loaded are
        // still in `rows`.
        unsafe {
            let factors = std::slice::from_raw_parts(factors, g.d);
            match features.projection {
                Projection::None => {}
                Projection::Cosine => {
                    for dy in rows(dy.y, (n, g.d), dy.ld) {
                        dy.iter_mut().zip(factors).for_each(|(dy, f)| *dy *= f);
                    }
                    self.through(n, dy, (unit.engine.transform.as_ptr(), at.ldd), dx);
                }
                Projection::PerHead { .. } | Projection::Shared { .. } => {
                    let x = Operand { y: self.buffer(at.rows), ld: at.ldd, width: g.d };
                    self.add_weights(slot, 0, n, x, dy);
                    self.through(n, dy, (weights, at.ldw), dx);
                }
                Projection::Rows { .. } => {
                    // The rows before `sigma`, once as they are given, once normalised.
                    let raw = unit.load_rows(source, source.head);
                    let x = Operand { y: self.buffer(self.at().unit), ..raw };
                    ptr::copy_nonoverlapping(raw.y, x.y, n * raw.ld);
                    let side = usize::from(source.side == Side::Key);
                    let scale = features.row_scale[side];
                    if let Some(norm) = features.l2norm {
                        let (mode, eps) = (norm.mode.into(), norm.eps);
                        let args = row_l2norm::Args { n, d: g.d, x: x.y, ld: x.ld, mode, eps, scale };
                        (self.tiles().l2norm)(&args);
                    }
                    self.add_weights(slot, 0, n, x, dy);
                    self.through(n, dy, (weights, at.ldw), dx);
                    for (x, dx) in rows(raw.y, (n, g.d), raw.ld).zip(rows(dx.y, (n, g.d), dx.ld)) {
                        if unit.call.tensors.given.sigma.is_some() {
                            dx.iter_mut().zip(factors).for_each(|(dx, f)| *dx *= f);
                        }
                        if let Some(norm) = features.l2norm {
                            dx.iter_mut().for_each(|dx| *dx *= scale);
                            normalised(norm, x, dx);
                        }
                    }
                }
            }
        }
        dx
    }

    /// Rows of one side through its features to the caller, added to what other heads left there.
    ///
    /// # Safety
    /// `dphi` is `[16, ldm]`; the tensor has the shape of the source's.
    pub unsafe fn store_side(&self, source: &Source, dphi: *mut f32, to: &Option<Tensor>, first: bool) {
        if to.is_none() && !self.wants_parameters() {
            return;
        }
        let at = [self.unit.sequence.batch, source.head, source.first];
        // SAFETY: the caller's contract.
        unsafe {
            let dx = self.rows_backward(source, dphi);
            if let Some(to) = to {
                self.store_sum(dx.y, dx.ld, to, &at, (source.n, dx.width), first);
            }
        }
    }

    /// Loads rows of a gradient that is being made, `[16, ld]`.
    ///
    /// # Safety
    /// The tensor has these rows; `dst` is `[16, ld]`.
    pub unsafe fn load_gradient_rows(
        &self,
        tensor: &Tensor,
        at: &[usize],
        shape: (usize, usize),
        (dst, ld): (*mut f32, usize),
    ) {
        // SAFETY: the caller's contract.
        unsafe { self.unit.tiles().load(&Rows::tokens(tensor, at, shape), 1.0, ptr::null(), dst, ld) }
    }
}

/// `dφ = p ∘ (dφ − p·dφ)`.
fn through_softmax(p: &[f32], dphi: &mut [f32]) {
    let along = dot(p, dphi);
    dphi.iter_mut().zip(p).for_each(|(dphi, p)| *dphi = p * (*dphi - along));
}
