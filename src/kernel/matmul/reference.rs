//! The definition: three loops, `f64` sums.

use super::Args;

/// # Safety
/// The contract of [`Args`].
pub unsafe fn matmul(t: &Args) {
    for i in 0..t.m {
        for j in 0..t.n {
            // SAFETY: every index is below the extents that the contract of `Args` gives.
            unsafe {
                let factor = |p: *const f32, at: usize| if p.is_null() { 1.0 } else { f64::from(*p.add(at)) };
                let mut sum = 0.0;
                if !t.c0.is_null() {
                    let c0 = f64::from(*t.c0.offset(i as isize * t.ldc0 + j as isize));
                    sum = factor(t.pre, i) * factor(t.col, j) * c0;
                }
                for k in 0..t.k {
                    let at = if t.a_by_columns { k * t.lda + i } else { i * t.lda + k };
                    sum += f64::from(*t.a.add(at)) * f64::from(*t.b.add(k * t.ldb + j));
                }
                for (l, u) in [(t.l, t.u), (t.l2, t.u2)] {
                    for k in 0..if l.is_null() { 0 } else { i + 1 } {
                        sum += f64::from(*l.add(i * t.ldl + k)) * f64::from(*u.add(k * t.ldu + j));
                    }
                }
                *t.c.offset(i as isize * t.ldc + j as isize) = (factor(t.post, i) * sum) as f32;
            }
        }
    }
}
