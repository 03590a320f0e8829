//! Rows of a state in `f32` or `bf16`, as vectors of `f32`.
//!
//! A vector of words of `bf16` is two vectors of `f32`, the even columns (shifted up) and the odd ones (masked): a
//! load and two operations, and as few to put them together again, on any instruction set. So `bf16` columns come in
//! pairs of vectors and in that order, and what stands beside them (`x`, `y`, …), read once for all rows, is brought
//! into it. *Tried and lost*: loops over the lanes for the compiler to vectorise: 4 to 5 times slower.

use crate::simd::math::{from_bits, select, to_bits};
use crate::simd::mem::{self, Head};
use half::bf16;
use pulp::{Simd, bytemuck};

/// Elements of a row, loaded to `NR` vectors of `f32` and stored from them.
pub trait Vectors: Copy {
    /// Whether vectors come in pairs of even and odd columns: `NR` is even.
    const PAIRS: bool;

    /// Loads whole vectors; the element's alignment.
    ///
    /// # Safety
    /// `p` is valid for reading `NR · S::F32_LANES` elements.
    unsafe fn load<S: Simd, const NR: usize>(s: S, p: *const Self) -> [S::f32s; NR];

    /// Loads the first `n` columns, and zeros the others.
    ///
    /// # Safety
    /// `p` is valid for reading `n` elements, fewer than `NR` vectors.
    unsafe fn load_some<S: Simd, const NR: usize>(s: S, p: *const Self, n: usize) -> [S::f32s; NR];

    /// Stores whole vectors, rounded to nearest.
    ///
    /// # Safety
    /// `p` is valid for writing `NR · S::F32_LANES` elements.
    unsafe fn store<S: Simd, const NR: usize>(s: S, p: *mut Self, x: [S::f32s; NR]);

    /// Stores the first `n` columns, and leaves the memory of the others alone.
    ///
    /// # Safety
    /// `p` is valid for writing `n` elements, fewer than `NR` vectors.
    unsafe fn store_some<S: Simd, const NR: usize>(s: S, p: *mut Self, n: usize, x: [S::f32s; NR]);

    /// From columns one after the other to the order of this type's rows.
    fn split<S: Simd, const NR: usize>(x: [S::f32s; NR]) -> [S::f32s; NR];

    /// The reverse of [`Vectors::split`].
    fn join<S: Simd, const NR: usize>(x: [S::f32s; NR]) -> [S::f32s; NR];
}

impl Vectors for f32 {
    const PAIRS: bool = false;

    #[inline(always)]
    unsafe fn load<S: Simd, const NR: usize>(s: S, p: *const f32) -> [S::f32s; NR] {
        let mut x = [s.splat_f32s(0.0); NR];
        for (v, x) in x.iter_mut().enumerate() {
            // SAFETY: the caller's contract.
            *x = unsafe { mem::load(s, p.add(v * S::F32_LANES)) };
        }
        x
    }

    #[inline(always)]
    unsafe fn load_some<S: Simd, const NR: usize>(s: S, p: *const f32, n: usize) -> [S::f32s; NR] {
        let mut x = [s.splat_f32s(0.0); NR];
        for (v, x) in x.iter_mut().enumerate() {
            let first = v * S::F32_LANES;
            // SAFETY: the mask ends with the columns.
            *x = unsafe { Head::new(s, n.saturating_sub(first)).load(s, p.wrapping_add(first)) };
        }
        x
    }

    #[inline(always)]
    unsafe fn store<S: Simd, const NR: usize>(s: S, p: *mut f32, x: [S::f32s; NR]) {
        for (v, x) in x.into_iter().enumerate() {
            // SAFETY: the caller's contract.
            unsafe { mem::store(s, p.add(v * S::F32_LANES), x) };
        }
    }

    #[inline(always)]
    unsafe fn store_some<S: Simd, const NR: usize>(s: S, p: *mut f32, n: usize, x: [S::f32s; NR]) {
        for (v, x) in x.into_iter().enumerate() {
            let first = v * S::F32_LANES;
            // SAFETY: the mask ends with the columns.
            unsafe { Head::new(s, n.saturating_sub(first)).store(s, p.wrapping_add(first), x) };
        }
    }

    #[inline(always)]
    fn split<S: Simd, const NR: usize>(x: [S::f32s; NR]) -> [S::f32s; NR] {
        x
    }

    #[inline(always)]
    fn join<S: Simd, const NR: usize>(x: [S::f32s; NR]) -> [S::f32s; NR] {
        x
    }
}

/// The bits of `bf16` in the upper half of a word.
const UPPER: u32 = 0xffff_0000;
/// Lanes of the widest vector.
const MAX_LANES: usize = 16;

impl Vectors for bf16 {
    const PAIRS: bool = true;

    #[inline(always)]
    unsafe fn load<S: Simd, const NR: usize>(s: S, p: *const bf16) -> [S::f32s; NR] {
        let mut x = [s.splat_f32s(0.0); NR];
        for (v, x) in x.chunks_exact_mut(2).enumerate() {
            // SAFETY: the caller's contract; `S::u32s` is plain data, a word two elements.
            let words = unsafe { p.add(2 * v * S::F32_LANES).cast::<S::u32s>().read_unaligned() };
            x[0] = from_bits(s, s.wrapping_dyn_shl_u32s(words, s.splat_u32s(16)));
            x[1] = from_bits(s, s.and_u32s(words, s.splat_u32s(UPPER)));
        }
        x
    }

    #[inline(always)]
    unsafe fn load_some<S: Simd, const NR: usize>(s: S, p: *const bf16, n: usize) -> [S::f32s; NR] {
        const { assert!(S::F32_LANES <= MAX_LANES) }
        let mut row = [[bf16::ZERO; MAX_LANES]; NR];
        // SAFETY: `n` elements on either side.
        unsafe {
            row.as_mut_ptr().cast::<bf16>().copy_from_nonoverlapping(p, n);
            Self::load(s, row.as_ptr().cast())
        }
    }

    #[inline(always)]
    unsafe fn store<S: Simd, const NR: usize>(s: S, p: *mut bf16, x: [S::f32s; NR]) {
        for (v, x) in x.chunks_exact(2).enumerate() {
            let even = s.wrapping_dyn_shr_u32s(rounded(s, x[0]), s.splat_u32s(16));
            let odd = s.and_u32s(rounded(s, x[1]), s.splat_u32s(UPPER));
            // SAFETY: as in `load`.
            unsafe {
                p.add(2 * v * S::F32_LANES).cast::<S::u32s>().write_unaligned(s.or_u32s(even, odd));
            }
        }
    }

    #[inline(always)]
    unsafe fn store_some<S: Simd, const NR: usize>(s: S, p: *mut bf16, n: usize, x: [S::f32s; NR]) {
        const { assert!(S::F32_LANES <= MAX_LANES) }
        let mut row = [[bf16::ZERO; MAX_LANES]; NR];
        // SAFETY: `n` elements on either side.
        unsafe {
            Self::store(s, row.as_mut_ptr().cast(), x);
            p.copy_from_nonoverlapping(row.as_ptr().cast(), n);
        }
    }

    #[inline(always)]
    fn split<S: Simd, const NR: usize>(x: [S::f32s; NR]) -> [S::f32s; NR] {
        reorder::<S, NR>(x, |from, to| {
            let n = S::F32_LANES;
            (0..n).for_each(|i| (to[i], to[n + i]) = (from[2 * i], from[2 * i + 1]));
        })
    }

    #[inline(always)]
    fn join<S: Simd, const NR: usize>(x: [S::f32s; NR]) -> [S::f32s; NR] {
        reorder::<S, NR>(x, |from, to| {
            let n = S::F32_LANES;
            (0..n).for_each(|i| (to[2 * i], to[2 * i + 1]) = (from[i], from[n + i]));
        })
    }
}

/// Words whose upper half is the nearest `bf16`, ties to even; `NaN` becomes quiet.
#[inline(always)]
fn rounded<S: Simd>(s: S, x: S::f32s) -> S::u32s {
    let u = to_bits(s, x);
    let odd = s.and_u32s(s.wrapping_dyn_shr_u32s(u, s.splat_u32s(16)), s.splat_u32s(1));
    let nearest = s.add_u32s(s.add_u32s(u, s.splat_u32s(0x7fff)), odd);
    let quiet = s.or_u32s(u, s.splat_u32s(0x0040_0000));
    to_bits(s, select(s, s.equal_f32s(x, x), from_bits(s, nearest), from_bits(s, quiet)))
}

/// Applies `f` to the lanes of each pair.
#[inline(always)]
fn reorder<S: Simd, const NR: usize>(x: [S::f32s; NR], f: impl Fn(&[f32], &mut [f32])) -> [S::f32s; NR] {
    let mut y = x;
    for (x, y) in x.chunks_exact(2).zip(y.chunks_exact_mut(2)) {
        f(bytemuck::cast_slice(x), bytemuck::cast_slice_mut(y));
    }
    y
}
