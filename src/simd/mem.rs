//! Loads and stores through raw pointers, and the masked ones that a loop's remainder takes.

use pulp::{MemMask, Simd};

/// Loads a whole vector; any alignment.
///
/// # Safety
/// `p` is valid for reading `S::F32_LANES` elements.
#[inline(always)]
pub(crate) unsafe fn load<S: Simd>(_: S, p: *const f32) -> S::f32s {
    // SAFETY: by contract; `S::f32s` is plain data.
    unsafe { p.cast::<S::f32s>().read_unaligned() }
}

/// Stores a whole vector; any alignment.
///
/// # Safety
/// `p` is valid for writing `S::F32_LANES` elements.
#[inline(always)]
pub(crate) unsafe fn store<S: Simd>(_: S, p: *mut f32, x: S::f32s) {
    // SAFETY: by contract; `S::f32s` is plain data.
    unsafe { p.cast::<S::f32s>().write_unaligned(x) }
}

/// The first lanes of a vector.
#[derive(Clone, Copy)]
pub(crate) struct Head<S: Simd> {
    mem: MemMask<S::m32s>,
}

impl<S: Simd> Head<S> {
    /// The first `len` lanes, at most all.
    #[inline(always)]
    pub(crate) fn new(s: S, len: usize) -> Self {
        Head { mem: s.mask_between_m32s(0, len.min(S::F32_LANES) as u32) }
    }

    /// Loads these lanes, zero in the others.
    ///
    /// # Safety
    /// `p` is valid for reading as many elements.
    #[inline(always)]
    pub(crate) unsafe fn load(self, s: S, p: *const f32) -> S::f32s {
        // SAFETY: by contract; the other lanes are not read.
        unsafe { s.mask_load_ptr_f32s(self.mem, p) }
    }

    /// Stores these lanes and leaves the memory of the others alone.
    ///
    /// # Safety
    /// `p` is valid for writing as many elements.
    #[inline(always)]
    pub(crate) unsafe fn store(self, s: S, p: *mut f32, x: S::f32s) {
        // SAFETY: by contract; the other lanes are not written.
        unsafe { s.mask_store_ptr_f32s(self.mem, p, x) }
    }

    /// `x` in these lanes, `other` in the rest.
    #[inline(always)]
    pub(crate) fn select(self, s: S, x: S::f32s, other: S::f32s) -> S::f32s {
        super::math::select(s, self.mem.mask(), x, other)
    }
}

/// A whole vector if `FULL`, these lanes if not.
///
/// # Safety
/// `p` is valid for reading as many elements.
#[inline(always)]
pub(crate) unsafe fn load_part<S: Simd, const FULL: bool>(s: S, head: Head<S>, p: *const f32) -> S::f32s {
    // SAFETY: by contract.
    unsafe { if FULL { load(s, p) } else { head.load(s, p) } }
}

/// A whole vector if `FULL`, these lanes if not.
///
/// # Safety
/// `p` is valid for writing as many elements.
#[inline(always)]
pub(crate) unsafe fn store_part<S: Simd, const FULL: bool>(s: S, head: Head<S>, p: *mut f32, x: S::f32s) {
    // SAFETY: by contract.
    unsafe { if FULL { store(s, p, x) } else { head.store(s, p, x) } }
}
