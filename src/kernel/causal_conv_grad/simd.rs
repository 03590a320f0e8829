//! One vector of channels after the other; taps, latest inputs and sums in registers.

use super::{Args, PANEL};
use crate::kernel::causal_conv::by_width;
use crate::simd::math;
use crate::simd::mem::{load, store};
use pulp::Simd;

/// # Safety
/// The contract of [`Args`].
#[inline(always)]
pub(super) unsafe fn run<S: Simd>(s: S, args: &Args) {
    // SAFETY: the contract is the same.
    unsafe { by_width!(channels, s, args) }
}

/// # Safety
/// The contract of [`Args`], with `W` for its width.
#[inline(always)]
unsafe fn channels<S: Simd, const W: usize>(s: S, args: &Args) {
    let mut c = 0;
    while c < PANEL {
        // SAFETY: vectors have 4, 8 or 16 lanes, which divide the panel.
        unsafe {
            if args.silu { column::<S, W, true>(s, args, c) } else { column::<S, W, false>(s, args, c) }
        }
        c += S::F32_LANES;
    }
}

/// # Safety
/// The contract of [`Args`]; from channel `c` on there are as many as a vector has.
#[inline(always)]
unsafe fn column<S: Simd, const W: usize, const SILU: bool>(s: S, args: &Args, c: usize) {
    let (zero, one) = (s.splat_f32s(0.0), s.splat_f32s(1.0));
    let (mut weight, mut window, mut dw, mut db) = ([zero; W], [zero; W], [zero; W], zero);
    // SAFETY: channels c.. of rows i < n + W − 1 of the inputs, i < n of the others, j < W of the taps.
    unsafe {
        for (j, weight) in weight.iter_mut().enumerate() {
            *weight = load(s, args.weight.add(j * PANEL + c));
        }
        let bias = if args.bias.is_null() { zero } else { load(s, args.bias.add(c)) };
        if args.n > 0 {
            for (j, x) in window.iter_mut().skip(1).enumerate() {
                *x = load(s, args.src.add(j * PANEL + c));
            }
        }
        for i in 0..args.n {
            for j in 1..W {
                window[j - 1] = window[j];
            }
            window[W - 1] = load(s, args.src.add((i + W - 1) * PANEL + c));
            let mut dz = load(s, args.dout.add(i * PANEL + c));
            if SILU {
                let mut z = bias;
                for (weight, x) in weight.iter().zip(&window) {
                    z = s.mul_add_f32s(*weight, *x, z);
                }
                let sigmoid = math::sigmoid(s, z);
                let slope = s.mul_add_f32s(z, s.sub_f32s(one, sigmoid), one);
                dz = s.mul_f32s(dz, s.mul_f32s(sigmoid, slope));
            }
            store(s, args.dz.add(i * PANEL + c), dz);
            db = s.add_f32s(db, dz);
            for (dw, x) in dw.iter_mut().zip(&window) {
                *dw = s.mul_add_f32s(dz, *x, *dw);
            }
        }
        for (j, dw) in dw.into_iter().enumerate() {
            let sum = args.dw.add(j * PANEL + c);
            store(s, sum, s.add_f32s(load(s, sum), dw));
        }
        store(s, args.db.add(c), s.add_f32s(load(s, args.db.add(c)), db));
    }
}
