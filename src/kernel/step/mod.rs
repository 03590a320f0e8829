//! One token against a state in the caller's memory: two passes over it (`docs/spec/linear.md` 1.8).
//!
//! ```text
//! read:    w = x + eraseᵀ S    p_h = q_hᵀ S          (times γ where there is one)
//!          y_h = post_h (skip v + p_h + a_h w)
//! update:  S' = end ⊙ S ⊙ γ + k wᵀ
//! ```
//!
//! or, with a second write `b` (RWKV-7), which is what the correction then goes to:
//!
//! ```text
//! read:    r = eraseᵀ S    y_h = post_h (skip v + p_h + a_h x + a2_h r)
//! update:  S' = end ⊙ S + k xᵀ + b rᵀ
//! ```
//!
//! `S` is `[d, e]` with rows `ld` apart, in place (`S' = S`) or not. `erase` holds `−β k ⊙ α`, `q` holds
//! `scale · q ⊙ α`, `a_h = scale · q_h·k`, `end = α` (with a bonus, or
//! a correction that is read before the decay, what `docs/spec/linear.md` 1.8 says): the same operands as a chunk of one token, so one
//! preparation serves both. The output follows from the *old* state, which is why two passes suffice.
//!
//! *Numerics*: sums in order of `d`, fused, from `x` and `skip v` on: the roundings of a chunk of one token
//! (`matmul`, `value_decay`), so that a step's bits don't depend on where its state lies. Exactly `e` columns are touched. *Cost*: `7·d·e` FLOPs (one
//! query, with correction), `2·d·e` elements of state to and from memory.
//!
//! **Element types.** The state is `f32` or `bf16`, read and written where it lies; everything else is `f32`. The new
//! state is rounded once, to nearest, ties to even; the output is made from sums that are not rounded. States of
//! 128 × 128 in memory (2048 of them, best decile of a busy Zen 4 core, with correction): 7.2 to 4.5 µs with AVX2,
//! 5.2 to 3.4 with AVX-512. In cache `bf16` is a sixth slower, for the rounding.
//!
//! **Blocking.** Columns in strips of `STRIP_BYTES` so that the update finds its strip in L1: of bytes and not
//! columns, since half a strip of `bf16` in each row was fetched as slowly as a whole one. *Tried and lost*: rows ahead
//! prefetched by hand.

mod element;
mod simd;

use super::Kernel;
use crate::kernel::load_rows::Source;
use crate::kernel::store_rows::Target;
pub use element::Vectors;
use half::bf16;
use pulp::Simd;
use std::marker::PhantomData;

/// Bytes of a row of one strip: four vectors of AVX-512.
const STRIP_BYTES: usize = 256;

/// Operands of one call. `x` and `y` rows need no padding.
#[derive(Clone, Copy)]
pub struct Args<E> {
    /// Rows of the state.
    pub d: usize,
    /// Columns of the state.
    pub e: usize,
    /// Old state.
    pub s: *const E,
    /// Elements between its rows.
    pub lds: isize,
    /// New state.
    pub s_new: *mut E,
    /// Elements between its rows.
    pub lds_new: isize,
    /// Key, `[d]`.
    pub k: *const f32,
    /// Erase row with its decay and sign, `[d]`; null: no correction.
    pub erase: *const f32,
    /// Second write, `[d]`; null: none. Only with `erase`.
    pub b: *const f32,
    /// Queries with scale and decay, `[n_sets, ldq]`.
    pub q: *const f32,
    /// Elements between queries.
    pub ldq: usize,
    /// Number of queries that share the state, at least one.
    pub n_sets: usize,
    /// `q·k` of each query, `lda` elements apart.
    pub a: *const f32,
    /// `q·b` of each query, as far apart.
    pub a2: *const f32,
    /// Elements between them.
    pub lda: usize,
    /// Decay of each row; null: 1.
    pub end: *const f32,
    /// Decay of each column; null: 1. Not together with `erase` or `v`.
    pub gamma: *const f32,
    /// Row that is added to each output, `[e]`; null: none.
    pub v: *const f32,
    /// Its factor.
    pub skip: f32,
    /// Factor of each output, `ldpost` elements apart; null: 1.
    pub post: *const f32,
    /// Elements between them.
    pub ldpost: usize,
    /// Value, `[e]`; becomes `w` if there is no `b`.
    pub x: *mut f32,
    /// What the correction read, `[e]`; written if there is `b`.
    pub r: *mut f32,
    /// Outputs, `[n_sets, ldy]`.
    pub y: *mut f32,
    /// Elements between outputs.
    pub ldy: usize,
}

/// Types that a state may have.
pub trait StateElement: Source + Target + Vectors {
    /// Name of the kernel.
    const STEP: &'static str;
}

impl StateElement for f32 {
    const STEP: &'static str = "step_f32";
}

impl StateElement for bf16 {
    const STEP: &'static str = "step_bf16";
}

/// One token against a state of elements `E`.
pub struct Step<E>(PhantomData<E>);

impl<E: StateElement> Kernel for Step<E> {
    type Args = Args<E>;
    const NAME: &'static str = E::STEP;

    unsafe fn reference(t: &Args<E>) {
        let factor = |p: *const f32, i: usize| {
            // SAFETY: optional factors have as many elements as their axis.
            if p.is_null() { 1.0 } else { f64::from(unsafe { *p.add(i) }) }
        };
        for c in 0..t.e {
            // SAFETY: `i < d`, `c < e`.
            unsafe {
                let s = |i: usize| f64::from((*t.s.offset(i as isize * t.lds).add(c)).widen());
                let dot = |from: f64, v: *const f32| -> f64 {
                    (0..t.d).fold(from, |sum, i| sum + f64::from(*v.add(i)) * s(i))
                };
                let gamma = factor(t.gamma, c);
                let two = !t.b.is_null();
                let mut w = f64::from(*t.x.add(c));
                if !t.erase.is_null() && !two {
                    w = f64::from(dot(w, t.erase) as f32);
                }
                let r = if two { f64::from(dot(0.0, t.erase) as f32) } else { 0.0 };
                for set in 0..t.n_sets {
                    let skip = if t.v.is_null() { 0.0 } else { f64::from(t.skip) * f64::from(*t.v.add(c)) };
                    let mut p = dot(skip, t.q.add(set * t.ldq));
                    if !t.gamma.is_null() {
                        p = gamma * f64::from(p as f32);
                    }
                    let mut y = p + f64::from(*t.a.add(set * t.lda)) * w;
                    if two {
                        y += f64::from(*t.a2.add(set * t.lda)) * r;
                    }
                    *t.y.add(set * t.ldy + c) = (factor(t.post, set * t.ldpost) * y) as f32;
                }
                for i in 0..t.d {
                    let mut new = factor(t.end, i) * gamma * s(i) + f64::from(*t.k.add(i)) * w;
                    if two {
                        new += f64::from(*t.b.add(i)) * r;
                    }
                    *t.s_new.offset(i as isize * t.lds_new).add(c) = E::narrow_reference(new as f32);
                }
                *t.x.add(c) = w as f32;
                if two {
                    *t.r.add(c) = r as f32;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(simd: S, t: &Args<E>) {
        // SAFETY: the caller's contract.
        unsafe { simd::step(simd, t) }
    }
}
