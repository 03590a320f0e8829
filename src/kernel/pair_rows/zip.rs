//! Rows that are `bf16` already.

use crate::kernel::Kernel;
use half::bf16;
use pulp::Simd;

/// One call: `dst[p][c] = (src[2p][c], src[2p+1][c])`, bit by bit, `d` columns.
#[derive(Clone, Copy, Debug)]
pub struct ZipArgs {
    /// Rows.
    pub n: usize,
    /// Columns.
    pub d: usize,
    /// The rows.
    pub src: *const bf16,
    /// Elements between them.
    pub ld: usize,
    /// The pairs.
    pub dst: *mut u32,
    /// Elements between their rows.
    pub ldd: usize,
}

/// The kernel.
pub struct ZipRows;

impl Kernel for ZipRows {
    type Args = ZipArgs;
    const NAME: &'static str = "zip_rows_bf16";

    unsafe fn reference(t: &ZipArgs) {
        for (i, c) in (0..t.n).step_by(2).flat_map(|i| (0..t.d).map(move |c| (i, c))) {
            // SAFETY: `i < n`, `c < d`; the contract of `ZipArgs` makes both exist.
            unsafe {
                let bits = |i: usize| u32::from((*t.src.add(i * t.ld + c)).to_bits());
                let second = if i + 1 < t.n { bits(i + 1) } else { 0 };
                *t.dst.add(i / 2 * t.ldd + c) = bits(i) | second << 16;
            }
        }
    }

    // A loop that the compiler vectorises. Two permutations of 32 columns by hand were no faster where rows come from L2.
    #[inline(always)]
    unsafe fn simd<S: Simd>(_: S, t: &ZipArgs) {
        for i in (0..t.n).step_by(2) {
            // SAFETY: `i < n`, `c < d`; the contract of `ZipArgs` makes both exist.
            unsafe {
                let (first, dst) = (t.src.add(i * t.ld), t.dst.add(i / 2 * t.ldd));
                if i + 1 < t.n {
                    let second = first.add(t.ld);
                    for c in 0..t.d {
                        let high = u32::from((*second.add(c)).to_bits()) << 16;
                        *dst.add(c) = u32::from((*first.add(c)).to_bits()) | high;
                    }
                } else {
                    for c in 0..t.d {
                        *dst.add(c) = u32::from((*first.add(c)).to_bits());
                    }
                }
            }
        }
    }
}
