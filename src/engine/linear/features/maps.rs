//! Maps that change a row's width, or read more than the row.
//!
//! All work on `[n, D]` rows of one head, write `[n, ldm]` rows of features and clear what pads them.

use super::{FeatureMap, Projection, Side, Source};
use crate::CHUNK;
use crate::engine::linear::Unit;
use crate::engine::linear::tiles::Rows;
use crate::kernel::{elementwise, matmul, row_l2norm, row_softmax, sincos};
use std::f64::consts::FRAC_PI_2;
use std::ptr;

/// Rows of a buffer, as far as they are elements.
///
/// # Safety
/// `x` has `n · ld` elements that nothing else refers to; `d ≤ ld`.
pub unsafe fn rows<'a>(
    x: *mut f32,
    (n, d): (usize, usize),
    ld: usize,
) -> impl Iterator<Item = &'a mut [f32]> {
    // SAFETY: the caller's contract; rows do not overlap.
    (0..n).map(move |i| unsafe { std::slice::from_raw_parts_mut(x.add(i * ld), d) })
}

/// `max(x, 0)` that keeps NaN.
pub fn relu(x: f32) -> f32 {
    if x <= 0.0 { 0.0 } else { x }
}

/// A row and its projection: where they lie, how wide they are.
#[derive(Clone, Copy)]
pub struct Operand {
    pub y: *mut f32,
    pub ld: usize,
    pub width: usize,
}

impl Unit<'_> {
    /// Rows of one side to features.
    pub(super) fn mapped(&self, source: &Source, dst: *mut f32) {
        let (g, features) = (self.geometry(), &self.recurrence().features);
        let y = self.operand(source, dst);
        match features.map {
            FeatureMap::Cosine { period, position0 } => {
                let angle = |i| (position0 as f64 + (source.index + i) as f64) * FRAC_PI_2 / period;
                self.cosine(source, y, dst, angle);
            }
            FeatureMap::Rolled { nu } => self.rolled(source, y, dst, nu),
            FeatureMap::Power { degree, eps, joint } => self.power(source, dst, (degree, eps, joint)),
            FeatureMap::Mirrored { joint, floor } => self.mirrored(source, y, dst, (joint, floor)),
            FeatureMap::Fourier { relu, scale } => self.fourier(source, y, dst, (relu, scale)),
            FeatureMap::Softmax => {
                let args = row_softmax::Args { n: source.n, d: y.width, x: dst, ld: g.ldm };
                // SAFETY: the projection is in `dst`, [16, ldm].
                unsafe { (self.tiles().softmax)(&args) }
            }
            // `exp` after a projection: `shift.rs` makes the features.
            _ => {}
        }
        let shifted = features.map == FeatureMap::Exp;
        let scale = match source.side {
            Side::Key => features.key_scale,
            Side::Query(_) => self.recurrence().scale,
        };
        // SAFETY: `dst` is [16, ldm].
        unsafe {
            for row in rows(dst, (source.n, g.ldm), g.ldm) {
                row[g.m..].fill(0.0);
                if scale != 1.0 && !shifted {
                    row[..g.m].iter_mut().for_each(|x| *x *= scale);
                }
            }
        }
    }

    /// Loads the rows of `head` at a source's tokens.
    ///
    /// # Safety
    /// `head` is a head of the tensor.
    pub unsafe fn load_rows(&self, source: &Source, head: usize) -> Operand {
        let (g, layout) = (self.geometry(), &self.geometry().at.features);
        let y = self.buffer(layout.rows);
        // SAFETY: the tensor is [B, H, T, D] (checked), the chunk lies in the sequence; the buffer is [16, ldd].
        unsafe {
            let at = [self.sequence.batch, head, source.first];
            let from = Rows::tokens(&source.tensor, &at, (source.n, g.d));
            self.tiles().load(&from, 1.0, ptr::null(), y, layout.ldd);
        }
        Operand { y, ld: layout.ldd, width: g.d }
    }

    /// Loads a source's rows, normalised and projected as the features say; a projection that is mapped in
    /// place goes to `dst`.
    pub fn operand(&self, source: &Source, dst: *mut f32) -> Operand {
        let (g, tiles, features) = (self.geometry(), self.tiles(), &self.recurrence().features);
        let [weights, bias, factors] = self.packed(source.side);
        let layout = &g.at.features;
        // SAFETY: buffers have the extents that `Layout` names, and were packed by `prepare_features`.
        unsafe {
            let x = self.load_rows(source, source.head);
            if let Some(norm) = features.l2norm {
                let scale = features.row_scale[usize::from(source.side == Side::Key)];
                let (n, mode, eps) = (source.n, norm.mode.into(), norm.eps);
                (tiles.l2norm)(&row_l2norm::Args { n, d: g.d, x: x.y, ld: x.ld, mode, eps, scale });
            }
            let scaled = |y: &Operand| {
                let factors = std::slice::from_raw_parts(factors, g.d);
                for row in rows(y.y, (source.n, g.d), y.ld) {
                    row.iter_mut().zip(factors).for_each(|(x, f)| *x *= f);
                }
            };
            let width = features.projection.width(g.d);
            let y = Operand { y: self.buffer(layout.projected), ld: layout.ldw, width };
            match features.projection {
                Projection::None => return x,
                Projection::Cosine => {
                    let y = Operand { y: dst, ld: g.ldm, width };
                    self.project(source.n, x, (self.engine.transform.as_ptr(), layout.ldd), ptr::null(), y);
                    scaled(&y);
                    return y;
                }
                Projection::Rows { .. } => {
                    if self.call.tensors.given.sigma.is_some() {
                        scaled(&x);
                    }
                    self.project(source.n, x, (weights, layout.ldw), ptr::null(), y);
                }
                Projection::PerHead { .. } | Projection::Shared { .. } => {
                    self.project(source.n, x, (weights, layout.ldw), bias, y);
                }
            }
            y
        }
    }

    /// `Y = X W + b`.
    ///
    /// # Safety
    /// `x` is [n, ld], `w` [width of x, ldw], `y` [n, ld] and elsewhere; rows of `w` and `b` are whole blocks
    /// of 16.
    unsafe fn project(&self, n: usize, x: Operand, (w, ldw): (*const f32, usize), b: *const f32, y: Operand) {
        let mut product = matmul::Args::product(n, y.width, x.width, y.y, y.ld as isize);
        (product.a, product.lda) = (x.y, x.ld);
        (product.b, product.ldb) = (w, ldw);
        product.c0 = b;
        // SAFETY: the caller's contract; every row of `c0` is the bias.
        unsafe { (self.tiles().matmul)(&product) }
    }

    /// cosFormer: `[relu(x) sin θ | relu(x) cos θ]`.
    fn cosine(&self, source: &Source, x: Operand, dst: *mut f32, angle: impl Fn(usize) -> f64) {
        let (ldm, d) = (self.geometry().ldm, x.width);
        // SAFETY: `x` is [16, ld], `dst` [16, ldm] with `ldm ≥ 2 d`.
        unsafe {
            let pairs = rows(x.y, (source.n, d), x.ld).zip(rows(dst, (source.n, 2 * d), ldm));
            for (i, (x, y)) in pairs.enumerate() {
                let (sin, cos) = angle(i).sin_cos();
                let (sin, cos) = (sin as f32, cos as f32);
                let (first, second) = y.split_at_mut(d);
                for ((x, s), c) in x.iter().zip(first).zip(second) {
                    let r = relu(*x);
                    (*s, *c) = (r * sin, r * cos);
                }
            }
        }
    }

    /// DPFP: `r ⊙ roll(r, j)`, `j = 1 … nu`.
    fn rolled(&self, source: &Source, x: Operand, dst: *mut f32, nu: usize) {
        let (g, d) = (self.geometry(), x.width);
        // SAFETY: `x` is [16, ld], `projected` holds a row of `2 d`, `dst` is [16, ldm] with `ldm ≥ 2 d nu`.
        unsafe {
            let r = std::slice::from_raw_parts_mut(self.buffer(g.at.features.projected), 2 * d);
            for (x, y) in rows(x.y, (source.n, d), x.ld).zip(rows(dst, (source.n, 2 * d * nu), g.ldm)) {
                let (positive, negative) = r.split_at_mut(d);
                for ((x, p), n) in x.iter().zip(positive).zip(negative) {
                    (*p, *n) = (relu(*x), relu(-*x));
                }
                for (j, y) in y.chunks_exact_mut(2 * d).enumerate() {
                    let (tail, head) = r.split_at(2 * d - (j + 1) % (2 * d));
                    let rolled = head.iter().chain(tail);
                    y.iter_mut().zip(&*r).zip(rolled).for_each(|((y, a), b)| *y = a * b);
                }
            }
        }
    }

    /// Hedgehog: softmax of `y` and of `−y`, floored; or one softmax over `[2y | −2y]`.
    pub fn mirrored(&self, source: &Source, y: Operand, dst: *mut f32, (joint, floor): (bool, f32)) {
        let (g, f, n) = (self.geometry(), y.width, source.n);
        let factor = if joint { 2.0 } else { 1.0 };
        // SAFETY: `y` is [16, ld], `dst` [16, ldm] with `ldm ≥ 2 f`.
        unsafe {
            for (y, out) in rows(y.y, (n, f), y.ld).zip(rows(dst, (n, 2 * f), g.ldm)) {
                let (first, second) = out.split_at_mut(f);
                for ((y, a), b) in y.iter().zip(first).zip(second) {
                    (*a, *b) = (factor * y, -factor * y);
                }
            }
            if joint {
                (self.tiles().softmax)(&row_softmax::Args { n, d: 2 * f, x: dst, ld: g.ldm });
                return;
            }
            for x in [dst, dst.add(f)] {
                (self.tiles().softmax)(&row_softmax::Args { n, d: f, x, ld: g.ldm });
            }
            for row in rows(dst, (n, 2 * f), g.ldm) {
                row.iter_mut().for_each(|x| *x = if *x < floor { floor } else { *x });
            }
        }
    }

    /// Random Fourier features: `[sin y | cos y]`, or `relu(y)`.
    pub fn fourier(&self, source: &Source, y: Operand, dst: *mut f32, (positive, scale): (bool, f32)) {
        let (g, n, p) = (self.geometry(), source.n, y.width);
        // SAFETY: `y` is [16, ld], `dst` [16, ldm] with `ldm ≥ m`.
        unsafe {
            for (y, out) in rows(y.y, (n, p), y.ld).zip(rows(dst, (n, g.m), g.ldm)) {
                let (src, at) = (y.as_ptr(), out.as_mut_ptr());
                if positive {
                    (self.tiles().relu)(&elementwise::Args { n: p, src, dst: at });
                } else {
                    (self.tiles().sincos)(&sincos::Args { n: p, src, sin: at, cos: at.add(p) });
                }
                out.iter_mut().for_each(|x| *x *= scale);
            }
        }
    }

    /// FLatten: `y^p ‖y‖/‖y^p‖`, `y = (relu(x) + ε)/temperature`. With `u = y/top`, `top` the largest `y` of
    /// the span, that is `u^p · top ‖u‖/‖u^p‖`, which nothing overflows.
    fn power(&self, source: &Source, dst: *mut f32, (degree, eps, joint): (u32, f32, bool)) {
        let (g, n) = (self.geometry(), source.n);
        let heads = if joint { 0..self.engine.heads.k } else { source.head..source.head + 1 };
        let mut spans = [Span::default(); CHUNK];
        // SAFETY: `load_focused` leaves [16, ldd] rows; `dst` is [16, ldm]; heads of `q` and `k` are as many
        // (`mechanism/focused.rs`).
        unsafe {
            for head in heads {
                let y = self.load_focused(source, head, eps);
                for (row, span) in rows(y.y, (n, y.width), y.ld).zip(&mut spans) {
                    span.add(row, degree);
                }
            }
            let y = self.load_focused(source, source.head, eps);
            let pairs = rows(y.y, (n, y.width), y.ld).zip(rows(dst, (n, y.width), g.ldm));
            for ((y, out), span) in pairs.zip(&spans) {
                let (unit, factor) = (if span.top > 0.0 { span.top } else { 1.0 }, span.factor());
                for (y, out) in y.chunks(8).zip(out.chunks_mut(8)) {
                    let mut u = [0f32; 8];
                    u.iter_mut().zip(y).for_each(|(u, y)| *u = y / unit);
                    out.iter_mut().zip(raise(u, degree)).for_each(|(out, power)| *out = factor * power);
                }
            }
        }
    }

    /// `(relu(x) + ε)/temperature` of a head.
    ///
    /// # Safety
    /// As `load_rows`; `temperature` has this head.
    pub unsafe fn load_focused(&self, source: &Source, head: usize, eps: f32) -> Operand {
        let g = self.geometry();
        let temperature = self.buffer(g.at.features.projected);
        // SAFETY: `temperature` is [H, D] (checked); `projected` holds a row of it.
        unsafe {
            let given = self.tensor(self.call.tensors.given.temperature);
            self.tiles().gather(&given, &[head, 0], 1, g.d, temperature);
            let temperature = std::slice::from_raw_parts(temperature, g.d);
            let y = self.load_rows(source, head);
            for row in rows(y.y, (source.n, g.d), y.ld) {
                row.iter_mut().zip(temperature).for_each(|(x, t)| *x = (relu(*x) + eps) / t);
            }
            y
        }
    }
}

/// Sums over what a norm spans, of a row divided by its largest element so far.
#[derive(Clone, Copy, Default)]
pub struct Span {
    pub top: f32,
    /// `Σ u²`.
    pub squares: f64,
    /// `Σ u^{2p}`.
    pub powers: f64,
}

impl Span {
    /// Takes in a row of numbers ≥ 0.
    pub fn add(&mut self, row: &[f32], degree: u32) {
        let top = row.iter().fold(self.top, |top, &y| if y > top { y } else { top });
        if top > self.top {
            let shrink = f64::from(self.top / top);
            let power = shrink.powf(f64::from(degree));
            (self.squares, self.powers) = (self.squares * shrink * shrink, self.powers * power * power);
            self.top = top;
        }
        let unit = if top > 0.0 { top } else { 1.0 };
        // Eight sums at a time, which the compiler makes vectors of.
        let mut sums = [[0f32; 8]; 2];
        for piece in row.chunks(8) {
            let mut u = [0f32; 8];
            u.iter_mut().zip(piece).for_each(|(u, y)| *u = y / unit);
            let power = raise(u, degree);
            for i in 0..8 {
                sums[0][i] += u[i] * u[i];
                sums[1][i] += power[i] * power[i];
            }
        }
        let [squares, powers] = sums.map(|sums| sums.into_iter().map(f64::from).sum::<f64>());
        (self.squares, self.powers) = (self.squares + squares, self.powers + powers);
    }

    /// `top ‖u‖/‖u^p‖`; 0 for a row of zeros.
    fn factor(&self) -> f32 {
        if self.squares == 0.0 {
            0.0
        } else {
            (f64::from(self.top) * (self.squares / self.powers).sqrt()) as f32
        }
    }
}

/// `u^p` by squaring, eight at a time.
pub fn raise(mut u: [f32; 8], mut p: u32) -> [f32; 8] {
    let mut power = [1.0; 8];
    while p > 1 {
        if p % 2 == 1 {
            (0..8).for_each(|i| power[i] *= u[i]);
        }
        (0..8).for_each(|i| u[i] *= u[i]);
        p /= 2;
    }
    (0..8).for_each(|i| power[i] *= u[i]);
    power
}
