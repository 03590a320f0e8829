//! One factor per channel: a vector of channels at a time. The keys decay as the rows go forward, the gradients as they
//! go back.

use super::Args;
use crate::CHUNK;
use crate::simd::mem::{load, store};
use pulp::Simd;

/// # Safety
/// The contract of [`Args`], with one factor per channel.
#[inline(always)]
pub(super) unsafe fn run<S: Simd>(simd: S, t: &Args) {
    for c in (0..t.d.next_multiple_of(16)).step_by(S::F32_LANES) {
        // SAFETY: a vector never leaves the 16-column group it starts in, and rows have those columns.
        unsafe {
            for keys in 0..t.k_sets {
                forth(simd, t, keys, c);
                back(simd, t, keys, c);
            }
            if !t.dg.is_null() {
                gates(simd, t, c);
            }
            if !t.bonus.is_null() {
                bonus(simd, t, c);
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

/// An erase row.
///
/// # Safety
/// The contract of [`Args`]; `i < n`, `c + lanes` is at most `d` rounded up to 16.
#[inline(always)]
unsafe fn erase<S: Simd>(simd: S, t: &Args, i: usize, c: usize) -> S::f32s {
    let at = i * t.ld + c;
    // SAFETY: the caller's contract.
    unsafe {
        if t.erase.is_null() {
            simd.mul_f32s(load(simd, t.k.add(at)), simd.splat_f32s(*t.erase_row.add(i)))
        } else {
            load(simd, t.erase.add(at))
        }
    }
}

/// What a block of keys gives to `dq` and `de`; the first one also brings their factors.
///
/// # Safety
/// The contract of [`Args`]; `keys < k_sets`, `c + lanes` is at most `d` rounded up to 16.
#[inline(always)]
unsafe fn forth<S: Simd>(simd: S, t: &Args, keys: usize, c: usize) {
    let one = simd.splat_f32s(1.0);
    let mut decayed = [simd.splat_f32s(0.0); CHUNK];
    let mut prefix = one;
    // SAFETY: the caller's contract; `i, j < n ≤ 16`.
    unsafe {
        let sum = |decayed: &[S::f32s], prefix: S::f32s, row: *const f32, at: *mut f32| {
            let factor = if keys == 0 { prefix } else { one };
            let mut sum = simd.mul_f32s(load(simd, at), factor);
            for (j, &key) in decayed.iter().enumerate() {
                sum = simd.mul_add_f32s(simd.splat_f32s(*row.add(j)), key, sum);
            }
            store(simd, at, sum);
        };
        let queries = |decayed: &[S::f32s], prefix: S::f32s, i: usize| {
            for set in 0..if t.dq.is_null() { 0 } else { t.n_sets } {
                let row = t.da.add(((keys * t.n_sets + set) * CHUNK + i) * CHUNK);
                sum(decayed, prefix, row, t.dq.add((set * CHUNK + i) * t.ld + c));
            }
        };
        let erases = |decayed: &[S::f32s], prefix: S::f32s, i: usize| {
            if !t.de.is_null() {
                sum(decayed, prefix, t.db.add((keys * CHUNK + i) * CHUNK), t.de.add(i * t.ld + c));
            }
        };
        for i in 0..t.n {
            if !t.bonus.is_null() {
                queries(&decayed[..i], prefix, i);
            }
            if t.erase_pre {
                erases(&decayed[..i], prefix, i);
            }
            let alpha = alpha(simd, t, i, c);
            prefix = simd.mul_f32s(prefix, alpha);
            for key in &mut decayed[..i] {
                *key = simd.mul_f32s(*key, alpha);
            }
            decayed[i] = load(simd, t.k.add((keys * t.n + i) * t.ld + c));
            if t.bonus.is_null() {
                queries(&decayed[..i + 1], prefix, i);
            }
            if !t.erase_pre {
                erases(&decayed[..i], prefix, i);
            }
        }
    }
}

/// `dk` of a block of keys.
///
/// # Safety
/// The contract of [`Args`]; `keys < k_sets`, `c + lanes` is at most `d` rounded up to 16.
#[inline(always)]
unsafe fn back<S: Simd>(simd: S, t: &Args, keys: usize, c: usize) {
    let mut gathered = [simd.splat_f32s(0.0); CHUNK];
    let mut suffix = simd.splat_f32s(1.0);
    // SAFETY: the caller's contract; `i, j < n ≤ 16`.
    unsafe {
        let add = |gathered: &mut [S::f32s], row: *const f32, x: S::f32s| {
            for (j, sum) in gathered.iter_mut().enumerate() {
                *sum = simd.mul_add_f32s(simd.splat_f32s(*row.add(j)), x, *sum);
            }
        };
        let queries = |gathered: &mut [S::f32s], i: usize| {
            for set in 0..t.n_sets {
                let q = load(simd, t.q.add((set * CHUNK + i) * t.ld + c));
                add(gathered, t.da.add(((keys * t.n_sets + set) * CHUNK + i) * CHUNK), q);
            }
        };
        let erases = |gathered: &mut [S::f32s], i: usize| {
            if !t.de.is_null() {
                add(gathered, t.db.add((keys * CHUNK + i) * CHUNK), erase(simd, t, i, c));
            }
        };
        for i in (0..t.n).rev() {
            if t.bonus.is_null() {
                queries(&mut gathered[..i + 1], i);
            }
            if !t.erase_pre {
                erases(&mut gathered[..i], i);
            }
            let at = t.dk.add((keys * t.n + i) * t.ld + c);
            store(simd, at, simd.mul_add_f32s(load(simd, at), suffix, gathered[i]));
            let alpha = alpha(simd, t, i, c);
            suffix = simd.mul_f32s(suffix, alpha);
            for sum in &mut gathered[..i] {
                *sum = simd.mul_f32s(*sum, alpha);
            }
            if !t.bonus.is_null() {
                queries(&mut gathered[..i], i);
            }
            if t.erase_pre {
                erases(&mut gathered[..i], i);
            }
        }
    }
}

/// `dg`: the reverse cumulative sum. Rows that read before the decay of their token come after it.
///
/// # Safety
/// The contract of [`Args`]; `c + lanes` is at most `d` rounded up to 16.
#[inline(always)]
unsafe fn gates<S: Simd>(simd: S, t: &Args, c: usize) {
    let zero = simd.splat_f32s(0.0);
    // SAFETY: the caller's contract; `i < n ≤ 16`.
    unsafe {
        let queries = |mut sum: S::f32s, i: usize| {
            for set in 0..t.n_sets {
                let at = (set * CHUNK + i) * t.ld + c;
                sum = simd.mul_add_f32s(load(simd, t.q.add(at)), load(simd, t.dq.add(at)), sum);
            }
            sum
        };
        let erases = |sum: S::f32s, i: usize| {
            if t.de.is_null() {
                return sum;
            }
            simd.mul_add_f32s(erase(simd, t, i, c), load(simd, t.de.add(i * t.ld + c)), sum)
        };
        let mut sum = load(simd, t.end.add(c));
        for i in (0..t.n).rev() {
            let mut own = zero;
            if t.bonus.is_null() {
                own = queries(own, i);
            }
            if !t.erase_pre {
                own = erases(own, i);
            }
            for keys in 0..t.k_sets {
                let at = (keys * t.n + i) * t.ld + c;
                own = simd.sub_f32s(own, simd.mul_f32s(load(simd, t.k.add(at)), load(simd, t.dk.add(at))));
            }
            let reset = simd.equal_f32s(alpha(simd, t, i, c), zero);
            sum = simd.select_f32s(reset, zero, simd.add_f32s(sum, own));
            store(simd, t.dg.add(i * t.ld + c), sum);
            if !t.bonus.is_null() {
                sum = queries(sum, i);
            }
            if t.erase_pre {
                sum = erases(sum, i);
            }
        }
    }
}

/// What a token's own key gives by the bonus.
///
/// # Safety
/// The contract of [`Args`]; `c + lanes` is at most `d` rounded up to 16.
#[inline(always)]
unsafe fn bonus<S: Simd>(simd: S, t: &Args, c: usize) {
    // SAFETY: the caller's contract; `i < n ≤ 16`.
    unsafe {
        let bonus = load(simd, t.bonus.add(c));
        let mut total = simd.splat_f32s(0.0);
        for i in 0..t.n {
            let key = load(simd, t.k.add(i * t.ld + c));
            // Σ dA_ii q_i over the sets.
            let mut read = simd.splat_f32s(0.0);
            let own = simd.mul_f32s(bonus, key);
            for set in 0..t.n_sets {
                let da = simd.splat_f32s(*t.da.add((set * CHUNK + i) * CHUNK + i));
                let at = (set * CHUNK + i) * t.ld + c;
                read = simd.mul_add_f32s(da, load(simd, t.q.add(at)), read);
                store(simd, t.dq.add(at), simd.mul_add_f32s(da, own, load(simd, t.dq.add(at))));
            }
            let dk = t.dk.add(i * t.ld + c);
            store(simd, dk, simd.mul_add_f32s(bonus, read, load(simd, dk)));
            total = simd.mul_add_f32s(read, key, total);
        }
        store(simd, t.dbonus.add(c), total);
    }
}
