//! Version and machine

use crate::boundary;
use std::ffi::{CStr, c_char};
use subquad::Isa;

/// Reference code, any architecture.
pub const SUBQUAD_ISA_SCALAR: u32 = 1;
/// 128-bit NEON (every aarch64).
pub const SUBQUAD_ISA_NEON: u32 = 2;
/// AVX2 and FMA (x86-64-v3).
pub const SUBQUAD_ISA_AVX2: u32 = 3;
/// AVX-512 F, BW, CD, DQ, VL (x86-64-v4).
pub const SUBQUAD_ISA_AVX512: u32 = 4;

const fn number(digits: &str) -> u32 {
    let (digits, mut n, mut i) = (digits.as_bytes(), 0, 0);
    while i < digits.len() {
        n = n * 10 + (digits[i] - b'0') as u32;
        i += 1;
    }
    n
}

const VERSION: u32 = number(env!("CARGO_PKG_VERSION_MAJOR")) * 10000
    + number(env!("CARGO_PKG_VERSION_MINOR")) * 100
    + number(env!("CARGO_PKG_VERSION_PATCH"));

/// Version of the library at run time, as SUBQUAD_VERSION_NUMBER counts: major * 10000 + minor * 100 + patch.
///
/// Thread-safe. Allocates: no. Since 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn subquad_version() -> u32 {
    VERSION
}

/// Version of the library at run time, such as "0.1.0".
///
/// Returns a static string. Thread-safe. Allocates: no. Since 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn subquad_version_string() -> *const c_char {
    const TEXT: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(text) => text,
        Err(_) => c"",
    };
    TEXT.as_ptr()
}

/// The strongest instruction set (SUBQUAD_ISA_...) that this machine has and the library uses.
///
/// Takes no notice of SUBQUAD_MAX_ISA, which is read when a context is made. Thread-safe. Allocates: on the
/// first call. Since 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn subquad_cpu_isa() -> u32 {
    boundary::value(SUBQUAD_ISA_SCALAR, || Isa::best() as u32)
}

/// Name of an instruction set (SUBQUAD_ISA_...), such as "avx2"; "unknown" for any other number.
///
/// Returns a static string. Thread-safe. Allocates: no. Since 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn subquad_isa_name(isa: u32) -> *const c_char {
    let name = match isa {
        SUBQUAD_ISA_SCALAR => c"scalar",
        SUBQUAD_ISA_NEON => c"neon",
        SUBQUAD_ISA_AVX2 => c"avx2",
        SUBQUAD_ISA_AVX512 => c"avx512",
        _ => c"unknown",
    };
    name.as_ptr()
}
