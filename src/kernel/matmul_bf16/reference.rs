//! The definition: three loops, `f64` sums.

use super::Args;
use half::bf16;

/// The two numbers of a pair.
pub fn numbers(pair: u32) -> [f64; 2] {
    [pair as u16, (pair >> 16) as u16].map(|bits| bf16::from_bits(bits).to_f64())
}

/// # Safety
/// The contract of [`Args`].
pub unsafe fn matmul(t: &Args) {
    for i in 0..t.m {
        for j in 0..t.n {
            // SAFETY: every index is below the extents that the contract of `Args` gives.
            unsafe {
                let at = |p: *const f32, at: usize| if p.is_null() { 1.0 } else { f64::from(*p.add(at)) };
                let factor = |p: *const f32| at(p, i);
                let mut sum = 0.0;
                for k in 0..t.pairs {
                    let a = numbers(*t.a.add(if t.a_by_columns { k * t.lda + i } else { i * t.lda + k }));
                    let b = numbers(*t.b.add(k * t.ldb + j));
                    sum += a[0] * b[0] + a[1] * b[1];
                }
                sum *= factor(t.mid);
                if !t.c0.is_null() {
                    let c0 = f64::from(*t.c0.offset(i as isize * t.ldc0 + j as isize));
                    sum += factor(t.pre) * at(t.col, j) * c0;
                }
                for k in 0..if t.l.is_null() { 0 } else { i + 1 } {
                    sum += f64::from(*t.l.add(i * t.ldl + k)) * f64::from(*t.u.add(k * t.ldu + j));
                }
                let c = (factor(t.post) * sum) as f32;
                *t.c.offset(i as isize * t.ldc + j as isize) = c;
                if !t.packed.is_null() {
                    let pair = t.packed.add(i / 2 * t.ldp + j);
                    let bits = u32::from(bf16::from_f32(c).to_bits());
                    *pair = if i % 2 == 0 { bits } else { *pair | bits << 16 };
                }
            }
        }
    }
}
