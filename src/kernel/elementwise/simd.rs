//! One vector at a time, the remainder masked.

use super::{Args, Function};
use crate::simd::mem::{Head, load, store};
use pulp::Simd;

/// # Safety
/// The contract of [`Args`].
#[inline(always)]
pub(super) unsafe fn run<S: Simd, F: Function>(s: S, args: &Args) {
    let &Args { n, src, dst } = args;
    let whole = n - n % S::F32_LANES;
    let mut i = 0;
    while i < whole {
        // SAFETY: i + LANES ≤ n.
        unsafe { store(s, dst.add(i), F::vector(s, load(s, src.add(i)))) };
        i += S::F32_LANES;
    }
    if i < n {
        let head = Head::new(s, n - i);
        // SAFETY: the mask covers the n − i elements that are left.
        unsafe { head.store(s, dst.add(i), F::vector(s, head.load(s, src.add(i)))) };
    }
}
