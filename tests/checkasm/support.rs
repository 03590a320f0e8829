//! Random numbers, iteration over kernels' rows, comparison.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Once, OnceLock};
use subquad::Isa;
use subquad::kernel::{Kernel, KernelFn};

/// Pseudo-random numbers (splitmix64).
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// True once in `n`.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A length: all remainders of small ones, now and then a larger one.
    pub fn len(&mut self) -> usize {
        if self.one_in(8) { self.below(600) } else { self.below(71) }
    }

    /// In `[−1, 1)`.
    pub fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// `n` values in `[−scale, scale)`.
    pub fn values(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.signed() * scale).collect()
    }

    /// Any finite value, all exponents alike.
    pub fn finite(&mut self) -> f32 {
        loop {
            let x = f32::from_bits(self.next() as u32);
            if x.is_finite() {
                return x;
            }
        }
    }

    /// A value that breaks things: NaN, infinities, zeros, denormals, the largest and smallest.
    pub fn hostile(&mut self) -> f32 {
        let x = self.pick(&[
            f32::NAN,
            f32::INFINITY,
            0.0,
            f32::from_bits(1),
            f32::from_bits(0x007f_ffff),
            f32::MIN_POSITIVE,
            f32::MAX,
            1e30,
            1e-30,
            88.7,
            87.4,
            104.0,
            f32::from_bits(0x7f80_0001),
        ]);
        if self.one_in(2) { -x } else { x }
    }

    /// `n` values: ordinary ones of some scale, in half of the calls with hostile ones among them.
    pub fn mixed(&mut self, n: usize) -> Vec<f32> {
        let scale = self.pick(&[1e-3, 1.0, 10.0, 100.0]);
        let every = self.pick(&[0, 0, 2, 10, 40]);
        (0..n)
            .map(|_| if every > 0 && self.one_in(every) { self.hostile() } else { self.signed() * scale })
            .collect()
    }
}

/// The seed of this run: always the same, so that a change and not chance decides whether tests pass, or what
/// `SUBQUAD_SEED` says: a number, or `random` to look for cases that nobody has met.
pub fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| match std::env::var("SUBQUAD_SEED").as_deref() {
        Ok("random") => RandomState::new().hash_one(0) >> 32,
        Ok(seed) => seed.parse().expect("SUBQUAD_SEED is a number, or `random`"),
        Err(_) => 20_261_121,
    })
}

/// Calls `f` for every implementation of `K` that this machine can run, but for the reference.
/// Says which ones it can't.
pub fn for_each_row<K: Kernel>(mut f: impl FnMut(Isa, KernelFn<K::Args>)) {
    for row in K::ROWS.iter().filter(|row| row.isa != Isa::Scalar) {
        if row.isa.available() {
            f(row.isa, row.run);
        } else {
            println!("checkasm: {} skipped for {}: this machine lacks it", K::NAME, row.isa);
        }
    }
}

/// Calls `case` `n` times for every implementation, with the same numbers for each of them.
pub fn cases<K: Kernel>(n: usize, mut case: impl FnMut(&mut Rng, KernelFn<K::Args>)) {
    let percent: usize =
        std::env::var("SUBQUAD_CASES").map_or(100, |p| p.parse().expect("SUBQUAD_CASES is a number"));
    report_faults();
    for_each_row::<K>(|isa, run| {
        for i in 0..(n * percent).div_ceil(100) {
            let report =
                Report { what: format!("{} {isa} failed in case {i}, SUBQUAD_SEED={}", K::NAME, seed()) };
            CURRENT.set((report.what.as_ptr(), report.what.len()));
            // The test's own numbers don't depend on which other tests run.
            let mut rng = Rng::new(seed().wrapping_add((i as u64) << 32));
            case(&mut rng, run);
        }
    });
}

/// Prints how to repeat a case that panics.
struct Report {
    what: String,
}

impl Drop for Report {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("checkasm: {}", self.what);
        }
    }
}

thread_local! {
    /// The report of the case that this thread runs.
    static CURRENT: Cell<(*const u8, usize)> = const { Cell::new((std::ptr::null(), 0)) };
}

/// An access beyond a buffer, or an instruction that isn't there, ends the process: says first in which case.
fn report_faults() {
    extern "C" fn handler(signal: libc::c_int) {
        let (text, len) = CURRENT.get();
        // SAFETY: only calls that signal handlers may make; `text` is alive while the case runs.
        unsafe {
            let name: &[u8] = if signal == libc::SIGILL { b"\nSIGILL: " } else { b"\nSIGSEGV: " };
            libc::write(2, name.as_ptr().cast(), name.len());
            libc::write(2, text.cast(), len);
            libc::write(2, b"\n".as_ptr().cast(), 1);
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let handler = handler as extern "C" fn(libc::c_int);
        // SAFETY: the handler is as above; returning to the fault raises it again, then by default.
        unsafe {
            for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL] {
                libc::signal(signal, handler as libc::sighandler_t);
            }
        }
    });
}

/// Smallest normal number: results below may be flushed.
pub const TINY: f64 = f32::MIN_POSITIVE as f64;
/// Half a unit in the last place of 1: one rounding.
pub const EPS: f64 = f32::EPSILON as f64 / 2.0;

/// Distance of neighbours at `x`.
pub fn ulp(x: f32) -> f64 {
    let exponent = (x.to_bits() >> 23 & 0xff).max(1) as i32;
    f64::from(exponent - 127 - 23).exp2()
}

/// Panics unless `got` is within `tolerance` of `want`; NaN and infinities must be the same.
#[track_caller]
pub fn assert_close(got: f32, want: f32, tolerance: f64, what: impl FnOnce() -> String) {
    let same = got == want || (got.is_nan() && want.is_nan());
    let close = want.is_finite() && (f64::from(got) - f64::from(want)).abs() <= tolerance;
    assert!(same || close, "{}: {got:e} for {want:e}, tolerance {tolerance:e}", what());
}

/// Panics unless both have the same bits; one NaN is as good as another.
#[track_caller]
pub fn assert_same(got: &[f32], want: &[f32], what: impl Fn() -> String) {
    assert_eq!(got.len(), want.len());
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        let same = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        assert!(same, "{} at {i}: {a:e} for {b:e}", what());
    }
}

/// Whether an emulator runs this that flushes half-precision denormals (QEMU's `vcvtph2ps`; processors don't).
pub fn is_qemu() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let leaf = std::arch::x86_64::__cpuid(0x4000_0000);
        return [leaf.ebx, leaf.ecx, leaf.edx]
            == [u32::from_le_bytes(*b"TCGT"), u32::from_le_bytes(*b"CGTC"), u32::from_le_bytes(*b"GTCG")];
    }
    #[allow(unreachable_code)]
    false
}

/// Runs `f` with denormals flushed to zero, as the engines do.
pub fn flushing(on: bool, f: impl FnOnce()) {
    if !on {
        return f();
    }
    #[cfg(target_arch = "x86_64")]
    {
        let (mut before, mut mode) = (0u32, 0u32);
        // SAFETY: stores the control word; FTZ is bit 15, DAZ bit 6; put back below.
        unsafe {
            std::arch::asm!("stmxcsr [{}]", in(reg) &mut before);
            mode |= before | 0x8040;
            std::arch::asm!("ldmxcsr [{}]", in(reg) &mode);
        }
        f();
        // SAFETY: the word that was there.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &before) };
    }
    #[cfg(target_arch = "aarch64")]
    {
        let before: u64;
        // SAFETY: FZ is bit 24; put back below.
        unsafe {
            std::arch::asm!("mrs {}, fpcr", out(reg) before);
            std::arch::asm!("msr fpcr, {}", in(reg) before | 1 << 24);
        }
        f();
        // SAFETY: the word that was there.
        unsafe { std::arch::asm!("msr fpcr, {}", in(reg) before) };
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    f();
}
