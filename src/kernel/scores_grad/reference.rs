//! The definition: the formulas of the module, channel by channel, `f64` sums.

use super::Args;
use crate::CHUNK;

/// # Safety
/// The contract of [`Args`].
pub(super) unsafe fn run(t: &Args) {
    for c in 0..t.d.next_multiple_of(16) {
        // SAFETY: `c` is below `d` rounded up.
        unsafe { channel(t, c) }
    }
}

/// # Safety
/// The contract of [`Args`]; `c` is below `d` rounded up to 16.
unsafe fn channel(t: &Args, c: usize) {
    // SAFETY: rows below `n` and sets below `n_sets` exist.
    unsafe {
        let alpha = |i: usize| match (t.alpha.is_null(), t.by_channel) {
            (true, _) => 1.0,
            (_, true) => f64::from(*t.alpha.add(i * t.ld_alpha + c)),
            (_, false) => f64::from(*t.alpha.add(i)),
        };
        // L_ij, from after row `j` to row `i`; P_i is that from before the first row.
        let product = |after: isize, to: usize| -> f64 {
            (0..=to).filter(|&m| m as isize > after).map(alpha).product()
        };
        let between = |i: usize, j: usize| product(j as isize, i);
        let get = |p: *const f32, i: usize| f64::from(*p.add(i * t.ld + c));
        let score = |s: *const f32, i: usize, j: usize| f64::from(*s.add(i * CHUNK + j));
        let set = |p: *const f32, set: usize| p.wrapping_add(set * CHUNK * t.ld);
        let da = |s: usize| t.da.wrapping_add(s * CHUNK * CHUNK);
        let erase = |i: usize| f64::from(*t.erase_row.add(i)) * get(t.k, i);
        let mut own = [0.0; CHUNK];
        for (i, own) in own[..t.n].iter_mut().enumerate() {
            for s in 0..if t.dq.is_null() { 0 } else { t.n_sets } {
                let inside: f64 = (0..=i).map(|j| score(da(s), i, j) * between(i, j) * get(t.k, j)).sum();
                let sum = get(set(t.dq, s), i) * product(-1, i) + inside;
                *own += get(set(t.q, s), i) * sum;
                *t.dq.add((s * CHUNK + i) * t.ld + c) = sum as f32;
            }
            if !t.de.is_null() {
                let inside: f64 = (0..i).map(|j| score(t.db, i, j) * between(i, j) * get(t.k, j)).sum();
                let sum = get(t.de, i) * product(-1, i) + inside;
                *own += erase(i) * sum;
                *t.de.add(i * t.ld + c) = sum as f32;
            }
        }
        for (j, own) in own[..t.n].iter_mut().enumerate() {
            let mut sum = get(t.dk, j) * product(j as isize, t.n - 1);
            for i in j..t.n {
                for s in 0..t.n_sets {
                    sum += score(da(s), i, j) * between(i, j) * get(set(t.q, s), i);
                }
                if !t.de.is_null() && i > j {
                    sum += score(t.db, i, j) * between(i, j) * erase(i);
                }
            }
            *own -= get(t.k, j) * sum;
            *t.dk.add(j * t.ld + c) = sum as f32;
        }
        if !t.dg.is_null() {
            let mut sum = f64::from(*t.end.add(c));
            for i in (0..t.n).rev() {
                sum = if alpha(i) == 0.0 { 0.0 } else { sum + own[i] };
                *t.dg.add(i * t.ld + c) = sum as f32;
            }
        }
    }
}
