//! Sums of the elementwise product of two blocks that stay apart in 16 lanes: what many blocks add to, and only then is
//! summed across lanes.
//!
//! ```text
//! sum[i, l] += Σ_{j ≡ l mod 16} A[i, j] B[i, j]          or, of all rows together, sum[l] += Σ_i …
//! ```
//!
//! *Shapes*: `A` and `B` are `[n, d]`, `d` rounded up to 16 columns of which must exist, and be zero in one of them.
//! *Aliasing*: sums overlap nothing. *Numerics*: fused multiply-add; a row is summed in order of columns, rows that are
//! summed together in four groups, `i mod 4`. *Cost*: `2·n·d` FLOPs. With 32 columns to a row the sum across lanes would
//! take ten times as long as the products.

use crate::kernel::Kernel;
use crate::simd::mem::{load, store};
use pulp::Simd;

/// Lanes of a sum.
pub const LANES: usize = 16;

/// Operands of one call.
#[derive(Clone, Copy)]
pub struct Args {
    /// Rows.
    pub n: usize,
    /// Columns.
    pub d: usize,
    /// `A`.
    pub a: *const f32,
    /// Elements between rows of `A`.
    pub lda: usize,
    /// `B`.
    pub b: *const f32,
    /// Elements between rows of `B`.
    pub ldb: usize,
    /// Each row has its sums, `[n, 16]`; else they are `[16]`.
    pub apart: bool,
    /// Sums.
    pub sum: *mut f32,
}

/// Sums of elementwise products by lane in `f32`.
pub struct LaneProducts;

/// Groups of rows that are summed together.
const GROUPS: usize = 4;

impl Kernel for LaneProducts {
    type Args = Args;
    const NAME: &'static str = "products_lanes_f32";

    unsafe fn reference(t: &Args) {
        let columns = t.d.next_multiple_of(LANES);
        for row in 0..if t.apart { t.n } else { t.n.min(1) } {
            let rows = if t.apart { row..row + 1 } else { 0..t.n };
            for lane in 0..LANES {
                let mut sum = 0.0;
                for (i, j) in rows.clone().flat_map(|i| (lane..columns).step_by(LANES).map(move |j| (i, j))) {
                    // SAFETY: `i < n`, `j` is below `d` rounded up.
                    sum += unsafe { f64::from(*t.a.add(i * t.lda + j)) * f64::from(*t.b.add(i * t.ldb + j)) };
                }
                // SAFETY: sums are [n, 16] or [16].
                unsafe {
                    let to = t.sum.add(row * LANES + lane);
                    *to = (f64::from(*to) + sum) as f32;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(simd: S, t: &Args) {
        let columns = t.d.next_multiple_of(LANES);
        for lane in (0..LANES).step_by(S::F32_LANES) {
            // SAFETY: a vector never leaves the 16-column group it starts in, and rows have those columns.
            unsafe {
                let row = |i: usize, mut sum: S::f32s| {
                    let (a, b) = (t.a.add(i * t.lda + lane), t.b.add(i * t.ldb + lane));
                    let mut j = 0;
                    while j < columns {
                        sum = simd.mul_add_f32s(load(simd, a.add(j)), load(simd, b.add(j)), sum);
                        j += LANES;
                    }
                    sum
                };
                if t.apart {
                    for i in 0..t.n {
                        let sum = t.sum.add(i * LANES + lane);
                        store(simd, sum, row(i, load(simd, sum)));
                    }
                    continue;
                }
                let mut sums = [simd.splat_f32s(0.0); GROUPS];
                for i in (0..t.n).step_by(GROUPS) {
                    for (group, sum) in sums.iter_mut().enumerate() {
                        if i + group < t.n {
                            *sum = row(i + group, *sum);
                        }
                    }
                }
                let pairs = (simd.add_f32s(sums[0], sums[1]), simd.add_f32s(sums[2], sums[3]));
                let sum = t.sum.add(lane);
                store(simd, sum, simd.add_f32s(load(simd, sum), simd.add_f32s(pairs.0, pairs.1)));
            }
        }
    }
}
