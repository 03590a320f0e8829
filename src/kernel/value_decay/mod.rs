//! Decay along the value channels inside one chunk (`gv` of `docs/spec/linear.md` 5).
//!
//! ```text
//! Ũ_j ← γ_i ⊙ Ũ_j (j < i),  Ũ_i = U_i ;    Y_i ← Y_i ⊙ Π_{m ≤ i} γ_m + Σ_{j ≤ i} A[i, j] Ũ_j     i = 0 .. n
//! U ← Ũ,   end = Π γ
//! ```
//!
//! `Y` holds `(Q ⊙ P) S0` on entry and the chunk's output on return, one `[16, ldy]` block and one score block
//! `A [16, 16]` per set (queries that share the state). `U` is `[n, ldu]`, `γ` `[n, ldg]`. On return `U` holds
//! the values decayed to the chunk's end, ready for the state update. `e` rounded up to 16 columns of every
//! operand must exist. *Numerics*: running products, as everywhere; no quotient.
//! *Cost*: `(1 + 2·sets)·n²/2·e` FLOPs.

use super::Kernel;
use crate::CHUNK;
use pulp::Simd;

/// Operands of one call.
#[derive(Clone, Copy)]
pub struct Args {
    /// Tokens, at most 16.
    pub n: usize,
    /// Value channels.
    pub e: usize,
    /// Score blocks, `[n_sets, 16, 16]`.
    pub a: *const f32,
    /// Outputs, `[n_sets, 16, ldy]`.
    pub y: *mut f32,
    /// Elements between rows of `Y`.
    pub ldy: usize,
    /// Number of sets.
    pub n_sets: usize,
    /// Values, `[n, ldu]`.
    pub u: *mut f32,
    /// Elements between rows of `U`.
    pub ldu: usize,
    /// Factors, `[n, ldg]`.
    pub gamma: *const f32,
    /// Elements between rows of `γ`.
    pub ldg: usize,
    /// Product over the chunk, `[e]`.
    pub end: *mut f32,
}

/// Decay along the value channels in `f32`.
pub struct ValueDecay;

impl Kernel for ValueDecay {
    type Args = Args;
    const NAME: &'static str = "value_decay_f32";

    unsafe fn reference(t: &Args) {
        for c in 0..t.e.next_multiple_of(16) {
            let mut u = [0.0; CHUNK];
            let mut product = 1.0;
            // SAFETY: `i, j < n ≤ 16`, `c` is below `e` rounded up.
            unsafe {
                for i in 0..t.n {
                    let gamma = f64::from(*t.gamma.add(i * t.ldg + c));
                    product *= gamma;
                    u[..i].iter_mut().for_each(|u| *u *= gamma);
                    u[i] = f64::from(*t.u.add(i * t.ldu + c));
                    for set in 0..t.n_sets {
                        let y = t.y.add((set * CHUNK + i) * t.ldy + c);
                        let mut sum = f64::from(*y) * product;
                        for (j, u) in u[..=i].iter().enumerate() {
                            sum += f64::from(*t.a.add((set * CHUNK + i) * CHUNK + j)) * u;
                        }
                        *y = sum as f32;
                    }
                }
                for (i, &u) in u[..t.n].iter().enumerate() {
                    *t.u.add(i * t.ldu + c) = u as f32;
                }
                *t.end.add(c) = product as f32;
            }
        }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(simd: S, t: &Args) {
        for c in (0..t.e.next_multiple_of(16)).step_by(S::F32_LANES) {
            let mut u = [simd.splat_f32s(0.0); CHUNK];
            let mut product = simd.splat_f32s(1.0);
            // SAFETY: `i, j < n ≤ 16`; a vector never leaves the 16-column group it starts in.
            unsafe {
                for i in 0..t.n {
                    let gamma = t.gamma.add(i * t.ldg + c).cast::<S::f32s>().read_unaligned();
                    product = simd.mul_f32s(product, gamma);
                    for u in &mut u[..i] {
                        *u = simd.mul_f32s(*u, gamma);
                    }
                    u[i] = t.u.add(i * t.ldu + c).cast::<S::f32s>().read_unaligned();
                    for set in 0..t.n_sets {
                        let y = t.y.add((set * CHUNK + i) * t.ldy + c).cast::<S::f32s>();
                        let mut sum = simd.mul_f32s(y.read_unaligned(), product);
                        for (j, &u) in u[..=i].iter().enumerate() {
                            let a = simd.splat_f32s(*t.a.add((set * CHUNK + i) * CHUNK + j));
                            sum = simd.mul_add_f32s(a, u, sum);
                        }
                        y.write_unaligned(sum);
                    }
                }
                for (i, &u) in u[..t.n].iter().enumerate() {
                    t.u.add(i * t.ldu + c).cast::<S::f32s>().write_unaligned(u);
                }
                t.end.add(c).cast::<S::f32s>().write_unaligned(product);
            }
        }
    }
}
