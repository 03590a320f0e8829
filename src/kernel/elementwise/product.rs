//! `dst[i] ← src[i] · dst[i]`: gains and erase gates that are as many as what they multiply.

use super::Args;
use crate::kernel::Kernel;
use crate::simd::mem::{Head, load, store};
use pulp::Simd;

/// The product with what is there, in `f32`. `dst` is read, and doesn't overlap `src`.
pub struct Product;

impl Kernel for Product {
    type Args = Args;
    const NAME: &'static str = "elementwise_product_f32";

    unsafe fn reference(args: &Args) {
        for i in 0..args.n {
            // SAFETY: both have `n` elements.
            unsafe { *args.dst.add(i) *= *args.src.add(i) };
        }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(s: S, args: &Args) {
        let &Args { n, src, dst } = args;
        let mut i = 0;
        while i + S::F32_LANES <= n {
            // SAFETY: i + LANES ≤ n.
            unsafe { store(s, dst.add(i), s.mul_f32s(load(s, src.add(i)), load(s, dst.add(i)))) };
            i += S::F32_LANES;
        }
        if i < n {
            let head = Head::new(s, n - i);
            // SAFETY: the mask covers the n − i elements that are left.
            unsafe {
                let product = s.mul_f32s(head.load(s, src.add(i)), head.load(s, dst.add(i)));
                head.store(s, dst.add(i), product);
            }
        }
    }
}
