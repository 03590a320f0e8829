//! Products with the state on pairs of `bf16` ([`matmul_bf16`]), where the description allows it.
//!
//! ```text
//! Y = s P ⊙ (Q ⟨S⟩) + tril(A) U        U = β V − β P ⊙ (K ⟨S⟩), solved        S = P_C S + Kᵀ ⟨F ⊙ U⟩
//! ```
//!
//! `⟨·⟩` rounds to `bf16`. Decays of whole tokens are factors of rows of the products, so that queries and keys stand in
//! them as they came: rows of `bf16` exactly, others (features, unit rows) rounded once. The state is carried in `f32`; the
//! update that writes it also writes its pairs, which the next chunk reads. `A` and the correction's scores are products of
//! the same rows; what they multiply, `U`, stays `f32`: the triangle is a tenth of the work, and pairs of `U` without
//! `F` would have to be made for it. The error is in `docs/numerics.md`.
//!
//! Decays by channel would have to round decayed rows, and spend their time in scores that are no matrix products:
//! they stay in `f32`, like steps, gradients and summaries.
//!
//! Measured: AVX512_BF16 on one Zen 4 core, `D = E = 128`, in L2, ns per token and head, best of 300 interleaved:
//!
//! | | `f32` | flag, `f32` rows | flag, `bf16` rows |
//! | --- | --- | --- | --- |
//! | `simple_gla` | 758 | 547 | 519 |
//! | `gated_delta_rule` | 1144 | 772 | 731 |
//! | `delta_rule` | 1113 | 752 | 716 |
//! | `linear`, with its denominator | 844 | 637 | 633 |
//!
//! What is left is not in products with the state: loads, stores, the triangle, the substitution, fetching ahead.
//!
//! *Tried and lost*: rows of `bf16` by way of `f32` rows, from which they are rounded back without loss (547 for 532 ns).

use super::features::{Side, Source};
use super::prepare::{Chunk, Prepared};
use super::recurrence::{Correction, Decay, Recurrence};
use super::tiles::Rows;
use super::{FeatureMap, Unit};
use crate::CHUNK;
use crate::kernel::pair_rows::{self, ZipArgs};
use crate::kernel::{matmul, matmul_bf16, scores};
use crate::simd::{Isa, has_bf16_dot};
use crate::tensor::DType;
use half::bf16;
use std::ptr;

/// Whether this machine and recurrence gain from it.
pub fn pays(isa: Isa, recurrence: &Recurrence) -> bool {
    has_bf16_dot(isa)
        && matches!(recurrence.decay, Decay::None | Decay::Head | Decay::Token)
        && matches!(recurrence.correction, Correction::None | Correction::Delta)
        && recurrence.features.map != FeatureMap::Exp
        && !recurrence.value_decay
        && !recurrence.bonus
}

impl Unit<'_> {
    /// Whether this call takes pairs.
    pub fn paired(&self) -> bool {
        self.geometry().dots && !self.call.step
    }

    fn state_pairs(&self, panel: usize) -> *mut u32 {
        let g = self.geometry();
        self.buffer(g.at.s_pairs + panel * g.m.div_ceil(2) * g.panel).cast()
    }

    /// Makes the pairs of the state that a run of tokens starts with.
    pub fn pair_state(&self) {
        let g = self.geometry();
        for panel in if self.paired() { self.panels.clone() } else { 0..0 } {
            let (src, dst) = (self.state_panel(panel), self.state_pairs(panel));
            // SAFETY: panels are [m, panel], their pairs [⌈m / 2⌉, panel].
            unsafe { self.pair(src, (g.m, g.panel), ptr::null(), dst) }
        }
    }

    /// Pairs of packed rows with a factor each; `d` columns, also the elements between rows.
    ///
    /// # Safety
    /// `src` is `[n, d]`, `factor` `[n]` or null, `dst` `[⌈n / 2⌉, d]`; `d` is a multiple of 16.
    unsafe fn pair(&self, src: *const f32, (n, d): (usize, usize), factor: *const f32, dst: *mut u32) {
        let sums = ptr::null_mut();
        // SAFETY: the caller's contract.
        unsafe { (self.tiles().pair_rows)(&pair_rows::Args { n, d, src, ld: d, factor, dst, ldd: d, sums }) }
    }

    /// Whether queries and keys are rows as they came, so that the query's factors can stand outside the products.
    fn plain_rows(&self) -> bool {
        let (recurrence, features) = (self.recurrence(), &self.recurrence().features);
        let plain = features.is_linear() && features.in_place() && features.row_scale[1] == 1.0;
        plain && !recurrence.convex && !recurrence.has_denominator()
    }

    /// What [`Unit::plain_rows`] leaves out of the queries.
    fn query_factor(&self) -> f32 {
        if self.plain_rows() {
            self.recurrence().features.row_scale[0] * self.recurrence().scale
        } else {
            1.0
        }
    }

    /// Prepares a chunk: rows in `bf16`, factors, scores, denominators.
    pub fn prepare_pairs(&self, p: &Prepared, chunk: &Chunk) {
        let g = self.geometry();
        let n_sets = if chunk.read { g.n_sets } else { 0 };
        let set16 = |set| p.q16.wrapping_add(set * CHUNK * g.ldm / 2).cast::<bf16>();
        let set32 = |set| p.q.wrapping_add(set * CHUNK * g.ldm);
        let plain = self.plain_rows();
        if !plain {
            self.load_features(p, chunk);
        }
        let alpha = self.load_gates(p, chunk);
        let rows = (chunk.n, g.ldm);
        // SAFETY: rows of features are [16, ldm], with zeros past the features; `q16`, `k16` hold as many `bf16`,
        // `k_pairs` pairs of them.
        unsafe {
            if chunk.write {
                self.load_correction(p, chunk);
                let k16 = p.k16.cast();
                match plain {
                    true => self.load16(&self.source(Side::Key, chunk), p.k, k16),
                    false => self.tiles().narrow(p.k, rows, g.ldm, k16),
                }
                let (dst, ld) = (p.k_pairs, g.ldm);
                (self.tiles().zip_rows)(&ZipArgs { n: chunk.n, d: ld, src: k16, ld, dst, ldd: ld });
            }
            for set in 0..n_sets {
                match plain {
                    true => self.load16(&self.source(Side::Query(set), chunk), set32(set), set16(set)),
                    false => self.tiles().narrow(set32(set), rows, g.ldm, set16(set)),
                }
            }
        }
        self.factors(p, chunk, alpha);
        if chunk.write && (chunk.read || self.recurrence().corrects()) {
            self.score_pairs(p, chunk, alpha);
        }
        if self.recurrence().has_denominator() {
            // It reads decayed rows.
            self.decay(p, chunk, alpha);
            self.denominators(p, chunk);
        }
    }

    /// Rows of a side in `bf16`: copied where they lie as such, otherwise by way of `wide`.
    ///
    /// # Safety
    /// `wide` and `dst` are [16, ldm].
    unsafe fn load16(&self, source: &Source, wide: *mut f32, dst: *mut bf16) {
        let (g, tiles, tensor) = (self.geometry(), self.tiles(), &source.tensor);
        let at = [self.sequence.batch, source.head, source.first];
        // SAFETY: the caller's contract; the tensor is [B, H, T, D] (checked) and the chunk lies in the sequence.
        unsafe {
            if tensor.dtype != DType::Bf16 || tensor.stride(3) != 1 {
                let rows = Rows::tokens(tensor, &at, (source.n, g.d));
                tiles.load(&rows, 1.0, ptr::null(), wide, g.ldm);
                return tiles.narrow(wide, (source.n, g.ldm), g.ldm, dst);
            }
            for i in 0..source.n {
                let src = tensor.at(&[at[0], at[1], at[2] + i, 0]).cast::<bf16>();
                let dst = dst.add(i * g.ldm);
                // Blocks of known size are copied in line.
                let whole = g.d - g.d % 32;
                for j in (0..whole).step_by(32) {
                    dst.add(j).cast::<[bf16; 32]>().write(src.add(j).cast::<[bf16; 32]>().read());
                }
                if whole < g.ldm {
                    ptr::copy_nonoverlapping(src.add(whole), dst.add(whole), g.d - whole);
                    ptr::write_bytes(dst.add(g.d), 0, g.ldm - g.d);
                }
            }
        }
    }

    /// Factors of rows, and the decay over the chunk.
    fn factors(&self, p: &Prepared, chunk: &Chunk, alpha: *const f32) {
        let g = self.geometry();
        // SAFETY: `factors` is [3, 16], `row` [16], `end` [ldm]; factors of tokens, if any, go up to `n`.
        unsafe {
            let alpha = |i: usize| if alpha.is_null() { 1.0 } else { *alpha.add(i) };
            let (read, erase, write) = (p.factors, p.factors.add(CHUNK), p.factors.add(2 * CHUNK));
            let gains = self.buffer(g.at.row);
            let mut prefix = 1.0;
            for i in 0..chunk.n {
                prefix *= alpha(i);
                *read.add(i) = prefix * self.query_factor();
                if self.recurrence().corrects() && chunk.write {
                    *erase.add(i) = prefix * *gains.add(i);
                }
            }
            let mut suffix = 1.0;
            for i in (0..chunk.n).rev() {
                *write.add(i) = suffix;
                suffix *= alpha(i);
            }
            std::slice::from_raw_parts_mut(p.end, g.ldm).fill(prefix);
        }
    }

    /// `A` of every set, and the scores of the correction.
    fn score_pairs(&self, p: &Prepared, chunk: &Chunk, alpha: *const f32) {
        let (g, tiles, n) = (self.geometry(), self.tiles(), chunk.n);
        let (kt, pairs) = (self.buffer(g.at.kt), g.ldm / 2);
        // SAFETY: `kt` has room for [ldm / 2, 16] pairs, scores are [16, 16], rows up to `n` are there, `row` is [2, 16].
        unsafe {
            let scale = self.buffer(g.at.row + CHUNK);
            std::slice::from_raw_parts_mut(scale, CHUNK).fill(self.query_factor());
            // Pairs of a row move as one.
            tiles.transpose(p.k16.cast(), (n, pairs), pairs, kt);
            let block = |x: *const u32, row: *const f32, strict, s: *mut f32| {
                let mut product = matmul_bf16::Args::product(n, CHUNK, pairs, s, CHUNK as isize);
                (product.a, product.lda) = (x, pairs);
                (product.b, product.ldb) = (kt.cast(), CHUNK);
                (tiles.matmul_bf16)(&product);
                let (x, ldx, kt) = (ptr::null(), 0, ptr::null());
                (tiles.scores_token)(&scores::TokenArgs { n, d: 0, x, ldx, kt, alpha, row, strict, s });
            };
            for set in 0..if chunk.read { g.n_sets } else { 0 } {
                let q = p.q16.add(set * CHUNK * pairs);
                block(q, scale, false, p.a.add(set * CHUNK * CHUNK));
            }
            if self.recurrence().corrects() {
                block(p.k16, self.buffer(g.at.row), true, p.correction);
            }
        }
    }

    /// A product with a panel of the state: `t` as it stands, or on pairs of `rows`, each with its factor.
    ///
    /// # Safety
    /// `t` keeps the contract of its tile; `rows` and `factors` are those of its rows, if [`Unit::paired`].
    pub unsafe fn read_state(&self, panel: usize, t: &matmul::Args, rows: *const u32, factors: *const f32) {
        let g = self.geometry();
        // SAFETY: the caller's contract.
        unsafe {
            if !self.paired() {
                return (self.tiles().matmul)(t);
            }
            (self.tiles().matmul_bf16)(&matmul_bf16::Args {
                a: rows,
                lda: g.ldm / 2,
                b: self.state_pairs(panel),
                ldb: g.panel,
                mid: factors,
                l: t.l,
                ldl: t.ldl,
                u: t.u,
                ldu: t.ldu,
                post: t.post,
                ..around(t, g.m.div_ceil(2))
            });
        }
    }

    /// The update of a panel of the state, from row `first` on: `t` as it stands, or on pairs of keys and values.
    ///
    /// # Safety
    /// `t` keeps the contract of its tile; with [`Unit::paired`] `first` is even or there are no rows, and the rows from 0 on come
    /// first.
    pub unsafe fn write_state(&self, panel: usize, t: &matmul::Args, p: &Prepared, first: usize) {
        let g = self.geometry();
        // SAFETY: the caller's contract.
        unsafe {
            if !self.paired() {
                return (self.tiles().matmul)(t);
            }
            let u = self.buffer(g.at.u_pairs).cast();
            if first == 0 {
                self.pair(self.buffer(g.at.u), (t.k, g.panel), p.factors.add(2 * CHUNK), u);
            }
            (self.tiles().matmul_bf16)(&matmul_bf16::Args {
                a: p.k_pairs.add(first),
                lda: g.ldm,
                a_by_columns: true,
                b: u,
                ldb: g.panel,
                packed: self.state_pairs(panel).add(first / 2 * g.panel),
                ldp: g.panel,
                ..around(t, t.k.div_ceil(2))
            });
        }
    }
}

/// What the tiles have in common.
fn around(t: &matmul::Args, pairs: usize) -> matmul_bf16::Args {
    let (c0, ldc0, pre) = (t.c0, t.ldc0, t.pre);
    matmul_bf16::Args { c0, ldc0, pre, ..matmul_bf16::Args::product(t.m, t.n, pairs, t.c, t.ldc) }
}
