//! Two passes over strips of columns, any vector width.

use super::{Args, STRIP};
use pulp::{MemMask, Simd};

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
            blocks(simd, first, end, Update(t));
        }
        first = end;
    }
}

/// Work on `NR` vectors of columns from `c` on; `last` masks the last of them.
trait Block {
    /// # Safety
    /// The columns exist.
    unsafe fn run<S: Simd, const NR: usize>(&self, simd: S, c: usize, last: MemMask<S::m32s>);
}

/// # Safety
/// Columns `first .. end` exist.
#[inline(always)]
unsafe fn blocks<S: Simd, B: Block>(simd: S, first: usize, end: usize, block: B) {
    let mut c = first;
    let lanes = S::F32_LANES;
    while c < end {
        let left = end - c;
        let mask = |vectors: usize| {
            let last = left - (vectors - 1) * lanes;
            MemMask::new(simd.mask_between_m32s(0, last.min(lanes) as u32).mask())
        };
        // SAFETY: the caller's contract.
        unsafe {
            match left.div_ceil(lanes) {
                1 => block.run::<S, 1>(simd, c, mask(1)),
                2 | 3 => block.run::<S, 2>(simd, c, mask(2)),
                _ => block.run::<S, 4>(simd, c, mask(4)),
            }
        }
        c += lanes
            * match left.div_ceil(lanes) {
                1 => 1,
                2 | 3 => 2,
                _ => 4,
            };
    }
}

#[inline(always)]
unsafe fn load<S: Simd, const NR: usize>(simd: S, p: *const f32, last: MemMask<S::m32s>) -> [S::f32s; NR] {
    let mut out = [simd.splat_f32s(0.0); NR];
    for (v, out) in out.iter_mut().enumerate() {
        let p = p.wrapping_add(v * S::F32_LANES);
        // SAFETY: only the last vector can be partial, and its mask covers the columns that exist.
        *out = unsafe {
            if v + 1 < NR { p.cast::<S::f32s>().read_unaligned() } else { simd.mask_load_ptr_f32s(last, p) }
        };
    }
    out
}

#[inline(always)]
unsafe fn store<S: Simd, const NR: usize>(simd: S, p: *mut f32, last: MemMask<S::m32s>, x: [S::f32s; NR]) {
    for (v, x) in x.into_iter().enumerate() {
        let p = p.wrapping_add(v * S::F32_LANES);
        // SAFETY: as in `load`.
        unsafe {
            if v + 1 < NR {
                p.cast::<S::f32s>().write_unaligned(x);
            } else {
                simd.mask_store_ptr_f32s(last, p, x);
            }
        }
    }
}

/// Pass 1: `w` and the outputs.
struct Read<'a>(&'a Args);

impl Block for Read<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd, const NR: usize>(&self, simd: S, c: usize, last: MemMask<S::m32s>) {
        let t = self.0;
        let zero = [simd.splat_f32s(0.0); NR];
        // SAFETY: rows `0 .. d` and the masked columns exist.
        unsafe {
            let gamma = if t.gamma.is_null() {
                [simd.splat_f32s(1.0); NR]
            } else {
                load::<S, NR>(simd, t.gamma.add(c), last)
            };
            let mut w = load::<S, NR>(simd, t.x.add(c), last);
            let (mut r, mut p) = (zero, zero);
            let query = |set: usize| if set < t.n_sets { t.q.add(set * t.ldq) } else { t.k };
            let first = query(0);
            for i in 0..t.d {
                let s = load::<S, NR>(simd, t.s.offset(i as isize * t.lds).add(c), last);
                let q = simd.splat_f32s(*first.add(i));
                for v in 0..NR {
                    p[v] = simd.mul_add_f32s(q, s[v], p[v]);
                }
                if !t.erase.is_null() {
                    let e = simd.splat_f32s(*t.erase.add(i));
                    for v in 0..NR {
                        r[v] = simd.mul_add_f32s(e, s[v], r[v]);
                    }
                }
            }
            for v in 0..NR {
                w[v] = simd.mul_add_f32s(gamma[v], r[v], w[v]);
            }
            store::<S, NR>(simd, t.x.add(c), last, w);
            for set in 0..t.n_sets {
                if set > 0 {
                    p = zero;
                    let q = query(set);
                    for i in 0..t.d {
                        let s = load::<S, NR>(simd, t.s.offset(i as isize * t.lds).add(c), last);
                        let q = simd.splat_f32s(*q.add(i));
                        for v in 0..NR {
                            p[v] = simd.mul_add_f32s(q, s[v], p[v]);
                        }
                    }
                }
                let a = simd.splat_f32s(*t.a.add(set * t.lda));
                let mut y = zero;
                for v in 0..NR {
                    y[v] = simd.mul_add_f32s(a, w[v], simd.mul_f32s(gamma[v], p[v]));
                }
                store::<S, NR>(simd, t.y.add(set * t.ldy + c), last, y);
            }
        }
    }
}

/// Pass 2: the new state.
struct Update<'a>(&'a Args);

impl Block for Update<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd, const NR: usize>(&self, simd: S, c: usize, last: MemMask<S::m32s>) {
        let t = self.0;
        // SAFETY: rows `0 .. d` and the masked columns exist.
        unsafe {
            let w = load::<S, NR>(simd, t.x.add(c), last);
            let gamma =
                if t.gamma.is_null() { None } else { Some(load::<S, NR>(simd, t.gamma.add(c), last)) };
            for i in 0..t.d {
                let mut s = load::<S, NR>(simd, t.s.offset(i as isize * t.lds).add(c), last);
                let k = simd.splat_f32s(*t.k.add(i));
                if !t.end.is_null() {
                    let end = simd.splat_f32s(*t.end.add(i));
                    for v in 0..NR {
                        s[v] = simd.mul_f32s(s[v], end);
                    }
                }
                if let Some(gamma) = gamma {
                    for v in 0..NR {
                        s[v] = simd.mul_f32s(s[v], gamma[v]);
                    }
                }
                for v in 0..NR {
                    s[v] = simd.mul_add_f32s(k, w[v], s[v]);
                }
                store::<S, NR>(simd, t.s_new.offset(i as isize * t.lds_new).add(c), last, s);
            }
        }
    }
}
