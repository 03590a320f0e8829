//! Hints to bring memory closer before it is needed; never a fault, whatever the address.

/// Bytes of a cache line.
pub const LINE: usize = 64;

/// Where a later call reads what this one reads now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ahead {
    /// Bytes from the first row of this call to that of the later one; 0: not known.
    pub bytes: isize,
    /// The later rows follow the last of this call.
    pub follows: bool,
}

impl Ahead {
    /// Bytes from what is read to what is asked for. Where memory is read in order, that is just so far that it comes in
    /// time: the hardware asks for what is nearer.
    #[inline(always)]
    pub fn distance(self, in_order: bool) -> isize {
        if self.follows && in_order { 8192 } else { self.bytes }
    }
}

/// Asks for `bytes` from `p` on to be brought into the second-level cache.
#[inline(always)]
pub fn prefetch(p: *const u8, bytes: usize) {
    for offset in (0..bytes).step_by(LINE) {
        line(p.wrapping_add(offset));
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn line(p: *const u8) {
    // SAFETY: a prefetch reads nothing that a program can see, and does not fault.
    unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(p.cast()) }
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn line(p: *const u8) {
    // SAFETY: as on x86.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{}]", in(reg) p, options(nostack, preserves_flags, readonly));
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline(always)]
fn line(_: *const u8) {}
