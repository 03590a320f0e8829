//! Two passes over strips of columns, any vector width.

use super::{Args, STRIP_BYTES, StateElement, Vectors};
use pulp::Simd;
use std::marker::PhantomData;

/// # Safety
/// The contract of [`Args`].
#[inline(always)]
pub unsafe fn step<S: Simd, E: StateElement>(simd: S, t: &Args<E>) {
    let mut first = 0;
    let strip = STRIP_BYTES / size_of::<E>();
    while first < t.e {
        let end = t.e.min(first + strip);
        // SAFETY: the caller's contract; columns `first .. end` exist.
        unsafe {
            blocks(simd, first, end, Read(t));
            if t.b.is_null() {
                blocks(simd, first, end, Update::<E, false>(t));
            } else {
                blocks(simd, first, end, Update::<E, true>(t));
            }
        }
        first = end;
    }
}

/// The columns that one block works on: `NR` vectors from `first` on, the last of them cut at `end` if `TAIL`.
///
/// Whole vectors never take the masked path: masked stores cost several times a plain one on AMD.
struct Columns<S, E, const NR: usize, const TAIL: bool> {
    simd: S,
    first: usize,
    end: usize,
    element: PhantomData<E>,
}

impl<S: Copy, E, const NR: usize, const TAIL: bool> Clone for Columns<S, E, NR, TAIL> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Copy, E, const NR: usize, const TAIL: bool> Copy for Columns<S, E, NR, TAIL> {}

trait Block {
    /// Element type of the state.
    type Element: Vectors;

    /// # Safety
    /// The columns exist.
    unsafe fn run<S: Simd, const NR: usize, const TAIL: bool>(
        &self,
        columns: Columns<S, Self::Element, NR, TAIL>,
    );
}

/// # Safety
/// Columns `first .. end` exist.
#[inline(always)]
unsafe fn blocks<S: Simd, B: Block>(simd: S, mut first: usize, end: usize, block: B) {
    let lanes = S::F32_LANES;
    // SAFETY: the caller's contract; whole vectors as long as there are some, then masked ones.
    unsafe {
        while first + 4 * lanes <= end {
            block.run(Columns::<S, _, 4, false>::new(simd, first, end));
            first += 4 * lanes;
        }
        if B::Element::PAIRS {
            if first + 2 * lanes <= end {
                block.run(Columns::<S, _, 2, false>::new(simd, first, end));
                first += 2 * lanes;
            }
            if first < end {
                block.run(Columns::<S, _, 2, true>::new(simd, first, end));
            }
            return;
        }
        while first + lanes <= end {
            block.run(Columns::<S, _, 1, false>::new(simd, first, end));
            first += lanes;
        }
        if first < end {
            block.run(Columns::<S, _, 1, true>::new(simd, first, end));
        }
    }
}

impl<S: Simd, E: Vectors, const NR: usize, const TAIL: bool> Columns<S, E, NR, TAIL> {
    #[inline(always)]
    fn new(simd: S, first: usize, end: usize) -> Self {
        Columns { simd, first, end, element: PhantomData }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [S::f32s; NR] {
        [self.simd.splat_f32s(x); NR]
    }

    /// Loads a row of the state, or, as `V = f32`, of an operand.
    ///
    /// # Safety
    /// The columns of `row` exist.
    #[inline(always)]
    unsafe fn row<V: Vectors>(self, row: *const V) -> [S::f32s; NR] {
        let p = row.wrapping_add(self.first);
        // SAFETY: the caller's contract.
        unsafe {
            if TAIL { V::load_some(self.simd, p, self.end - self.first) } else { V::load(self.simd, p) }
        }
    }

    /// Stores a row of the state, or, as `V = f32`, of an operand.
    ///
    /// # Safety
    /// The columns of `row` exist.
    #[inline(always)]
    unsafe fn store_row<V: Vectors>(self, row: *mut V, x: [S::f32s; NR]) {
        let p = row.wrapping_add(self.first);
        // SAFETY: the caller's contract.
        unsafe {
            if TAIL {
                V::store_some(self.simd, p, self.end - self.first, x);
            } else {
                V::store(self.simd, p, x);
            }
        }
    }

    /// Loads an operand in the order of the state's rows.
    ///
    /// # Safety
    /// The columns of `p` exist.
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> [S::f32s; NR] {
        // SAFETY: the caller's contract.
        E::split::<S, NR>(unsafe { self.row(p) })
    }

    /// Stores an operand that is in the order of the state's rows.
    ///
    /// # Safety
    /// The columns of `p` exist.
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: [S::f32s; NR]) {
        // SAFETY: the caller's contract.
        unsafe { self.store_row(p, E::join::<S, NR>(x)) }
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
struct Read<'a, E>(&'a Args<E>);

impl<E: StateElement> Block for Read<'_, E> {
    type Element = E;

    #[inline(always)]
    unsafe fn run<S: Simd, const NR: usize, const TAIL: bool>(&self, columns: Columns<S, E, NR, TAIL>) {
        let t = self.0;
        // SAFETY: rows `0 .. d` and the columns exist.
        unsafe {
            let state = |i: usize| columns.row(t.s.offset(i as isize * t.lds));
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
struct Update<'a, E, const TWO: bool>(&'a Args<E>);

impl<E: StateElement, const TWO: bool> Block for Update<'_, E, TWO> {
    type Element = E;

    #[inline(always)]
    unsafe fn run<S: Simd, const NR: usize, const TAIL: bool>(&self, columns: Columns<S, E, NR, TAIL>) {
        let t = self.0;
        // SAFETY: rows `0 .. d` and the columns exist.
        unsafe {
            let w = columns.load(t.x);
            let r = if TWO { columns.load(t.r) } else { columns.splat(0.0) };
            let gamma = if t.gamma.is_null() { None } else { Some(columns.load(t.gamma)) };
            for i in 0..t.d {
                let mut s = columns.row(t.s.offset(i as isize * t.lds));
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
                columns.store_row(t.s_new.offset(i as isize * t.lds_new), s);
            }
        }
    }
}
