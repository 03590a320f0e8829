//! The reverse of a chunk's scores and decay factors: from gradients of what a chunk computes with to those of the rows
//! it was made of (`docs/spec/linear.md` 1.9).
//!
//! ```text
//! dq_i = P_i ⊙ dq_i + Σ_{j ≤ i} dA_ij L_ij ⊙ k_j            (every set; likewise de from dB, with j < i)
//! dk_j = F_j ⊙ dk_j + Σ_{i ≥ j} dA_ij L_ij ⊙ q_i + Σ_{i > j} dB_ij L_ij ⊙ e_i          e_i = erase_row[i] · k_i
//! dg_t = Σ_{s ≥ t} (q_s ⊙ dq_s + e_s ⊙ de_s − k_s ⊙ dk_s) + end        exactly 0, and nothing before it, where α_t = 0
//! ```
//!
//! `P`, `F` and `L` are the running products of `α` (1.4). On entry `dq`, `dk` and `de` are the gradients of the rows
//! with their factors, on return those of the rows themselves; `dk` without what `e` passes on to `k`. Rows are
//! `[n, ld]`, sets `[n_sets, 16, ld]`, `d` rounded up to 16 columns of them are worked on. `dA` and `dB` are
//! `[16, 16]`; what lies above their diagonal is not read.
//!
//! With one factor per channel there are four variations:
//! erase rows of their own; a second block of keys, with its own `dA` and `dB`, whose parts are added; erase rows that
//! read before the decay of their token, with `P_{i−1}` and `L_{i−1,j}`, whose `e_t ⊙ de_t` counts for the gates before
//! `t` only; and queries that do so, and read their own key by a bonus `u`, for which then, after `dg` was made the same
//! way,
//!
//! ```text
//! dq_i += dA_ii u ⊙ k_i       dk_i += dA_ii u ⊙ q_i       du = Σ_i dA_ii q_i ⊙ k_i
//! ```
//!
//! The decay of value channels is the same thing with other names: `q` the gradient of the output, `k` the values, `dA`
//! the scores; then `dq` becomes the output, `dk` the gradient of the values.
//!
//! *Aliasing*: none. *Numerics*: products in order of tokens, no quotient; fused sums in order of the index. With one
//! factor per token a row that is not finite may spoil the other rows of its chunk, by way of zeros above the diagonal.
//! *Cost*, FLOPs: a factor per token or none `4·n²·d` for each set, and for erase rows; one per channel half of that,
//! for each block of keys, and `2·n²·d` for the factors.

mod channel;
mod reference;
mod token;

use super::Kernel;
use pulp::Simd;

/// Operands of one call.
#[derive(Clone, Copy)]
pub struct Args {
    /// Rows, at most 16.
    pub n: usize,
    /// Channels.
    pub d: usize,
    /// Elements between rows.
    pub ld: usize,
    /// Factors: `[n]`, or `[n, ld_alpha]` if `by_channel`; null: all 1.
    pub alpha: *const f32,
    /// Elements between rows of `alpha`.
    pub ld_alpha: usize,
    /// One factor per channel.
    pub by_channel: bool,
    /// Query rows, `[n_sets, 16, ld]`.
    pub q: *const f32,
    /// Number of sets.
    pub n_sets: usize,
    /// Queries are read before the decay of their token, and their own key times this, `[ld]`; null: after it, and as
    /// it is. Needs `dq` and one factor per channel.
    pub bonus: *const f32,
    /// Key rows, `[k_sets, n, ld]`.
    pub k: *const f32,
    /// Blocks of key rows, at least one. More need one factor per channel.
    pub k_sets: usize,
    /// Erase rows, `[n, ld]`, with one factor per channel; null: they are made of the keys.
    pub erase: *const f32,
    /// Factor that makes an erase row of a key, `[n]`; read where `erase` is null.
    pub erase_row: *const f32,
    /// They are read before the decay of their token. Needs one factor per channel.
    pub erase_pre: bool,
    /// Gradients of the scores, `[k_sets, n_sets, 16, 16]`.
    pub da: *const f32,
    /// Gradient of the scores of the erase rows, `[k_sets, 16, 16]`; read where `de` is not null.
    pub db: *const f32,
    /// Gradients of the queries, `[n_sets, 16, ld]`; null: not wanted.
    pub dq: *mut f32,
    /// Gradients of the keys, `[k_sets, n, ld]`.
    pub dk: *mut f32,
    /// Gradients of the erase rows, `[n, ld]`; null: there are none.
    pub de: *mut f32,
    /// Gradients of the log decay, `[n, ld]`; null: not wanted. Needs `dq` and `alpha`.
    pub dg: *mut f32,
    /// Gradient of the bonus, `[ld]`; written where `bonus` is not null.
    pub dbonus: *mut f32,
    /// What the chunk's end adds to them, `[d]`.
    pub end: *const f32,
}

/// The reverse of scores and decay factors in `f32`.
pub struct ScoresGrad;

impl Kernel for ScoresGrad {
    type Args = Args;
    const NAME: &'static str = "scores_grad_f32";

    unsafe fn reference(args: &Args) {
        // SAFETY: the contract is the same.
        unsafe { reference::run(args) }
    }

    #[inline(always)]
    unsafe fn simd<S: Simd>(simd: S, args: &Args) {
        // SAFETY: the contract is the same.
        unsafe {
            if args.by_channel && !args.alpha.is_null() {
                channel::run(simd, args)
            } else {
                token::run(simd, args)
            }
        }
    }
}
