//! Which instruction sets this machine has, and how far down a caller may force us.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// Instruction sets a kernel can be compiled for, weakest first within an architecture.
///
/// `Scalar` is the reference code: plain loops that every other path is tested against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum Isa {
    /// Reference code, any architecture.
    Scalar = 1,
    /// 128-bit NEON with fused multiply-add (every aarch64).
    Neon = 2,
    /// AVX2 and FMA (`x86-64-v3`).
    Avx2 = 3,
    /// AVX-512 F, BW, CD, DQ, VL (`x86-64-v4`).
    Avx512 = 4,
}

impl Isa {
    /// Every instruction set, weakest first.
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Neon, Isa::Avx2, Isa::Avx512];

    /// The name used by options, `SUBQUAD_MAX_ISA` and the command line.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Neon => "neon",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// Whether the CPU has it and the OS saves its registers.
    pub fn available(self) -> bool {
        available().contains(&self)
    }

    /// The strongest instruction set of this machine.
    pub fn best() -> Isa {
        *available().last().expect("scalar is always there")
    }
}

/// The instruction sets of this machine, weakest first; `Scalar` is always among them.
///
/// `is_x86_feature_detected!`, and pulp above it, ask CPUID and XGETBV: an OS that does not save the
/// wide registers counts as not having them. Detection runs once.
pub fn available() -> &'static [Isa] {
    static FOUND: OnceLock<Vec<Isa>> = OnceLock::new();
    FOUND.get_or_init(|| Isa::ALL.into_iter().filter(|&isa| detect(isa)).collect())
}

#[cfg(target_arch = "x86_64")]
fn detect(isa: Isa) -> bool {
    match isa {
        Isa::Scalar => true,
        Isa::Neon => false,
        Isa::Avx2 => pulp::x86::V3::try_new().is_some(),
        Isa::Avx512 => pulp::x86::V4::try_new().is_some(),
    }
}

#[cfg(target_arch = "aarch64")]
fn detect(isa: Isa) -> bool {
    match isa {
        Isa::Scalar => true,
        Isa::Neon => pulp::aarch64::Neon::try_new().is_some(),
        Isa::Avx2 | Isa::Avx512 => false,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detect(isa: Isa) -> bool {
    isa == Isa::Scalar
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = ();
    fn from_str(s: &str) -> Result<Isa, ()> {
        Isa::ALL.into_iter().find(|isa| isa.name() == s).ok_or(())
    }
}
