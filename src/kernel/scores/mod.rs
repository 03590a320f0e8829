//! Score block of a chunk: products of its rows with its keys, decayed between the two tokens.
//!
//! ```text
//! S[i, j] = row[i] · Σ_c X[i, c] L_ij,c K[j, c]      j ≤ i (or j < i if strict), else exactly 0
//! L_ij = Π_{m = j+1 .. i} α_m                        scalar per token, or one factor per channel
//! ```
//!
//! `X` is `[n, d]` (rows of `q`, or of the erase vector), `K` comes transposed as `[d, 16]`, `S` is
//! `[16, 16]`; rows `n ..` of it are set to zero. Two kernels: [`ScoresToken`] (or no decay) is a matrix
//! product and a mask; [`ScoresChannel`] cannot be one and runs the recurrence of `docs/spec/linear.md` 1.5
//! on the keys, one vector of tokens per channel:
//!
//! ```text
//! K̃[c, :] ← α_i,c K̃[c, :] + K[i, c] e_i ;   S[i, :] += X[i, c] K̃[c, :]
//! ```
//!
//! Rows may also be read before the decay of their token: `L_{i−1,j}` in place of `L_ij`. That is the correction of
//! RWKV-7 (`strict_pre`), and the query of RWKV-6, which reads its own key by a factor per channel (`bonus`):
//! `S[i, i] = Σ_c X[i, c] u_c K[i, c]`.
//!
//! *Numerics*: `L` is a running product, without logarithms or quotients: `α = 0` resets exactly. Entries
//! outside the triangle are selected to zero, whatever the rows hold.
//! *Cost*: `2·256·d` FLOPs (token), `4·256·d` for one set of rows and `6·256·d` for two, or with
//! a bonus (channel).
//!
//! **Blocking** of the channel form: `R` tokens at a time keep their score rows in registers while `K̃`
//! makes one trip through memory, instead of one trip per token.

mod channel;
mod token;

pub use channel::{ChannelArgs, ScoresChannel};
pub use token::{ScoresToken, TokenArgs};
