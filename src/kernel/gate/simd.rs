//! One vector of columns after the other; rows are independent, so their chains of operations overlap.

use super::{Args, Function};
use crate::simd::math;
use crate::simd::mem::{Head, load_part, store_part};
use pulp::Simd;

/// # Safety
/// The contract of [`Args`].
#[inline(always)]
pub(super) unsafe fn run<S: Simd>(s: S, args: &Args) {
    let head = Head::new(s, args.d % S::F32_LANES);
    let mut l = 0;
    while l < args.d {
        // SAFETY: a whole vector of columns is left, or those of the mask.
        unsafe {
            match (l + S::F32_LANES <= args.d, args.function) {
                (true, Function::Softplus) => column::<S, true, true>(s, args, l, head),
                (true, Function::Sigmoid) => column::<S, true, false>(s, args, l, head),
                (false, Function::Softplus) => column::<S, false, true>(s, args, l, head),
                (false, Function::Sigmoid) => column::<S, false, false>(s, args, l, head),
            }
        }
        l += S::F32_LANES;
    }
}

/// # Safety
/// The contract of [`Args`]; from column `l` on there are as many as a vector has, or as `head` covers if not `FULL`.
#[inline(always)]
unsafe fn column<S: Simd, const FULL: bool, const SOFTPLUS: bool>(
    s: S,
    args: &Args,
    l: usize,
    head: Head<S>,
) {
    // SAFETY: these columns of rows i < n.
    unsafe {
        let bias = load_part::<S, FULL>(s, head, args.bias.add(l));
        let pre = load_part::<S, FULL>(s, head, args.pre.add(l));
        let post = load_part::<S, FULL>(s, head, args.post.add(l));
        for i in 0..args.n {
            let x = args.x.add(i * args.ld + l);
            let u = s.mul_f32s(pre, s.add_f32s(load_part::<S, FULL>(s, head, x), bias));
            let y = if SOFTPLUS { math::softplus(s, u) } else { math::sigmoid(s, u) };
            store_part::<S, FULL>(s, head, x, s.mul_f32s(post, y));
        }
    }
}
