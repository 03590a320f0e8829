//! Two passes over strips of columns, any vector width.

use super::{Args, STRIP};
use crate::simd::mem::{Head, load, store};
use pulp::Simd;

/// # Safety
/// The contract of [`Args`].
#[inline(always)]
pub unsafe fn step<S: Simd>(simd: S, t: &Args) {
    let mut first = 0;
    while first < t.e {
        let end = t.e.min(first + STRIP);
        // SAFETY: the caller's contract; columns `first .. end` exist.
        unsafe {
            blocks(simd, first, end, Read(t));
            if t.b.is_null() {
                blocks(simd, first, end, Update::<false>(t));
            } else {
                blocks(simd, first, end, Update::<true>(t));
            }
        }
        first = end;
    }
}

/// The columns that one block works on: `NR` vectors from `first` on, the last of them masked if `TAIL`.
///
/// Whole vectors never take the masked path: masked stores cost several times a plain one on AMD.
#[derive(Clone, Copy)]
struct Columns<S: Simd, const NR: usize, const TAIL: bool> {
    simd: S,
    first: usize,
    last: Head<S>,
}

trait Block {
    /// # Safety
    /// The columns exist.
    unsafe fn run<S: Simd, const NR: usize, const TAIL: bool>(&self, columns: Columns<S, NR, TAIL>);
}

/// # Safety
/// Columns `first .. end` exist.
#[inline(always)]
unsafe fn blocks<S: Simd, B: Block>(simd: S, mut first: usize, end: usize, block: B) {
    let lanes = S::F32_LANES;
    // SAFETY: the caller's contract; whole vectors as long as there are some, then a masked one.
    unsafe {
        while first + 4 * lanes <= end {
            block.run(Columns::<S, 4, false>::new(simd, first, end));
            first += 4 * lanes;
        }
        while first + lanes <= end {
            block.run(Columns::<S, 1, false>::new(simd, first, end));
            first += lanes;
        }
        if first < end {
            block.run(Columns::<S, 1, true>::new(simd, first, end));
        }
    }
}

impl<S: Simd, const NR: usize, const TAIL: bool> Columns<S, NR, TAIL> {
    #[inline(always)]
    fn new(simd: S, first: usize, end: usize) -> Self {
        Columns { simd, first, last: Head::new(simd, end - first) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [S::f32s; NR] {
        [self.simd.splat_f32s(x); NR]
    }

    /// # Safety
    /// The columns of `row` exist.
    #[inline(always)]
    unsafe fn load(self, row: *const f32) -> [S::f32s; NR] {
        let mut out = self.splat(0.0);
        for (v, out) in out.iter_mut().enumerate() {
            let p = row.wrapping_add(self.first + v * S::F32_LANES);
            // SAFETY: the caller's contract; a tail is one vector, and its mask ends with the columns.
            *out = unsafe { if TAIL { self.last.load(self.simd, p) } else { load(self.simd, p) } };
        }
        out
    }

    /// # Safety
    /// The columns of `row` exist.
    #[inline(always)]
    unsafe fn store(self, row: *mut f32, x: [S::f32s; NR]) {
        for (v, x) in x.into_iter().enumerate() {
            let p = row.wrapping_add(self.first + v * S::F32_LANES);
            // SAFETY: as in `load`.
            unsafe {
                if TAIL {
                    self.last.store(self.simd, p, x);
                } else {
                    store(self.simd, p, x);
                }
            }
        }
    }

    /// `acc + a · x`.
    #[inline(always)]
    fn add_scaled(self, acc: [S::f32s; NR], a: f32, x: [S::f32s; NR]) -> [S::f32s; NR] {
        let (a, mut acc) = (self.simd.splat_f32s(a), acc);
        for (acc, x) in acc.iter_mut().zip(x) {
            *acc = self.simd.mul_add_f32s(a, x, *acc);
        }
        acc
    }

    #[inline(always)]
    fn multiply(self, mut x: [S::f32s; NR], y: [S::f32s; NR]) -> [S::f32s; NR] {
        for (x, y) in x.iter_mut().zip(y) {
            *x = self.simd.mul_f32s(*x, y);
        }
        x
    }
}

/// Pass 1: `w` and the outputs.
struct Read<'a>(&'a Args);

impl Block for Read<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd, const NR: usize, const TAIL: bool>(&self, columns: Columns<S, NR, TAIL>) {
        let t = self.0;
        // SAFETY: rows `0 .. d` and the columns exist.
        unsafe {
            let state = |i: usize| columns.load(t.s.offset(i as isize * t.lds));
            let start = if t.v.is_null() {
                columns.splat(0.0)
            } else {
                columns.multiply(columns.splat(t.skip), columns.load(t.v))
            };
            let mut p = start;
            let two = !t.b.is_null();
            let x = columns.load(t.x);
            // What the correction changes: the value, or what the second write writes.
            let mut w = if two { columns.splat(0.0) } else { x };
            if t.erase.is_null() {
                for i in 0..t.d {
                    p = columns.add_scaled(p, *t.q.add(i), state(i));
                }
            } else {
                for i in 0..t.d {
                    let s = state(i);
                    p = columns.add_scaled(p, *t.q.add(i), s);
                    w = columns.add_scaled(w, *t.erase.add(i), s);
                }
                columns.store(if two { t.r } else { t.x }, w);
            }
            for set in 0..t.n_sets {
                if set > 0 {
                    p = start;
                    for i in 0..t.d {
                        p = columns.add_scaled(p, *t.q.add(set * t.ldq + i), state(i));
                    }
                }
                if !t.gamma.is_null() {
                    p = columns.multiply(p, columns.load(t.gamma));
                }
                let mut y = columns.add_scaled(p, *t.a.add(set * t.lda), if two { x } else { w });
                if two {
                    y = columns.add_scaled(y, *t.a2.add(set * t.lda), w);
                }
                if !t.post.is_null() {
                    y = columns.multiply(y, columns.splat(*t.post.add(set * t.ldpost)));
                }
                columns.store(t.y.add(set * t.ldy), y);
            }
        }
    }
}

/// Pass 2: the new state, with one write or two.
struct Update<'a, const TWO: bool>(&'a Args);

impl<const TWO: bool> Block for Update<'_, TWO> {
    #[inline(always)]
    unsafe fn run<S: Simd, const NR: usize, const TAIL: bool>(&self, columns: Columns<S, NR, TAIL>) {
        let t = self.0;
        // SAFETY: rows `0 .. d` and the columns exist.
        unsafe {
            let w = columns.load(t.x);
            let r = if TWO { columns.load(t.r) } else { columns.splat(0.0) };
            let gamma = if t.gamma.is_null() { None } else { Some(columns.load(t.gamma)) };
            for i in 0..t.d {
                let mut s = columns.load(t.s.offset(i as isize * t.lds));
                if !t.end.is_null() {
                    s = columns.multiply(s, columns.splat(*t.end.add(i)));
                }
                if let Some(gamma) = gamma {
                    s = columns.multiply(s, gamma);
                }
                s = columns.add_scaled(s, *t.k.add(i), w);
                if TWO {
                    s = columns.add_scaled(s, *t.b.add(i), r);
                }
                columns.store(t.s_new.offset(i as isize * t.lds_new), s);
            }
        }
    }
}
