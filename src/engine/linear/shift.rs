//! The map `exp` in its safe form (`docs/spec/linear.md` 2): a running maximum `m` per key channel.
//!
//! ```text
//! M = max(m, max_j k_j)        keys e^{k_j − M}        state rows × e^{m − M}
//! μ_i = max_c (q_i,c + M_c)    queries e^{q_i + M − μ_i}        ε × e^{−μ_i}
//! ```
//!
//! The state's factor goes in as a decay: `α_0 = e^{m − M}` and 1 after, which gives every query of the chunk
//! the prefix `e^{m − M}` and every key the suffix 1. A chunk whose maximum leaves an earlier token more
//! than 60 behind in some channel is run token by token: that token's keys would underflow.
//!
//! Gates, where there are some, multiply `α` (`prepare.rs`). They do not lower the maximum: after a reset, keys more
//! than 87 below the largest one before it count as nothing.

use super::Unit;
use super::prepare::{Chunk, Prepared};
use crate::CHUNK;

/// Largest gap between a token's own maximum and the chunk's.
const MAX_GAP: f32 = 60.0;

/// Takes a chunk's loaded keys into the shift, and turns its rows into features. Returns the number of tokens done.
pub fn apply(unit: &Unit<'_>, p: &Prepared, chunk: &Chunk) -> usize {
    let g = unit.geometry();
    let (d, ld) = (g.d, g.ldm);
    let mut n = chunk.n;
    // SAFETY: the buffers are this worker's, with the extents that `Offsets` names; `d ≤ ld`.
    unsafe {
        let shift = std::slice::from_raw_parts_mut(unit.carried(g.at.shift), ld);
        let before = std::slice::from_raw_parts_mut(unit.carried(g.at.shift + ld), ld);
        before.copy_from_slice(shift);
        if chunk.write {
            let k = std::slice::from_raw_parts(p.k, n * ld);
            if n > 1 && gap(k, shift, ld, d) > MAX_GAP {
                n = 1;
            }
            for row in k.chunks_exact(ld).take(n) {
                maximum(&mut shift[..d], row);
            }
        }
        features(unit, p, &Chunk { n, ..*chunk }, (before, shift));
    }
    n
}

/// Turns the loaded rows of a chunk into features, and the shift before and after it into decay factors.
///
/// # Safety
/// The rows are those that `p` names; shifts are `[ldm]`.
pub unsafe fn features(unit: &Unit<'_>, p: &Prepared, chunk: &Chunk, (before, shift): (&[f32], &[f32])) {
    let (g, n) = (unit.geometry(), chunk.n);
    let (d, ld) = (g.d, g.ldm);
    // SAFETY: the caller's contract; buffers are this worker's, with the extents that `Offsets` names; `d ≤ ld`.
    unsafe {
        let rows = |p: *mut f32, n: usize| std::slice::from_raw_parts_mut(p, n * ld);
        if chunk.write {
            for row in rows(p.k, n).chunks_exact_mut(ld) {
                difference(&mut row[..d], shift);
                unit.tiles().exp_in_place(row.as_mut_ptr(), d);
            }
            let alpha = rows(unit.buffer(g.at.alpha), n);
            alpha.fill(1.0);
            alpha[..d].copy_from_slice(&before[..d]);
            difference(&mut alpha[..d], shift);
            unit.tiles().exp_in_place(alpha.as_mut_ptr(), d);
        }
        for set in 0..if chunk.read { g.n_sets } else { 0 } {
            let q = rows(p.q.add(set * CHUNK * ld), n);
            for (i, row) in q.chunks_exact_mut(ld).enumerate() {
                row[..d].iter_mut().zip(shift).for_each(|(q, m)| *q += m);
                let top = row[..d].iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let top = if top == f32::NEG_INFINITY { 0.0 } else { top };
                row[..d].iter_mut().for_each(|q| *q -= top);
                unit.tiles().exp_in_place(row.as_mut_ptr(), d);
                let scale = unit.recurrence().scale;
                row[..d].iter_mut().for_each(|q| *q *= scale);
                *unit.buffer(g.at.eps_factor).add(set * CHUNK + i) = (-top).exp();
            }
        }
    }
}

/// Elementwise maximum into `top`.
fn maximum(top: &mut [f32], row: &[f32]) {
    top.iter_mut().zip(row).for_each(|(m, &x)| *m = if x > *m { x } else { *m });
}

/// `row −= shift`, where `−∞ − (−∞)`, an empty sum, counts as 0.
pub fn difference(row: &mut [f32], shift: &[f32]) {
    row.iter_mut().zip(shift).for_each(|(x, &m)| *x = if *x == m { 0.0 } else { *x - m });
}

/// Largest difference, over channels and tokens, between the final maximum and a token's running one.
fn gap(k: &[f32], shift: &[f32], ld: usize, d: usize) -> f32 {
    let mut widest = 0.0f32;
    for (c, &before) in shift[..d].iter().enumerate() {
        let column = || k.iter().skip(c).step_by(ld).copied();
        // The first token's running maximum is the smallest, and every later one is at least that.
        let first = column().next().unwrap_or(0.0).max(before);
        let last = column().fold(before, f32::max);
        if last > first {
            widest = widest.max(last - first);
        }
    }
    widest
}
