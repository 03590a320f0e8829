//! Flush-to-zero for the length of a task.
//!
//! Decaying states drift into the denormal range, where x86 and some ARM cores are one to two orders of
//! magnitude slower. Tasks run with denormals flushed, in and out; the caller's mode comes back at the end.

/// While it lives, this thread treats denormals as zero.
pub struct DenormalGuard {
    saved: u64,
}

impl DenormalGuard {
    /// Sets the mode and remembers the one before.
    pub fn flush_to_zero() -> DenormalGuard {
        let saved = read();
        write(saved | FLUSH);
        DenormalGuard { saved }
    }
}

impl Drop for DenormalGuard {
    fn drop(&mut self) {
        write(self.saved);
    }
}

/// MXCSR: flush to zero (bit 15), denormals are zero (bit 6).
#[cfg(target_arch = "x86_64")]
const FLUSH: u64 = 1 << 15 | 1 << 6;

#[cfg(target_arch = "x86_64")]
fn read() -> u64 {
    let mut mode = 0u32;
    // SAFETY: stores the control register of this thread into `mode`.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut mode, options(nostack, preserves_flags)) };
    mode.into()
}

#[cfg(target_arch = "x86_64")]
fn write(mode: u64) {
    let mode = mode as u32;
    // SAFETY: `mode` is a value read before, with two flush bits perhaps set; no reserved bit is.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &mode, options(nostack, preserves_flags)) };
}

/// FPCR: flush to zero (bit 24).
#[cfg(target_arch = "aarch64")]
const FLUSH: u64 = 1 << 24;

#[cfg(target_arch = "aarch64")]
fn read() -> u64 {
    let mode;
    // SAFETY: reads the control register of this thread.
    unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) mode, options(nomem, nostack, preserves_flags)) };
    mode
}

#[cfg(target_arch = "aarch64")]
fn write(mode: u64) {
    // SAFETY: `mode` is a value read before, with the flush bit perhaps set.
    unsafe { std::arch::asm!("msr fpcr, {}", in(reg) mode, options(nostack, preserves_flags)) };
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const FLUSH: u64 = 0;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn read() -> u64 {
    0
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn write(_: u64) {}
