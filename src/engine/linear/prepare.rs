//! Preparation of one chunk: everything that does not depend on the value columns.

use super::features::FeatureMap;
use super::recurrence::{Correction, Decay, Gain};
use super::tiles::Rows;
use super::{Unit, shift};
use crate::CHUNK;
use crate::kernel::{decay_rows, denominator, elementwise, scores};
use crate::tensor::Tensor;
use std::ptr;

/// A chunk: where its tokens lie, and what is done with it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chunk {
    /// First query, as a token of the tensor.
    pub q0: usize,
    /// First key, as a token of the tensor.
    pub k0: usize,
    /// Tokens, 1 to 16.
    pub n: usize,
    /// Its queries read the state.
    pub read: bool,
    /// Its keys are written to the state.
    pub write: bool,
}

impl Chunk {
    /// The key past its last.
    pub fn end(&self) -> usize {
        self.k0 + self.n
    }
}

/// Addresses of a prepared chunk's operands.
#[derive(Clone, Copy)]
pub struct Prepared {
    pub q: *mut f32,
    pub k: *mut f32,
    pub erase: *mut f32,
    pub a: *mut f32,
    pub a_second: *mut f32,
    pub correction: *mut f32,
    pub inflow: *mut f32,
    pub end: *mut f32,
    pub inv_den: *mut f32,
    pub gain: *mut f32,
    pub gamma: *mut f32,
    pub q16: *mut u32,
    pub k16: *mut u32,
    pub k_pairs: *mut u32,
    pub factors: *mut f32,
}

impl Unit<'_> {
    /// Where slot `c` of the block keeps its operands.
    pub fn prepared(&self, c: usize) -> Prepared {
        let (g, at) = (self.geometry(), &self.geometry().at);
        let rows = CHUNK * g.ldm;
        Prepared {
            q: self.buffer(at.q + c * g.n_sets * rows),
            k: self.buffer(at.k + c * self.recurrence().writes() * rows),
            erase: self.buffer(at.erase + c * rows),
            a: self.buffer(at.a + c * g.n_sets * CHUNK * CHUNK),
            a_second: self.buffer(at.a_second + c * g.n_sets * CHUNK * CHUNK),
            correction: self.buffer(at.correction + c * CHUNK * CHUNK),
            inflow: self.buffer(at.inflow + c * CHUNK * CHUNK),
            end: self.buffer(at.end + c * g.ldm),
            inv_den: self.buffer(at.inv_den + c * g.n_sets * CHUNK),
            gain: self.buffer(at.gain + c * CHUNK),
            gamma: self.buffer(at.gamma + c * CHUNK * g.e.next_multiple_of(16)),
            q16: self.buffer(at.q16 + c * g.n_sets * rows / 2).cast(),
            k16: self.buffer(at.k16 + c * rows / 2).cast(),
            k_pairs: self.buffer(at.k_pairs + c * rows / 2).cast(),
            factors: self.buffer(at.factors + c * 3 * CHUNK),
        }
    }

    /// Whether the state decays from chunk to chunk, so that `Prepared::end` is read.
    pub fn decays(&self) -> bool {
        self.recurrence().decay != Decay::None || self.recurrence().features.map == FeatureMap::Exp
    }

    /// Whether a chunk's values are written to the state; if not, it only decays.
    pub fn writes_values(&self, chunk: &Chunk) -> bool {
        chunk.write && self.call.tensors.v.is_some()
    }

    /// Prepares slot `c`. Returns the chunk as it was done, which may be shorter than asked for.
    pub fn prepare(&self, c: usize, mut chunk: Chunk) -> Chunk {
        let p = self.prepared(c);
        if self.paired() {
            self.prepare_pairs(&p, &chunk);
            return chunk;
        }
        self.load_features(&p, &chunk);
        if self.recurrence().features.map == FeatureMap::Exp {
            chunk.n = shift::apply(self, &p, &chunk);
        }
        let alpha = self.load_gates(&p, &chunk);
        if chunk.write {
            self.load_correction(&p, &chunk);
        }
        let scored = self.writes_values(&chunk) && (chunk.read || self.recurrence().corrects());
        if scored && chunk.n == 1 {
            self.score_of_one(&p, &chunk);
        } else if scored {
            self.scores(&p, &chunk, alpha);
        }
        self.decay(&p, &chunk, alpha);
        if self.recurrence().has_denominator() {
            self.denominators(&p, &chunk);
        }
        chunk
    }

    /// Gains and decay factors. Returns the factors of [`decay_rows`], null if there are none.
    pub fn load_gates(&self, p: &Prepared, chunk: &Chunk) -> *const f32 {
        let (g, tiles, tensors) = (self.geometry(), self.tiles(), &self.call.tensors);
        let alpha = self.buffer(g.at.alpha);
        let (at, n) = ([self.sequence.batch, self.head, chunk.k0], chunk.n);
        if !chunk.write {
            return ptr::null();
        }
        // SAFETY: gates are [B, Hs, T] or [B, Hs, T, D] (checked), per-head factors [Hs]; `alpha` is
        // [16, ldm], `gain` and `row` [16], `gamma` [16, e16].
        unsafe {
            let per_token = |t: &Tensor, dst| tiles.gather(t, &at, 2, n, dst);
            let per_head = |t: &Tensor| tiles.value(t, &[self.head]);
            match self.recurrence().gain {
                // Gains by value channel go with the values, panel by panel.
                Gain::None | Gain::Write => {}
                Gain::Beta => per_token(&self.tensor(tensors.beta), p.gain),
                Gain::StepSize => match &tensors.dt {
                    Some(dt) => per_token(dt, p.gain),
                    None => {
                        per_token(&self.tensor(tensors.dt_raw), p.gain);
                        let bias = tensors.dt_bias.as_ref().map_or(0.0, per_head);
                        (0..n).for_each(|i| *p.gain.add(i) += bias);
                        (tiles.softplus)(&elementwise::Args { n, src: p.gain, dst: p.gain });
                    }
                },
            }
            if let Some(gv) = &tensors.gv {
                let ld = g.e.next_multiple_of(16);
                tiles.load(&Rows::tokens(gv, &at, (n, g.e)), 1.0, ptr::null(), p.gamma, ld);
                tiles.exp_in_place(p.gamma, n * ld);
            }
            let shifted = self.recurrence().features.map == FeatureMap::Exp;
            // Beside the shift of the map `exp`, factors of tokens go to a row of their own first.
            let factors = if shifted { self.buffer(g.at.row) } else { alpha };
            let fill = |x: f32| std::slice::from_raw_parts_mut(factors, n).fill(x);
            match (self.recurrence().decay, &tensors.g, &tensors.decay) {
                (Decay::None, ..) if shifted => return alpha,
                (Decay::None, ..) => return ptr::null(),
                (Decay::Channel, Some(rate), _) => {
                    tiles.load(&Rows::tokens(rate, &at, (n, g.d)), 1.0, ptr::null(), alpha, g.ldm);
                    tiles.exp_in_place(alpha, n * g.ldm);
                    return alpha;
                }
                (Decay::Head, Some(rate), _) => {
                    fill(per_head(rate));
                    tiles.exp_in_place(factors, n);
                }
                (Decay::Head, None, factor) => fill(factor.as_ref().map_or(1.0, per_head)),
                (_, Some(rate), _) => {
                    per_token(rate, factors);
                    self.complement(p, n, factors, |g| -g.exp_m1());
                    tiles.exp_in_place(factors, n);
                }
                (_, None, Some(factor)) => {
                    per_token(factor, factors);
                    self.complement(p, n, factors, |a| 1.0 - a);
                }
                (_, None, None) => {
                    let rate = per_head(&self.tensor(tensors.decay_rate));
                    (0..n).for_each(|i| *factors.add(i) = rate * *p.gain.add(i));
                    tiles.exp_in_place(factors, n);
                }
            }
            for i in 0..if shifted { n } else { 0 } {
                let row = std::slice::from_raw_parts_mut(alpha.add(i * g.ldm), g.m);
                row.iter_mut().for_each(|x| *x *= *factors.add(i));
            }
        }
        alpha
    }

    /// What a correction needs beside the keys, and the bonus. Erase rows come with their sign.
    pub fn load_correction(&self, p: &Prepared, chunk: &Chunk) {
        let (g, tiles, tensors) = (self.geometry(), self.tiles(), &self.call.tensors);
        let (at, n, ld) = ([self.sequence.batch, self.head, chunk.k0], chunk.n, g.ldm);
        // SAFETY: `erase`, `a`, `b` are [B, Hs, T, D], the bonus [Hs, D] (checked); `erase` is [16, ldm], `k` as
        // many for each write, `row` [16], `bonus` [ldm].
        unsafe {
            let load = |tensor: Option<Tensor>, scale: f32, dst: *mut f32| {
                let tensor = self.tensor(tensor);
                tiles.load(&Rows::tokens(&tensor, &at, (n, g.d)), scale, ptr::null(), dst, ld);
            };
            match self.recurrence().correction {
                Correction::None => {}
                Correction::Delta => {
                    let row = self.buffer(g.at.row);
                    (0..n).for_each(|i| *row.add(i) = -*p.gain.add(i));
                }
                Correction::Erase => {
                    load(tensors.erase, -1.0, p.erase);
                    (tiles.product)(&elementwise::Args { n: n * ld, src: p.k, dst: p.erase });
                }
                Correction::TwoWrites => {
                    load(tensors.a, 1.0, p.erase);
                    load(tensors.b, 1.0, p.k.add(n * ld));
                }
            }
            if self.recurrence().bonus {
                let bonus = self.tensor(tensors.bonus);
                let at = [self.head, 0];
                let row = Rows { tensor: &bonus, at: &at, rows: 0, columns: 1, n: 1, d: g.d };
                tiles.load(&row, 1.0, ptr::null(), self.buffer(g.at.bonus), ld);
            }
        }
    }

    /// Where keys take `1 − α` of the decay: that factor, from what decays are given as.
    ///
    /// # Safety
    /// `given` has `n` elements.
    unsafe fn complement(&self, p: &Prepared, n: usize, given: *const f32, of: impl Fn(f32) -> f32) {
        let g = self.geometry();
        for i in 0..if self.recurrence().convex { n } else { 0 } {
            // SAFETY: the caller's contract; `p.k` is [16, ldm].
            unsafe {
                let gain = of(*given.add(i));
                let key = std::slice::from_raw_parts_mut(p.k.add(i * g.ldm), g.m);
                key.iter_mut().for_each(|x| *x *= gain);
            }
        }
    }

    /// The scores of a single token: `A` is `q·k`, and nothing precedes it that could be corrected.
    fn score_of_one(&self, p: &Prepared, chunk: &Chunk) {
        let (g, block) = (self.geometry(), CHUNK * CHUNK);
        let n_sets = if chunk.read { g.n_sets } else { 0 };
        // SAFETY: buffers have the extents that `Offsets` names; rows are padded with zeros.
        unsafe {
            let mut key = p.k;
            if self.recurrence().bonus {
                key = self.buffer(g.at.bonus);
                (self.tiles().product)(&elementwise::Args { n: g.ldm, src: p.k, dst: key });
            }
            self.dots(p, n_sets, key, p.a);
            if self.recurrence().writes() == 2 {
                self.dots(p, n_sets, p.k.add(g.ldm), p.a_second);
            }
            if self.recurrence().corrects() {
                ptr::write_bytes(p.correction, 0, block);
            }
        }
    }

    /// `s[0, 0] = q·key` of so many sets, and zero in the rest of the row.
    ///
    /// # Safety
    /// `key` has `ldm` elements, those past the features zero; `s` is [sets, 16, 16].
    unsafe fn dots(&self, p: &Prepared, n_sets: usize, key: *mut f32, s: *mut f32) {
        let (g, block) = (self.geometry(), CHUNK * CHUNK);
        let dots = self.buffer(g.at.y);
        let args = denominator::Args {
            n: 1,
            d: g.m,
            ld: g.ldm,
            q: p.q,
            n_sets,
            a: ptr::null(),
            den: dots,
            k: ptr::null(),
            end: ptr::null(),
            z: key,
        };
        // SAFETY: the caller's contract; products and scores are both one set to 16.
        unsafe {
            (self.tiles().denominator)(&args);
            for set in 0..n_sets {
                ptr::write_bytes(s.add(set * block), 0, CHUNK);
                *s.add(set * block) = *dots.add(set * CHUNK);
            }
        }
    }

    /// `A` of every set, and the scores of the correction.
    fn scores(&self, p: &Prepared, chunk: &Chunk, alpha: *const f32) {
        let (g, tiles) = (self.geometry(), self.tiles());
        let kt = self.buffer(g.at.kt);
        let correction = self.recurrence().correction;
        let row = self.buffer(g.at.row);
        let (n, d, ld) = (chunk.n, g.m, g.ldm);
        // SAFETY: buffers have the extents that `Offsets` names; rows up to `n` are loaded.
        unsafe {
            tiles.transpose(p.k, (n, d), ld, kt);
            let shifted = self.recurrence().features.map == FeatureMap::Exp;
            let decay = self.recurrence().decay;
            if decay == Decay::Channel || shifted && decay != Decay::None {
                if correction == Correction::TwoWrites {
                    self.scores_channel(p, chunk, alpha, p.a, p.inflow);
                    tiles.transpose(p.k.add(n * ld), (n, d), ld, kt);
                    self.scores_channel(p, chunk, alpha, p.a_second, p.correction);
                } else {
                    self.scores_channel(p, chunk, alpha, p.a, p.correction);
                }
                return;
            }
            // The map `exp` decays the state before the chunk, not between its tokens.
            let alpha = if decay == Decay::None { ptr::null() } else { alpha };
            let block = |x: *const f32, row: *const f32, strict, s| {
                (tiles.scores_token)(&scores::TokenArgs { n, d, x, ldx: ld, kt, alpha, row, strict, s });
            };
            for set in 0..if chunk.read { g.n_sets } else { 0 } {
                block(p.q.add(set * CHUNK * ld), ptr::null(), false, p.a.add(set * CHUNK * CHUNK));
            }
            if correction == Correction::Delta {
                block(p.k, row, true, p.correction);
            }
        }
    }

    /// Scores of the keys that `kt` holds: with the queries to `a`, with the erase rows to `strict_s`.
    ///
    /// # Safety
    /// Rows up to `n` are loaded; the scores are [sets, 16, 16] and [16, 16].
    unsafe fn scores_channel(
        &self,
        p: &Prepared,
        chunk: &Chunk,
        alpha: *const f32,
        a: *mut f32,
        strict_s: *mut f32,
    ) {
        let g = self.geometry();
        let correction = self.recurrence().correction;
        let (strict_x, strict_row) = match correction {
            Correction::None => (ptr::null_mut(), ptr::null_mut()),
            Correction::Delta => (p.k, self.buffer(g.at.row)),
            Correction::Erase | Correction::TwoWrites => (p.erase, ptr::null_mut()),
        };
        // Where nothing is read, the correction's scores still want rows beside theirs.
        let (n_sets, x) = if chunk.read { (g.n_sets, p.q) } else { (1, p.k) };
        for set in 0..n_sets {
            // SAFETY: the caller's contract; other buffers have the extents that `Offsets` names.
            unsafe {
                (self.tiles().scores_channel)(&scores::ChannelArgs {
                    n: chunk.n,
                    d: g.m,
                    alpha,
                    kt: self.buffer(g.at.kt),
                    decayed: self.buffer(g.at.decayed),
                    x: x.add(set * CHUNK * g.ldm),
                    s: a.add(set * CHUNK * CHUNK),
                    bonus: if self.recurrence().bonus { self.buffer(g.at.bonus) } else { ptr::null_mut() },
                    strict_x: if set == 0 { strict_x } else { ptr::null_mut() },
                    strict_pre: correction == Correction::TwoWrites,
                    strict_row,
                    strict_s,
                    ld: g.ldm,
                });
            }
        }
    }

    pub fn decay(&self, p: &Prepared, chunk: &Chunk, alpha: *const f32) {
        let g = self.geometry();
        // The shift of the map `exp` is a factor per channel.
        let shifted = self.recurrence().features.map == FeatureMap::Exp;
        let by_channel = shifted || matches!(self.recurrence().decay, Decay::Channel | Decay::None);
        let correction = self.recurrence().correction;
        let delta = correction == Correction::Delta;
        let args = decay_rows::Args {
            n: chunk.n,
            d: g.m,
            ld: g.ldm,
            alpha,
            by_channel,
            q: p.q,
            n_sets: if chunk.read { g.n_sets } else { 0 },
            q_pre: self.recurrence().bonus,
            k: p.k,
            k_sets: self.recurrence().writes(),
            erase: if correction == Correction::None { ptr::null_mut() } else { p.erase },
            erase_from: if delta { p.k } else { p.erase },
            erase_row: if delta { self.buffer(g.at.row) } else { ptr::null_mut() },
            erase_pre: correction == Correction::TwoWrites,
            end: p.end,
        };
        if chunk.write {
            // SAFETY: buffers have the extents that `Offsets` names, leading dimensions of whole vectors.
            unsafe { (self.tiles().decay_rows)(&args) }
        }
    }

    /// A tensor that the plan made sure of.
    pub fn tensor(&self, tensor: Option<Tensor>) -> Tensor {
        tensor.expect("plan::check requires it")
    }
}
