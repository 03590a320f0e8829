//! One vector at a time, then the remainder masked.

use super::Args;
use crate::simd::math;
use crate::simd::mem::{Head, load, store};
use pulp::Simd;

/// # Safety
/// The contract of [`Args`].
#[inline(always)]
pub(super) unsafe fn run<S: Simd>(s: S, args: &Args) {
    let &Args { n, src, sin, cos } = args;
    let mut i = 0;
    while i + S::F32_LANES <= n {
        // SAFETY: i + LANES ≤ n.
        unsafe {
            let (y, x) = math::sincos(s, load(s, src.add(i)));
            store(s, sin.add(i), y);
            store(s, cos.add(i), x);
        }
        i += S::F32_LANES;
    }
    if i < n {
        let head = Head::new(s, n - i);
        // SAFETY: the mask covers the n − i elements that are left.
        unsafe {
            let (y, x) = math::sincos(s, head.load(s, src.add(i)));
            head.store(s, sin.add(i), y);
            head.store(s, cos.add(i), x);
        }
    }
}
