//! Focused features in reverse (`docs/spec/random_features.md` 9): a norm over all heads of a token waits for all
//! tasks, which leave gradients of features where those of rows belong.
//!
//! ```text
//! u = y/top      φ = u^p · top ‖u‖/‖u^p‖      a = Σ dφ ∘ u^p
//! dy = p u^{p−1} ∘ (dφ − a/‖u^p‖² · u^p) ‖u‖/‖u^p‖ + a/(‖u‖ ‖u^p‖) · u          dx = dy/temperature where x > 0
//! ```

use super::{Reverse, Run};
use crate::CHUNK;
use crate::engine::linear::features::{FeatureMap, Side, Source, Span, raise, rows};
use crate::engine::linear::prepare::Chunk;
use crate::error::Result;
use crate::parallel::{self, Runner};
use crate::tensor::Tensor;

/// Tokens of a task.
const ROWS: usize = 64;

impl Run<'_> {
    /// The map in reverse, in place of the gradients of its features, if it is the plan's.
    pub fn powers(&self, runner: &dyn Runner) -> Result<()> {
        let FeatureMap::Power { degree, eps, joint } = self.engine.recurrence.features.map else {
            return Ok(());
        };
        let (n_q, n_k) = self.call.sequences.longest();
        let runs = n_q.max(n_k).div_ceil(ROWS);
        parallel::run(runner, self.call.n_sequences() * runs, &|task, worker| {
            let Some(reverse) = self.unit(task / runs, 0, worker, false) else { return };
            let s = &reverse.unit.sequence;
            let first = task % runs * ROWS;
            let sides = [(Side::Query(0), s.n_q, &self.grads.q), (Side::Key, s.n_k, &self.grads.k)];
            for (side, tokens, to) in sides {
                let Some(to) = to else { continue };
                for t in (first..tokens.min(first + ROWS)).step_by(CHUNK) {
                    let n = CHUNK.min(tokens - t);
                    let chunk = Chunk { q0: s.q0 + t, k0: s.k0 + t, n, read: true, write: true };
                    let source = reverse.unit.source(side, &chunk);
                    let heads = 0..self.engine.heads.k;
                    // SAFETY: the tensor has the shape of `q` or `k` (checked); these tokens are this task's.
                    unsafe {
                        if joint {
                            reverse.power(&source, to, heads, (degree, eps));
                        } else {
                            heads.for_each(|h| reverse.power(&source, to, h..h + 1, (degree, eps)));
                        }
                    }
                }
            }
        })
    }
}

impl Reverse<'_> {
    /// Some tokens of the heads that a norm spans.
    ///
    /// # Safety
    /// The tensor has these rows, and no other task touches them.
    unsafe fn power(
        &self,
        source: &Source,
        to: &Tensor,
        heads: std::ops::Range<usize>,
        (degree, eps): (u32, f32),
    ) {
        let (g, unit, n) = (self.unit.geometry(), &self.unit, source.n);
        let at = &g.at.features;
        let (dphi, ld) = (self.buffer(self.at().raw), at.ldd);
        let temperature = self.buffer(at.projected);
        let mut spans = [Span::default(); CHUNK];
        let mut along = [0f64; CHUNK];
        let place = |head| [unit.sequence.batch, head, source.first];
        // SAFETY: the caller's contract; buffers have the extents that `Offsets` names.
        unsafe {
            for head in heads.clone() {
                let y = unit.load_focused(source, head, eps);
                for (y, span) in rows(y.y, (n, g.d), y.ld).zip(&mut spans) {
                    span.add(y, degree);
                }
            }
            for head in heads.clone() {
                let y = unit.load_focused(source, head, eps);
                self.load_gradient_rows(to, &place(head), (n, g.d), (dphi, ld));
                let pairs = rows(y.y, (n, g.d), y.ld).zip(rows(dphi, (n, g.d), ld));
                for (i, (y, dphi)) in pairs.enumerate() {
                    for (y, dphi) in y.chunks(8).zip(dphi.chunks(8)) {
                        let power = raise(unit_of(y, &spans[i]), degree);
                        along[i] += dphi.iter().zip(power).map(|(d, z)| f64::from(d * z)).sum::<f64>();
                    }
                }
            }
            for head in heads {
                self.load_gradient_rows(to, &place(head), (n, g.d), (dphi, ld));
                // Rows as given, and whatever becomes of them in the same buffer.
                let x = unit.load_rows(source, head);
                let mask = self.buffer(self.at().unit);
                std::ptr::copy_nonoverlapping(x.y, mask, n * ld);
                let y = unit.load_focused(source, head, eps);
                let temperature = std::slice::from_raw_parts(temperature, g.d);
                for i in 0..n {
                    let row = |p: *mut f32| std::slice::from_raw_parts_mut(p.add(i * ld), g.d);
                    let slopes = Slopes::new(&spans[i], along[i]);
                    let (y, dphi, x) = (row(y.y), row(dphi), row(mask));
                    for (y, dphi) in y.chunks(8).zip(dphi.chunks_mut(8)) {
                        slopes.apply(unit_of(y, &spans[i]), dphi, degree);
                    }
                    for ((dx, x), t) in dphi.iter_mut().zip(x).zip(temperature) {
                        *dx = if *x > 0.0 { *dx / t } else { 0.0 };
                    }
                }
                self.store_sum(dphi, ld, to, &place(head), (n, g.d), true);
            }
        }
    }
}

/// Up to eight numbers divided by the largest of their span.
fn unit_of(y: &[f32], span: &Span) -> [f32; 8] {
    let top = if span.top > 0.0 { span.top } else { 1.0 };
    let mut u = [0f32; 8];
    u.iter_mut().zip(y).for_each(|(u, y)| *u = y / top);
    u
}

/// What is the same for all numbers of a span.
struct Slopes {
    /// `‖u‖/‖u^p‖`.
    ratio: f32,
    /// `a/‖u^p‖²`.
    pull: f32,
    /// `a/(‖u‖ ‖u^p‖)`.
    along: f32,
}

impl Slopes {
    /// Nothing for a span of zeros.
    fn new(span: &Span, along: f64) -> Slopes {
        if span.squares == 0.0 {
            return Slopes { ratio: 0.0, pull: 0.0, along: 0.0 };
        }
        Slopes {
            ratio: (span.squares / span.powers).sqrt() as f32,
            pull: (along / span.powers) as f32,
            along: (along / (span.squares * span.powers).sqrt()) as f32,
        }
    }

    /// From `dφ` to `dy`.
    fn apply(&self, u: [f32; 8], dphi: &mut [f32], degree: u32) {
        let below = if degree > 1 { raise(u, degree - 1) } else { [1.0; 8] };
        for (i, d) in dphi.iter_mut().enumerate() {
            let through = *d - self.pull * u[i] * below[i];
            *d = degree as f32 * below[i] * self.ratio * through + self.along * u[i];
        }
    }
}
