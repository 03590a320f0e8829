//! One factor per token, or none: the scores' gradients take the factors, and the rows are matrix products.

use super::Args;
use crate::CHUNK;
use crate::kernel::matmul;
use crate::simd::mem::{load, store};
use pulp::Simd;

/// `[16, 16]` on the stack.
type Block = [f32; CHUNK * CHUNK];

/// # Safety
/// The contract of [`Args`], without factors or with one per token.
#[inline(always)]
pub(super) unsafe fn run<S: Simd>(simd: S, t: &Args) {
    let (mut prefix, mut suffix) = ([1.0f32; CHUNK], [1.0f32; CHUNK]);
    let mut between: Block = [0.0; CHUNK * CHUNK];
    let (mut weights, mut erase): (Block, Block) = ([0.0; CHUNK * CHUNK], [0.0; CHUNK * CHUNK]);
    // SAFETY: the caller's contract: `n` factors, sets and rows below `n_sets` and `n`.
    unsafe {
        factors(t, &mut prefix, &mut suffix, &mut between);
        let (mut pre, mut last) = (suffix.as_ptr(), t.dk.cast_const());
        for set in 0..t.n_sets {
            weigh(t, &between, t.da.add(set * CHUNK * CHUNK), &mut weights);
            if !t.dq.is_null() {
                rows(simd, t, &weights, t.dq.add(set * CHUNK * t.ld), prefix.as_ptr());
            }
            keys(simd, t, &weights, t.q.add(set * CHUNK * t.ld), (last, pre));
            (pre, last) = (std::ptr::null(), t.dk);
        }
        if t.n_sets == 0 {
            // Only the factors: the weights are zero.
            keys(simd, t, &weights, t.k, (last, pre));
        }
        if !t.de.is_null() {
            weigh(t, &between, t.db, &mut weights);
            // Below the diagonal only.
            (0..t.n).for_each(|i| weights[i * CHUNK + i] = 0.0);
            rows(simd, t, &weights, t.de, prefix.as_ptr());
            for i in 0..t.n {
                (0..i).for_each(|j| erase[i * CHUNK + j] = weights[i * CHUNK + j] * *t.erase_row.add(i));
            }
            keys(simd, t, &erase, t.k, (t.dk, std::ptr::null()));
        }
        if !t.dg.is_null() {
            gates(simd, t);
        }
    }
}

/// Running products: from before the first row, to after the last, and between two.
///
/// # Safety
/// The contract of [`Args`].
#[inline(always)]
unsafe fn factors(t: &Args, prefix: &mut [f32; CHUNK], suffix: &mut [f32; CHUNK], between: &mut Block) {
    // SAFETY: `i < n ≤ 16`.
    let alpha = |i: usize| if t.alpha.is_null() { 1.0 } else { unsafe { *t.alpha.add(i) } };
    let mut product = 1.0;
    for i in 0..t.n {
        product *= alpha(i);
        prefix[i] = product;
        for j in 0..i {
            between[i * CHUNK + j] = between[(i - 1) * CHUNK + j] * alpha(i);
        }
        between[i * CHUNK + i] = 1.0;
    }
    product = 1.0;
    for i in (0..t.n).rev() {
        suffix[i] = product;
        product *= alpha(i);
    }
}

/// `weights = dA ⊙ L`, zero above the diagonal.
///
/// # Safety
/// `da` is `[16, 16]`.
#[inline(always)]
unsafe fn weigh(t: &Args, between: &Block, da: *const f32, weights: &mut Block) {
    for i in 0..t.n {
        for j in 0..=i {
            // SAFETY: the caller's contract.
            weights[i * CHUNK + j] = unsafe { *da.add(i * CHUNK + j) } * between[i * CHUNK + j];
        }
    }
}

/// `C = pre ⊙ C + W K`.
///
/// # Safety
/// The contract of [`Args`]; `c` is `[n, ld]`, `pre` `[n]`.
#[inline(always)]
unsafe fn rows<S: Simd>(simd: S, t: &Args, weights: &Block, c: *mut f32, pre: *const f32) {
    let mut product = matmul::Args::product(t.n, t.d.next_multiple_of(16), t.n, c, t.ld as isize);
    (product.a, product.lda) = (weights.as_ptr(), CHUNK);
    (product.b, product.ldb) = (t.k, t.ld);
    (product.c0, product.ldc0, product.pre) = (c, t.ld as isize, pre);
    // SAFETY: the caller's contract.
    unsafe { matmul::matmul_body(simd, &product) }
}

/// `dK = pre ⊙ dK + Wᵀ X`.
///
/// # Safety
/// The contract of [`Args`]; `x` is `[n, ld]`, `pre` `[n]` or null.
#[inline(always)]
unsafe fn keys<S: Simd>(
    simd: S,
    t: &Args,
    weights: &Block,
    x: *const f32,
    (c0, pre): (*const f32, *const f32),
) {
    let mut product = matmul::Args::product(t.n, t.d.next_multiple_of(16), t.n, t.dk, t.ld as isize);
    (product.a, product.lda, product.a_by_columns) = (weights.as_ptr(), CHUNK, true);
    (product.b, product.ldb) = (x, t.ld);
    (product.c0, product.ldc0, product.pre) = (c0, t.ld as isize, pre);
    // SAFETY: the caller's contract.
    unsafe { matmul::matmul_body(simd, &product) }
}

/// `dg`: the reverse cumulative sum.
///
/// # Safety
/// The contract of [`Args`]; `dq` and `alpha` are there.
#[inline(always)]
unsafe fn gates<S: Simd>(simd: S, t: &Args) {
    for c in (0..t.d.next_multiple_of(16)).step_by(S::F32_LANES) {
        // SAFETY: a vector never leaves the 16-column group it starts in, and rows have those columns.
        unsafe {
            let mut sum = load(simd, t.end.add(c));
            for i in (0..t.n).rev() {
                let at = i * t.ld + c;
                for set in 0..t.n_sets {
                    let at = set * CHUNK * t.ld + at;
                    sum = simd.mul_add_f32s(load(simd, t.q.add(at)), load(simd, t.dq.add(at)), sum);
                }
                let key = load(simd, t.k.add(at));
                let mut own = load(simd, t.dk.add(at));
                if !t.de.is_null() {
                    let row = simd.splat_f32s(-*t.erase_row.add(i));
                    own = simd.mul_add_f32s(row, load(simd, t.de.add(at)), own);
                }
                sum = simd.sub_f32s(sum, simd.mul_f32s(key, own));
                if *t.alpha.add(i) == 0.0 {
                    sum = simd.splat_f32s(0.0);
                }
                store(simd, t.dg.add(at), sum);
            }
        }
    }
}
