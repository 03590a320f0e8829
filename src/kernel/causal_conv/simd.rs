//! One vector of channels after the other, taps and latest inputs in registers.

use super::{Args, by_width, tap};
use crate::simd::math;
use crate::simd::mem::{Head, load, load_part, store_part};
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
    let head = Head::new(s, args.d % S::F32_LANES);
    let mut c = 0;
    while c < args.d {
        // SAFETY: a whole vector of channels is left, or those of the mask.
        unsafe {
            match (c + S::F32_LANES <= args.d, args.silu) {
                (true, false) => column::<S, W, true, false>(s, args, c, head),
                (true, true) => column::<S, W, true, true>(s, args, c, head),
                (false, false) => column::<S, W, false, false>(s, args, c, head),
                (false, true) => column::<S, W, false, true>(s, args, c, head),
            }
        }
        c += S::F32_LANES;
    }
}

/// # Safety
/// The contract of [`Args`]; from channel `c` on there are as many as a vector has, or as `head` covers if not `FULL`.
#[inline(always)]
unsafe fn column<S: Simd, const W: usize, const FULL: bool, const SILU: bool>(
    s: S,
    args: &Args,
    c: usize,
    head: Head<S>,
) {
    let zero = s.splat_f32s(0.0);
    let (mut weight, mut window) = ([zero; W], [zero; W]);
    // SAFETY: row i < n + W − 1 from channel c on; panels are whole, so taps and biases need no mask.
    unsafe {
        for (j, weight) in weight.iter_mut().enumerate() {
            *weight = load(s, args.weight.add(tap(W, c, j)));
        }
        let bias = if args.bias.is_null() { zero } else { load(s, args.bias.add(c)) };
        if args.n > 0 {
            for (j, x) in window.iter_mut().skip(1).enumerate() {
                *x = load_part::<S, FULL>(s, head, row(args, j, c));
            }
        }
        for i in 0..args.n {
            for j in 1..W {
                window[j - 1] = window[j];
            }
            window[W - 1] = load_part::<S, FULL>(s, head, row(args, i + W - 1, c));
            let mut y = bias;
            for (weight, x) in weight.iter().zip(&window) {
                y = s.mul_add_f32s(*weight, *x, y);
            }
            let y = if SILU { math::silu(s, y) } else { y };
            let dst = args.dst.offset(i as isize * args.dst_stride + c as isize);
            store_part::<S, FULL>(s, head, dst, y);
        }
    }
}

/// Channel `c` of row `i` of the inputs.
#[inline(always)]
fn row(args: &Args, i: usize, c: usize) -> *const f32 {
    args.src.wrapping_offset(i as isize * args.src_stride + c as isize)
}
