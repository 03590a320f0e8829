//! Two vectors at a time, so that their chains of dependent operations overlap; then one, then the remainder masked.

use super::{Args, Function};
use crate::simd::mem::{Head, load, store};
use pulp::Simd;

/// # Safety
/// The contract of [`Args`].
#[inline(always)]
pub(super) unsafe fn run<S: Simd, F: Function>(s: S, args: &Args) {
    let &Args { n, src, dst } = args;
    let lanes = S::F32_LANES;
    let mut i = 0;
    while i + 2 * lanes <= n {
        // SAFETY: i + 2 LANES ≤ n.
        unsafe {
            let (a, b) = (load(s, src.add(i)), load(s, src.add(i + lanes)));
            let (a, b) = (F::vector(s, a), F::vector(s, b));
            store(s, dst.add(i), a);
            store(s, dst.add(i + lanes), b);
        }
        i += 2 * lanes;
    }
    if i + lanes <= n {
        // SAFETY: i + LANES ≤ n.
        unsafe { store(s, dst.add(i), F::vector(s, load(s, src.add(i)))) };
        i += lanes;
    }
    if i < n {
        let head = Head::new(s, n - i);
        // SAFETY: the mask covers the n − i elements that are left.
        unsafe { head.store(s, dst.add(i), F::vector(s, head.load(s, src.add(i)))) };
    }
}
