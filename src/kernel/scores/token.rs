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
    /// `X`, `[n, d]`; null: `S` already holds the products of its `n` rows.
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
                    // SAFETY: `S` has 16 × 16 elements.
                    sum = if t.x.is_null() { f64::from(unsafe { *t.s.add(i * CHUNK + j) }) } else { 0.0 };
                    for c in 0..if t.x.is_null() { 0 } else { t.d } {
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
            if !t.x.is_null() {
                let mut product = matmul::Args::product(t.n, CHUNK, t.d, t.s, CHUNK as isize);
                (product.a, product.lda) = (t.x, t.ldx);
                (product.b, product.ldb) = (t.kt, CHUNK);
                matmul::matmul_body(simd, &product);
            }
            for first in (0..CHUNK).step_by(S::F32_LANES) {
                decay_and_mask(simd, t, first);
            }
        }
    }
}

/// Multiplies the columns `first .. first + lanes` of the raw products by `L` and the row factors, and
/// selects the triangle.
///
/// # Safety
/// The contract of [`TokenArgs`].
#[inline(always)]
unsafe fn decay_and_mask<S: Simd>(simd: S, t: &TokenArgs, first: usize) {
    let (zero, one) = (simd.splat_f32s(0.0), simd.splat_f32s(1.0));
    let column = lane_numbers(simd, first);
    let mut decay = zero;
    for i in 0..CHUNK {
        // SAFETY: rows and columns below 16 exist; factors up to `n` do.
        unsafe {
            let at = t.s.add(i * CHUNK + first).cast::<S::f32s>();
            if i >= t.n {
                at.write_unaligned(zero);
                continue;
            }
            let before = simd.less_than_u32s(column, simd.splat_u32s(i as u32));
            let through = simd.less_than_u32s(column, simd.splat_u32s(i as u32 + 1));
            if t.alpha.is_null() {
                decay = one;
            } else {
                // Columns past the diagonal hold 1, ready for the row in which they enter.
                decay = simd.mul_f32s(decay, simd.splat_f32s(*t.alpha.add(i)));
                decay = simd.select_f32s(before, decay, one);
            }
            let mut value = simd.mul_f32s(at.read_unaligned(), decay);
            if !t.row.is_null() {
                value = simd.mul_f32s(value, simd.splat_f32s(*t.row.add(i)));
            }
            let keep = if t.strict { before } else { through };
            at.write_unaligned(simd.select_f32s(keep, value, zero));
        }
    }
}

/// `first, first + 1, …`, one per lane.
#[inline(always)]
fn lane_numbers<S: Simd>(simd: S, first: usize) -> S::u32s {
    const NUMBERS: [u32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    // SAFETY: no vector has more than 16 lanes.
    let numbers = unsafe { NUMBERS.as_ptr().cast::<S::u32s>().read_unaligned() };
    simd.add_u32s(numbers, simd.splat_u32s(first as u32))
}
