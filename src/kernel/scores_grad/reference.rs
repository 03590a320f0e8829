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
        // L_ij, from after row `j` to row `i`, or to before it; P_i is that from before the first row.
        let read = |after: isize, i: usize, pre: bool| -> f64 {
            let to = if pre { i } else { i + 1 };
            (0..to).filter(|&m| m as isize > after).map(alpha).product()
        };
        let get = |p: *const f32, i: usize| f64::from(*p.add(i * t.ld + c));
        let score = |s: *const f32, i: usize, j: usize| f64::from(*s.add(i * CHUNK + j));
        let set = |p: *const f32, set: usize| p.wrapping_add(set * CHUNK * t.ld);
        let da = |w: usize, s: usize| t.da.wrapping_add((w * t.n_sets + s) * CHUNK * CHUNK);
        let db = |w: usize| t.db.wrapping_add(w * CHUNK * CHUNK);
        let key = |w: usize, j: usize| get(t.k, w * t.n + j);
        let erase = |i: usize| match t.erase.is_null() {
            true => f64::from(*t.erase_row.add(i)) * get(t.k, i),
            false => get(t.erase, i),
        };
        let q_pre = !t.bonus.is_null();
        // The keys that query `i` reads through decay alone.
        let keys = |i: usize| 0..if q_pre { i } else { i + 1 };
        // What each token's rows give to the gates up to its own, and to those before it.
        let (mut own, mut before) = ([0.0; CHUNK], [0.0; CHUNK]);
        for i in 0..t.n {
            for s in 0..if t.dq.is_null() { 0 } else { t.n_sets } {
                let mut sum = get(set(t.dq, s), i) * read(-1, i, q_pre);
                for (w, j) in (0..t.k_sets).flat_map(|w| keys(i).map(move |j| (w, j))) {
                    sum += score(da(w, s), i, j) * read(j as isize, i, q_pre) * key(w, j);
                }
                *if q_pre { &mut before[i] } else { &mut own[i] } += get(set(t.q, s), i) * sum;
                *t.dq.add((s * CHUNK + i) * t.ld + c) = sum as f32;
            }
            if !t.de.is_null() {
                let mut sum = get(t.de, i) * read(-1, i, t.erase_pre);
                for (w, j) in (0..t.k_sets).flat_map(|w| (0..i).map(move |j| (w, j))) {
                    sum += score(db(w), i, j) * read(j as isize, i, t.erase_pre) * key(w, j);
                }
                *if t.erase_pre { &mut before[i] } else { &mut own[i] } += erase(i) * sum;
                *t.de.add(i * t.ld + c) = sum as f32;
            }
        }
        for (w, j) in (0..t.k_sets).flat_map(|w| (0..t.n).map(move |j| (w, j))) {
            let mut sum = get(t.dk, w * t.n + j) * read(j as isize, t.n - 1, false);
            for i in j..t.n {
                for s in 0..if keys(i).contains(&j) { t.n_sets } else { 0 } {
                    sum += score(da(w, s), i, j) * read(j as isize, i, q_pre) * get(set(t.q, s), i);
                }
                if !t.de.is_null() && i > j {
                    sum += score(db(w), i, j) * read(j as isize, i, t.erase_pre) * erase(i);
                }
            }
            own[j] -= key(w, j) * sum;
            *t.dk.add((w * t.n + j) * t.ld + c) = sum as f32;
        }
        if !t.dg.is_null() {
            let mut sum = f64::from(*t.end.add(c));
            for i in (0..t.n).rev() {
                sum = if alpha(i) == 0.0 { 0.0 } else { sum + own[i] };
                *t.dg.add(i * t.ld + c) = sum as f32;
                sum += before[i];
            }
        }
        if q_pre {
            let (u, mut du) = (f64::from(*t.bonus.add(c)), 0.0);
            for i in 0..t.n {
                let mut read = 0.0;
                for s in 0..t.n_sets {
                    let da = score(da(0, s), i, i);
                    read += da * get(set(t.q, s), i);
                    *t.dq.add((s * CHUNK + i) * t.ld + c) += (da * u * key(0, i)) as f32;
                }
                *t.dk.add(i * t.ld + c) += (u * read) as f32;
                du += read * key(0, i);
            }
            *t.dbonus.add(c) = du as f32;
        }
    }
}
