//! Forward substitution of a chunk: the delta rule's correction, solved on its right-hand side.
//!
//! ```text
//! U[i, :] = R[i, :] + Σ_{j < i} N[i, j] U[j, :]        in place, i = 0 .. 16
//! ```
//!
//! `N = −B` of `docs/spec/linear.md` 1.5 is `[16, 16]`, strictly lower triangular, dense and zero in rows
//! past the end of the chunk; `U` is `[16, n]` with rows `ld` apart. The inverse of `I + B` is never formed.
//!
//! *Numerics*: fused multiply-add in index order of `j`; a row reads only rows above it, so NaN moves down,
//! never up. *Cost*: `240·n` FLOPs. `n` is rounded up to 16 columns, which must exist.
//!
//! **Blocking.** One vector of columns, 16 rows in registers where there are 32 of them, 8 where there are
//! 16: each solved row is at once subtracted from all rows below it, so the dependent chain is one fused
//! multiply-add per row.

use super::{Kernel, unroll16};
use crate::CHUNK;
use pulp::Simd;

/// Operands of one call.
#[derive(Clone, Copy)]
pub struct Args {
    /// Columns, rounded up to 16 by the kernel.
    pub n: usize,
    /// `N`, `[16, 16]`.
    pub coef: *const f32,
    /// `U`, `[16, n]`.
    pub u: *mut f32,
    /// Elements between rows of `U`.
    pub ld: usize,
}

/// Forward substitution in `f32`.
pub struct Solve;

impl Kernel for Solve {
    type Args = Args;
    const NAME: &'static str = "solve_unit_lower_f32";

    unsafe fn reference(t: &Args) {
        for i in 0..CHUNK {
            for c in 0..t.n.next_multiple_of(16) {
                // SAFETY: rows and columns lie in the extents that the contract of `Args` gives.
                unsafe {
                    let mut sum = f64::from(*t.u.add(i * t.ld + c));
                    for j in 0..i {
                        sum += f64::from(*t.coef.add(i * CHUNK + j)) * f64::from(*t.u.add(j * t.ld + c));
                    }
                    *t.u.add(i * t.ld + c) = sum as f32;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(simd: S, t: &Args) {
        let mut c = 0;
        while c < t.n.next_multiple_of(16) {
            // SAFETY: a vector never leaves the 16-column group it starts in.
            unsafe {
                if S::F32_LANES == 8 {
                    rows::<S, 8>(simd, t, c, 0);
                    rows::<S, 8>(simd, t, c, 8);
                } else {
                    rows::<S, 16>(simd, t, c, 0);
                }
            }
            c += S::F32_LANES;
        }
    }
}

/// Rows `i0 .. i0 + R` of one vector of columns; rows above are solved.
///
/// # Safety
/// The contract of [`Args`]; `i0 + R ≤ 16`.
#[inline(always)]
unsafe fn rows<S: Simd, const R: usize>(simd: S, t: &Args, c: usize, i0: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        let at = |i: usize| t.u.add(i * t.ld + c).cast::<S::f32s>();
        let coef = |i: usize, j: usize| simd.splat_f32s(*t.coef.add(i * CHUNK + j));
        let mut u = [simd.splat_f32s(0.0); R];
        for (r, u) in u.iter_mut().enumerate() {
            *u = at(i0 + r).read_unaligned();
        }
        for j in 0..i0 {
            let above = at(j).read_unaligned();
            for (r, u) in u.iter_mut().enumerate() {
                *u = simd.mul_add_f32s(coef(i0 + r, j), above, *u);
            }
        }
        unroll16!(J, {
            if J < R {
                let solved = u[J];
                for (i, u) in u.iter_mut().enumerate().skip(J + 1) {
                    *u = simd.mul_add_f32s(coef(i0 + i, i0 + J), solved, *u);
                }
            }
        });
        for (r, &u) in u.iter().enumerate() {
            at(i0 + r).write_unaligned(u);
        }
    }
}
