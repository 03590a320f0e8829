//! Tiles: the small kernels that every engine stands on, and the table that finds them.
//!
//! A kernel is a type that implements [`Kernel`]: an argument struct of raw pointers and sizes, a scalar
//! reference, and one generic SIMD body. [`Kernel::ROWS`] lists its implementations, one row per
//! instruction set; a row may be an override written by hand. Plans hold the function pointer that
//! [`select`] found, so dispatch costs one indirect call per tile of some thousand cycles.
//!
//! Everything a SIMD body calls must be `#[inline(always)]`: a helper that is not inlined is compiled
//! without the target's features, and each vector operation in it becomes a call.

pub mod best_key;
pub mod causal_conv;
pub mod causal_conv_grad;
pub mod decay_rows;
pub mod denominator;
pub mod dots;
pub mod elementwise;
pub mod gate;
pub mod gate_grad;
pub mod load_rows;
pub mod map_grad;
pub mod matmul;
pub mod matmul_bf16;
pub mod online_softmax;
pub mod pair_rows;
#[cfg(target_arch = "x86_64")]
mod pairs;
pub mod products;
pub mod row_l2norm;
pub mod row_rms;
pub mod row_softmax;
pub mod score_grad;
pub mod score_terms;
pub mod scores;
pub mod scores_grad;
pub mod sincos;
pub mod solve;
pub mod step;
pub mod store_rows;
pub mod transpose_rows;
pub mod value_decay;
pub mod weigh;

use crate::simd::Isa;
use pulp::Simd;

/// Repeats a block for `$i` = 0 .. 15, a constant in each copy, so that an array indexed by it stays in
/// registers. A plain loop of this length over such an array is left rolled, and the array in memory.
macro_rules! unroll16 {
    ($i:ident, $body:block) => {
        unroll16!(@ $i, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $i:ident, $body:block, $($n:literal)*) => {
        $({
            const $i: usize = $n;
            $body
        })*
    };
}
pub(crate) use unroll16;

/// The form of every kernel: one call, one block of arguments.
///
/// # Safety
/// The arguments must satisfy what the kernel's argument struct documents.
pub type KernelFn<A> = unsafe fn(&A);

/// One implementation of a kernel.
pub struct Row<A> {
    /// The instruction set it needs.
    pub isa: Isa,
    /// Whether it replaces the generic SIMD body.
    pub by_hand: bool,
    /// The function.
    pub run: KernelFn<A>,
}

/// A tile with its reference and its generic SIMD body.
pub trait Kernel: Sized + 'static {
    /// Pointers and sizes of one call.
    type Args;
    /// Name `<op>_<variant>_<dtype>`.
    const NAME: &'static str;
    /// Implementations, weakest instruction set first.
    const ROWS: &'static [Row<Self::Args>] = &generic_rows::<Self>();

    /// Plain loops, the definition of the result.
    ///
    /// # Safety
    /// `args` satisfies the documentation of [`Kernel::Args`].
    unsafe fn reference(args: &Self::Args);

    /// The same for any vector width. Must be `#[inline(always)]`.
    ///
    /// # Safety
    /// `args` satisfies the documentation of [`Kernel::Args`].
    unsafe fn simd<S: Simd>(simd: S, args: &Self::Args);
}

/// The strongest row of `K` that does not exceed `isa`.
pub fn select<K: Kernel>(isa: Isa) -> KernelFn<K::Args> {
    let row = K::ROWS.iter().rev().find(|row| row.isa <= isa && row.isa.available());
    row.expect("the scalar row is always there").run
}

/// Wraps a generic body so that pulp compiles it with the target features of `S`.
struct Body<'a, K: Kernel>(&'a K::Args);

impl<K: Kernel> pulp::WithSimd for Body<'_, K> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // SAFETY: `generic_*` forwards the arguments of its own unsafe contract.
        unsafe { K::simd(simd, self.0) }
    }
}

/// The rows a kernel has without overrides.
#[cfg(target_arch = "x86_64")]
pub const fn generic_rows<K: Kernel>() -> [Row<K::Args>; 3] {
    [
        Row { isa: Isa::Scalar, by_hand: false, run: K::reference },
        Row { isa: Isa::Avx2, by_hand: false, run: generic_avx2::<K> },
        Row { isa: Isa::Avx512, by_hand: false, run: generic_avx512::<K> },
    ]
}

/// The rows a kernel has without overrides.
#[cfg(target_arch = "aarch64")]
pub const fn generic_rows<K: Kernel>() -> [Row<K::Args>; 2] {
    [
        Row { isa: Isa::Scalar, by_hand: false, run: K::reference },
        Row { isa: Isa::Neon, by_hand: false, run: generic_neon::<K> },
    ]
}

/// The rows a kernel has without overrides.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub const fn generic_rows<K: Kernel>() -> [Row<K::Args>; 1] {
    [Row { isa: Isa::Scalar, by_hand: false, run: K::reference }]
}

/// # Safety
/// The contract of `K::Args`, and AVX2 with FMA must be there.
#[cfg(target_arch = "x86_64")]
pub unsafe fn generic_avx2<K: Kernel>(args: &K::Args) {
    // SAFETY: a row is selected only where `Isa::available` found its instruction set.
    let simd = unsafe { pulp::x86::V3::new_unchecked() };
    Simd::vectorize(simd, Body::<K>(args));
}

/// # Safety
/// The contract of `K::Args`, and AVX-512 (`x86-64-v4`) must be there.
#[cfg(target_arch = "x86_64")]
pub unsafe fn generic_avx512<K: Kernel>(args: &K::Args) {
    // SAFETY: a row is selected only where `Isa::available` found its instruction set.
    let simd = unsafe { pulp::x86::V4::new_unchecked() };
    Simd::vectorize(simd, Body::<K>(args));
}

/// # Safety
/// The contract of `K::Args`, and NEON must be there.
#[cfg(target_arch = "aarch64")]
pub unsafe fn generic_neon<K: Kernel>(args: &K::Args) {
    // SAFETY: a row is selected only where `Isa::available` found its instruction set.
    let simd = unsafe { pulp::aarch64::Neon::new_unchecked() };
    Simd::vectorize(simd, Body::<K>(args));
}
