//! Two passes over a row: sum of squares, product.

use super::{Activation, Args};
use crate::simd::math;
use crate::simd::mem::{Head, load, store};
use crate::simd::reduce::{in_range, sum_squares};
use pulp::Simd;

/// What there is to multiply by.
const NONE: u8 = 0;
const SILU: u8 = 1;
const SIGMOID: u8 = 2;

/// # Safety
/// The contract of [`Args`].
#[inline(always)]
pub(super) unsafe fn run<S: Simd>(s: S, args: &Args) {
    let gate = match args.activation {
        _ if args.gate.is_null() => NONE,
        Activation::Silu => SILU,
        Activation::Sigmoid => SIGMOID,
    };
    // SAFETY: the contract is the same; the constants say which pointers are null.
    unsafe {
        match (args.weight.is_null(), gate) {
            (true, NONE) => rows::<S, false, NONE>(s, args),
            (true, SILU) => rows::<S, false, SILU>(s, args),
            (true, _) => rows::<S, false, SIGMOID>(s, args),
            (false, NONE) => rows::<S, true, NONE>(s, args),
            (false, SILU) => rows::<S, true, SILU>(s, args),
            (false, _) => rows::<S, true, SIGMOID>(s, args),
        }
    }
}

/// # Safety
/// The contract of [`Args`]; there are weights if `WEIGHT`, gates if `GATE` isn't `NONE`.
#[inline(always)]
unsafe fn rows<S: Simd, const WEIGHT: bool, const GATE: u8>(s: S, args: &Args) {
    let len = args.piece_len;
    let tail = Head::new(s, len % S::F32_LANES);
    for i in 0..args.n {
        let (f, sum) = in_range(
            args.eps < 2f32.powi(-80),
            #[inline(always)]
            |f| {
                let mut sum = 0.0;
                for p in 0..args.n_pieces {
                    // SAFETY: piece p of row i has `len` elements.
                    sum += unsafe { sum_squares(s, args.piece(i, p), len, f) };
                }
                sum
            },
        );
        // ε as it is for a row `f` times as long; in f64, as f² may leave the range.
        let eps = (f64::from(args.eps) * f64::from(f) * f64::from(f)) as f32;
        let c = s.splat_f32s(1.0 / (sum / (args.n_pieces * len) as f32 + eps).sqrt());
        let factors = (s.splat_f32s(f), c);
        for p in 0..args.n_pieces {
            // SAFETY: piece p of row i, its gates and its weights.
            let (y, gate, weight) = unsafe {
                let gate = if GATE == NONE { args.gate } else { args.gates(i, p) };
                (args.piece(i, p), gate, if WEIGHT { args.weights(p) } else { args.weight })
            };
            let zero = s.splat_f32s(0.0);
            let mut e = 0;
            while e + S::F32_LANES <= len {
                // SAFETY: e + LANES ≤ len.
                unsafe {
                    let w = if WEIGHT { load(s, weight.add(e)) } else { zero };
                    let g = if GATE != NONE { load(s, gate.add(e)) } else { zero };
                    store(s, y.add(e), finish::<S, WEIGHT, GATE>(s, load(s, y.add(e)), factors, w, g));
                }
                e += S::F32_LANES;
            }
            if e < len {
                // SAFETY: the mask covers the len − e elements that are left.
                unsafe {
                    let w = if WEIGHT { tail.load(s, weight.add(e)) } else { zero };
                    let g = if GATE != NONE { tail.load(s, gate.add(e)) } else { zero };
                    tail.store(
                        s,
                        y.add(e),
                        finish::<S, WEIGHT, GATE>(s, tail.load(s, y.add(e)), factors, w, g),
                    );
                }
            }
        }
    }
}

/// `y f c · weight · act(gate)`: the factors in two steps, as their product may leave the range.
#[inline(always)]
fn finish<S: Simd, const WEIGHT: bool, const GATE: u8>(
    s: S,
    y: S::f32s,
    (f, c): (S::f32s, S::f32s),
    weight: S::f32s,
    gate: S::f32s,
) -> S::f32s {
    let o = s.mul_f32s(s.mul_f32s(y, f), c);
    let o = if WEIGHT { s.mul_f32s(o, weight) } else { o };
    match GATE {
        NONE => o,
        SILU => s.mul_f32s(o, math::silu(s, gate)),
        _ => s.mul_f32s(o, math::sigmoid(s, gate)),
    }
}
