//! One vector of columns after the other, sums in registers.

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
    let (mut dbias, mut da) = (s.splat_f32s(0.0), s.splat_f32s(0.0));
    // SAFETY: these columns of rows i < n.
    unsafe {
        let bias = load_part::<S, FULL>(s, head, args.bias.add(l));
        let pre = load_part::<S, FULL>(s, head, args.pre.add(l));
        let post = load_part::<S, FULL>(s, head, args.post.add(l));
        for i in 0..args.n {
            let at = i * args.ld + l;
            let sum = s.add_f32s(load_part::<S, FULL>(s, head, args.x.add(at)), bias);
            let given = s.mul_f32s(load_part::<S, FULL>(s, head, args.dy.add(at)), post);
            let u = s.mul_f32s(pre, sum);
            let slope = if SOFTPLUS { math::sigmoid(s, u) } else { sigmoid_slope(s, u) };
            let dx = s.mul_f32s(s.mul_f32s(given, pre), slope);
            da = if SOFTPLUS {
                s.mul_add_f32s(given, math::softplus(s, u), da)
            } else {
                s.mul_add_f32s(dx, sum, da)
            };
            dbias = s.add_f32s(dbias, dx);
            store_part::<S, FULL>(s, head, args.dy.add(at), dx);
        }
        store_part::<S, FULL>(
            s,
            head,
            args.dbias.add(l),
            s.add_f32s(load_part::<S, FULL>(s, head, args.dbias.add(l)), dbias),
        );
        store_part::<S, FULL>(
            s,
            head,
            args.da.add(l),
            s.add_f32s(load_part::<S, FULL>(s, head, args.da.add(l)), da),
        );
    }
}

/// `σ'(u)`.
#[inline(always)]
fn sigmoid_slope<S: Simd>(s: S, u: S::f32s) -> S::f32s {
    let e = math::exp(s, math::neg(s, math::abs(s, u)));
    let root = s.add_f32s(s.splat_f32s(1.0), e);
    s.div_f32s(e, s.mul_f32s(root, root))
}
