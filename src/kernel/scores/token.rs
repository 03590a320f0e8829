//! Scores with a scalar decay per token, or none.

use crate::CHUNK;
use crate::kernel::{Kernel, matmul};
use pulp::Simd;

/// Operands of one call.
#[derive(Clone, Copy)]
pub struct TokenArgs {
    /// Rows of the chunk, at most 16.
    pub n: usize,
    /// Channels.
    pub d: usize,
    /// `X`, `[n, d]`.
    pub x: *const f32,
    /// Elements between rows of `X`.
    pub ldx: usize,
    /// Keys by channel, `[d, 16]`.
    pub kt: *const f32,
    /// Decay factor of each token, `[n]`; null: none.
    pub alpha: *const f32,
    /// Factor of each row of the result, `[n]`; null: 1.
    pub row: *const f32,
    /// Exclude the diagonal.
    pub strict: bool,
    /// `S`, `[16, 16]`.
    pub s: *mut f32,
}

/// Scores with a decay per token in `f32`.
pub struct ScoresToken;

impl Kernel for ScoresToken {
    type Args = TokenArgs;
    const NAME: &'static str = "scores_token_f32";

    unsafe fn reference(t: &TokenArgs) {
        let get = |p: *const f32, i: usize| {
            // SAFETY: optional factors have `n` elements.
            if p.is_null() { 1.0 } else { f64::from(unsafe { *p.add(i) }) }
        };
        for i in 0..CHUNK {
            let last = if i >= t.n { 0 } else { i + usize::from(!t.strict) };
            for j in 0..CHUNK {
                let mut sum = 0.0;
                if j < last {
                    for c in 0..t.d {
                        // SAFETY: `i < n`, `c < d`, `j < 16`.
                        let (x, k) = unsafe { (*t.x.add(i * t.ldx + c), *t.kt.add(c * CHUNK + j)) };
                        sum += f64::from(x) * f64::from(k);
                    }
                    sum *= (j + 1..=i).map(|m| get(t.alpha, m)).product::<f64>() * get(t.row, i);
                }
                // SAFETY: `S` has 16 × 16 elements.
                unsafe { *t.s.add(i * CHUNK + j) = sum as f32 };
            }
        }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(simd: S, t: &TokenArgs) {
        // SAFETY: the caller's contract: `X` is [n, d], `kt` is [d, 16], `s` is [16, 16].
        unsafe {
            let mut product = matmul::Args::product(t.n, CHUNK, t.d, t.s, CHUNK as isize);
            (product.a, product.lda) = (t.x, t.ldx);
            (product.b, product.ldb) = (t.kt, CHUNK);
            matmul::matmul_body(simd, &product);
            let zero = simd.splat_f32s(0.0);
            let one = simd.splat_f32s(1.0);
            for first in (0..CHUNK).step_by(S::F32_LANES) {
                let mut decay = zero;
                for i in 0..CHUNK {
                    let at = t.s.add(i * CHUNK + first).cast::<S::f32s>();
                    if i >= t.n {
                        at.write_unaligned(zero);
                        continue;
                    }
                    let below = i.saturating_sub(first) as u32;
                    let upto = if i < first { 0 } else { below + 1 };
                    let through = simd.mask_between_m32s(0, upto).mask();
                    let before = simd.mask_between_m32s(0, below).mask();
                    if !t.alpha.is_null() {
                        decay = simd.mul_f32s(decay, simd.splat_f32s(*t.alpha.add(i)));
                    } else {
                        decay = one;
                    }
                    decay = simd.select_f32s(before, decay, simd.select_f32s(through, one, zero));
                    let row = if t.row.is_null() { 1.0 } else { *t.row.add(i) };
                    let factor = simd.mul_f32s(decay, simd.splat_f32s(row));
                    let keep = if t.strict { before } else { through };
                    let value = simd.mul_f32s(at.read_unaligned(), factor);
                    at.write_unaligned(simd.select_f32s(keep, value, zero));
                }
            }
        }
    }
}
