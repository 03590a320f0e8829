//! One factor per channel: a vector of channels at a time. The keys decay as the rows go forward, the gradients as they
//! go back.

use super::Args;
use crate::CHUNK;
use crate::simd::mem::{load, store};
use pulp::Simd;

/// # Safety
/// The contract of [`Args`].
#[inline(always)]
pub(super) unsafe fn run<S: Simd>(simd: S, t: &Args) {
    for c in (0..t.d.next_multiple_of(16)).step_by(S::F32_LANES) {
        let mut own = [simd.splat_f32s(0.0); CHUNK];
        // SAFETY: a vector never leaves the 16-column group it starts in, and rows have those columns.
        unsafe {
            forth(simd, t, c, &mut own);
            back(simd, t, c, &mut own);
            if !t.dg.is_null() {
                gates(simd, t, c, &own);
            }
        }
    }
}

/// The factors of a row.
///
/// # Safety
/// The contract of [`Args`]; `i < n`, `c + lanes` is at most `d` rounded up to 16.
#[inline(always)]
unsafe fn alpha<S: Simd>(simd: S, t: &Args, i: usize, c: usize) -> S::f32s {
    // SAFETY: the caller's contract.
    unsafe { load(simd, t.alpha.add(i * t.ld_alpha + c)) }
}

/// `dq` and `de`, and what they give to `dg`.
///
/// # Safety
/// The contract of [`Args`]; `c + lanes` is at most `d` rounded up to 16.
#[inline(always)]
unsafe fn forth<S: Simd>(simd: S, t: &Args, c: usize, own: &mut [S::f32s; CHUNK]) {
    let mut decayed = [simd.splat_f32s(0.0); CHUNK];
    let mut prefix = simd.splat_f32s(1.0);
    // SAFETY: the caller's contract; `i, j < n ≤ 16`.
    unsafe {
        for i in 0..t.n {
            let alpha = alpha(simd, t, i, c);
            prefix = simd.mul_f32s(prefix, alpha);
            for key in &mut decayed[..i] {
                *key = simd.mul_f32s(*key, alpha);
            }
            let key = load(simd, t.k.add(i * t.ld + c));
            decayed[i] = key;
            let sum = |row: *const f32, upto: usize, at: *mut f32| {
                let mut sum = simd.mul_f32s(load(simd, at), prefix);
                for (j, &key) in decayed[..upto].iter().enumerate() {
                    sum = simd.mul_add_f32s(simd.splat_f32s(*row.add(j)), key, sum);
                }
                store(simd, at, sum);
                sum
            };
            for set in 0..if t.dq.is_null() { 0 } else { t.n_sets } {
                let at = (set * CHUNK + i) * t.ld + c;
                let dq = sum(t.da.add((set * CHUNK + i) * CHUNK), i + 1, t.dq.add(at));
                own[i] = simd.mul_add_f32s(load(simd, t.q.add(at)), dq, own[i]);
            }
            if !t.de.is_null() {
                let de = sum(t.db.add(i * CHUNK), i, t.de.add(i * t.ld + c));
                let erase = simd.mul_f32s(key, simd.splat_f32s(*t.erase_row.add(i)));
                own[i] = simd.mul_add_f32s(erase, de, own[i]);
            }
        }
    }
}

/// `dk`, and what it takes from `dg`.
///
/// # Safety
/// The contract of [`Args`]; `c + lanes` is at most `d` rounded up to 16.
#[inline(always)]
unsafe fn back<S: Simd>(simd: S, t: &Args, c: usize, own: &mut [S::f32s; CHUNK]) {
    let mut gathered = [simd.splat_f32s(0.0); CHUNK];
    let mut suffix = simd.splat_f32s(1.0);
    // SAFETY: the caller's contract; `i, j < n ≤ 16`.
    unsafe {
        for i in (0..t.n).rev() {
            let add = |gathered: &mut [S::f32s], row: *const f32, x: S::f32s| {
                for (j, sum) in gathered.iter_mut().enumerate() {
                    *sum = simd.mul_add_f32s(simd.splat_f32s(*row.add(j)), x, *sum);
                }
            };
            for set in 0..t.n_sets {
                let q = load(simd, t.q.add((set * CHUNK + i) * t.ld + c));
                add(&mut gathered[..i + 1], t.da.add((set * CHUNK + i) * CHUNK), q);
            }
            let key = load(simd, t.k.add(i * t.ld + c));
            if !t.de.is_null() {
                let erase = simd.mul_f32s(key, simd.splat_f32s(*t.erase_row.add(i)));
                add(&mut gathered[..i], t.db.add(i * CHUNK), erase);
            }
            let at = t.dk.add(i * t.ld + c);
            let dk = simd.mul_add_f32s(load(simd, at), suffix, gathered[i]);
            store(simd, at, dk);
            own[i] = simd.sub_f32s(own[i], simd.mul_f32s(key, dk));
            let alpha = alpha(simd, t, i, c);
            suffix = simd.mul_f32s(suffix, alpha);
            for sum in &mut gathered[..i] {
                *sum = simd.mul_f32s(*sum, alpha);
            }
        }
    }
}

/// `dg`: the reverse cumulative sum.
///
/// # Safety
/// The contract of [`Args`]; `c + lanes` is at most `d` rounded up to 16.
#[inline(always)]
unsafe fn gates<S: Simd>(simd: S, t: &Args, c: usize, own: &[S::f32s; CHUNK]) {
    let zero = simd.splat_f32s(0.0);
    // SAFETY: the caller's contract; `i < n ≤ 16`.
    unsafe {
        let mut sum = load(simd, t.end.add(c));
        for i in (0..t.n).rev() {
            let reset = simd.equal_f32s(alpha(simd, t, i, c), zero);
            sum = simd.select_f32s(reset, zero, simd.add_f32s(sum, own[i]));
            store(simd, t.dg.add(i * t.ld + c), sum);
        }
    }
}
