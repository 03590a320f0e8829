//! Preparation of one chunk: everything that does not depend on the value columns.

use super::recurrence::{Decay, DenominatorMode, FeatureMap, Gain, Normaliser};
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

/// Addresses of a prepared chunk's operands.
#[derive(Clone, Copy)]
pub struct Prepared {
    pub q: *mut f32,
    pub k: *mut f32,
    pub erase: *mut f32,
    pub a: *mut f32,
    pub correction: *mut f32,
    pub end: *mut f32,
    pub inv_den: *mut f32,
    pub gain: *mut f32,
    pub gamma: *mut f32,
}

impl Unit<'_> {
    /// Where slot `c` of the block keeps its operands.
    pub fn prepared(&self, c: usize) -> Prepared {
        let (g, at) = (self.geometry(), &self.geometry().at);
        let rows = CHUNK * g.ldm;
        Prepared {
            q: self.buffer(at.q + c * g.n_sets * rows),
            k: self.buffer(at.k + c * rows),
            erase: self.buffer(at.erase + c * rows),
            a: self.buffer(at.a + c * g.n_sets * CHUNK * CHUNK),
            correction: self.buffer(at.correction + c * CHUNK * CHUNK),
            end: self.buffer(at.end + c * g.ldm),
            inv_den: self.buffer(at.inv_den + c * g.n_sets * CHUNK),
            gain: self.buffer(at.gain + c * CHUNK),
            gamma: self.buffer(at.gamma + c * CHUNK * g.e.next_multiple_of(16)),
        }
    }

    /// Whether the state decays from chunk to chunk, so that `Prepared::end` is read.
    pub fn decays(&self) -> bool {
        self.recurrence().decay != Decay::None || self.recurrence().features.map == FeatureMap::Exp
    }

    /// Prepares slot `c`. Returns the chunk as it was done, which may be shorter than asked for.
    pub fn prepare(&self, c: usize, mut chunk: Chunk) -> Chunk {
        let p = self.prepared(c);
        if chunk.write {
            self.load_keys(&p, &chunk);
        }
        if chunk.read {
            self.load_queries(&p, &chunk);
        }
        if self.recurrence().features.map == FeatureMap::Exp {
            chunk.n = shift::apply(self, &p, &chunk);
        }
        let alpha = self.load_gates(&p, &chunk);
        if chunk.read && chunk.write && chunk.n == 1 {
            self.score_of_one(&p);
        } else if chunk.read && chunk.write {
            self.scores(&p, &chunk, alpha);
        }
        self.decay(&p, &chunk, alpha);
        if self.recurrence().has_denominator() {
            self.denominators(&p, &chunk);
        }
        chunk
    }

    fn load_keys(&self, p: &Prepared, chunk: &Chunk) {
        let (g, tiles) = (self.geometry(), self.tiles());
        let k = self.tensor(self.call.tensors.k);
        let head = self.shared_head(self.engine.heads.k);
        let rows = (chunk.n, g.d);
        // SAFETY: `plan::check` bound `k` as [B, Hk, S, D]; the chunk lies in the sequence. `p.k` is [16, ldm].
        unsafe {
            let at = [self.sequence.batch, head, chunk.k0];
            tiles.load(&Rows::tokens(&k, &at, rows), 1.0, ptr::null(), p.k, g.ldm);
            tiles.features(self.recurrence(), p.k, rows, g.ldm, 1.0);
        }
    }

    fn load_queries(&self, p: &Prepared, chunk: &Chunk) {
        let (g, tiles) = (self.geometry(), self.tiles());
        let q = self.tensor(self.call.tensors.q);
        let rows = (chunk.n, g.d);
        for set in 0..g.n_sets {
            let head = self.query_head(set);
            let dst = p.q.wrapping_add(set * CHUNK * g.ldm);
            // SAFETY: as in `load_keys`, with `q` [B, Hq, T, D] and `p.q` [sets, 16, ldm].
            unsafe {
                let at = [self.sequence.batch, head, chunk.q0];
                let (scale, features) = (self.recurrence().scale, &self.recurrence().features);
                let (early, late) = match features.map {
                    _ if features.is_linear() => (scale, 1.0),
                    // `shift.rs` makes the features, and scales them.
                    FeatureMap::Exp => (1.0, 1.0),
                    _ => (1.0, scale),
                };
                tiles.load(&Rows::tokens(&q, &at, rows), early, ptr::null(), dst, g.ldm);
                tiles.features(self.recurrence(), dst, rows, g.ldm, late);
            }
        }
    }

    /// Gains and decay factors. Returns the factors of [`decay_rows`], null if there are none.
    fn load_gates(&self, p: &Prepared, chunk: &Chunk) -> *const f32 {
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
                Gain::None => {}
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
            match (self.recurrence().decay, &tensors.g) {
                (Decay::None, _) if self.recurrence().features.map == FeatureMap::Exp => return alpha,
                (Decay::None, _) => return ptr::null(),
                (Decay::Head, Some(rate)) => {
                    let rate = per_head(rate);
                    (0..n).for_each(|i| *alpha.add(i) = rate);
                }
                (Decay::Channel, Some(rate)) => {
                    tiles.load(&Rows::tokens(rate, &at, (n, g.d)), 1.0, ptr::null(), alpha, g.ldm);
                    tiles.exp_in_place(alpha, n * g.ldm);
                    return alpha;
                }
                (_, Some(rate)) => per_token(rate, alpha),
                (_, None) => {
                    let rate = per_head(&self.tensor(tensors.decay_rate));
                    (0..n).for_each(|i| *alpha.add(i) = rate * *p.gain.add(i));
                }
            }
            tiles.exp_in_place(alpha, n);
        }
        alpha
    }

    /// The same for a single token: `A` is `q·k`, and nothing precedes it that could be corrected.
    fn score_of_one(&self, p: &Prepared) {
        let (g, block) = (self.geometry(), CHUNK * CHUNK);
        let dots = self.buffer(g.at.y);
        let args = denominator::Args {
            n: 1,
            d: g.m,
            ld: g.ldm,
            q: p.q,
            n_sets: g.n_sets,
            a: ptr::null(),
            den: dots,
            k: ptr::null(),
            end: ptr::null(),
            z: p.k,
        };
        // SAFETY: buffers have the extents that `Offsets` names; products and scores are both one set to 16.
        unsafe {
            (self.tiles().denominator)(&args);
            for set in 0..g.n_sets {
                ptr::write_bytes(p.a.add(set * block), 0, CHUNK);
                *p.a.add(set * block) = *dots.add(set * CHUNK);
            }
            if self.recurrence().correction {
                ptr::write_bytes(p.correction, 0, block);
                *self.buffer(g.at.row) = -*p.gain;
            }
        }
    }

    /// `A` of every set, and the negated `B` of the correction.
    fn scores(&self, p: &Prepared, chunk: &Chunk, alpha: *const f32) {
        let (g, tiles) = (self.geometry(), self.tiles());
        let kt = self.buffer(g.at.kt);
        let corrects = self.recurrence().correction;
        let row = self.buffer(g.at.row);
        let (n, d, ld) = (chunk.n, g.m, g.ldm);
        // SAFETY: buffers have the extents that `Offsets` names; rows up to `n` are loaded.
        unsafe {
            tiles.transpose(p.k, (n, d), ld, kt);
            if corrects {
                (0..n).for_each(|i| *row.add(i) = -*p.gain.add(i));
            }
            if self.recurrence().decay == Decay::Channel {
                for set in 0..g.n_sets {
                    let two = corrects && set == 0;
                    (tiles.scores_channel)(&scores::ChannelArgs {
                        n,
                        d,
                        alpha,
                        kt,
                        decayed: self.buffer(g.at.decayed),
                        x: p.q.add(set * CHUNK * ld),
                        s: p.a.add(set * CHUNK * CHUNK),
                        strict_x: if two { p.k } else { ptr::null() },
                        strict_row: row,
                        strict_s: p.correction,
                        ld,
                    });
                }
                return;
            }
            // The map `exp` decays the state before the chunk, not between its tokens.
            let alpha = if self.recurrence().decay == Decay::None { ptr::null() } else { alpha };
            let block = |x: *const f32, row: *const f32, strict, s| {
                (tiles.scores_token)(&scores::TokenArgs { n, d, x, ldx: ld, kt, alpha, row, strict, s });
            };
            for set in 0..g.n_sets {
                block(p.q.add(set * CHUNK * ld), ptr::null(), false, p.a.add(set * CHUNK * CHUNK));
            }
            if corrects {
                block(p.k, row, true, p.correction);
            }
        }
    }

    fn decay(&self, p: &Prepared, chunk: &Chunk, alpha: *const f32) {
        let g = self.geometry();
        // The only decay without gates is the shift of the map `exp`, a factor per channel.
        let by_channel = matches!(self.recurrence().decay, Decay::Channel | Decay::None);
        let args = decay_rows::Args {
            n: chunk.n,
            d: g.m,
            ld: g.ldm,
            alpha,
            by_channel,
            q: p.q,
            n_sets: if chunk.read { g.n_sets } else { 0 },
            k: p.k,
            erase: if self.recurrence().correction { p.erase } else { ptr::null_mut() },
            erase_row: self.buffer(g.at.row),
            end: p.end,
        };
        if chunk.write {
            // SAFETY: buffers have the extents that `Offsets` names, leading dimensions of whole vectors.
            unsafe { (self.tiles().decay_rows)(&args) }
        }
    }

    fn denominators(&self, p: &Prepared, chunk: &Chunk) {
        let g = self.geometry();
        let args = denominator::Args {
            n: chunk.n,
            d: g.m,
            ld: g.ldm,
            q: p.q,
            n_sets: if chunk.read { g.n_sets } else { 0 },
            a: if chunk.write { p.a } else { ptr::null() },
            den: p.inv_den,
            k: if chunk.write { p.k } else { ptr::null() },
            end: if self.decays() { p.end } else { ptr::null() },
            z: self.carried(g.at.z),
        };
        // SAFETY: buffers have the extents that `Offsets` names; padding of `q`, `k`, `z` is zero.
        unsafe { (self.tiles().denominator)(&args) }
        let Normaliser::Denominator { mode, eps } = self.recurrence().normaliser else { return };
        let shifted = self.recurrence().features.map == FeatureMap::Exp;
        for i in 0..args.n_sets * CHUNK {
            if i % CHUNK < chunk.n {
                // SAFETY: `inv_den` is [sets, 16].
                unsafe {
                    let den = p.inv_den.add(i);
                    // The factor overflows where all scores are tiny: 0 stays 0.
                    let scaled = shifted && eps != 0.0;
                    let eps = if scaled { eps * *self.buffer(g.at.eps_factor).add(i) } else { eps };
                    *den = 1.0 / if mode == DenominatorMode::Add { *den + eps } else { at_least(*den, eps) };
                }
            }
        }
    }

    /// A tensor that the plan made sure of.
    fn tensor(&self, tensor: Option<Tensor>) -> Tensor {
        tensor.expect("plan::check requires it")
    }
}

/// `max(x, floor)` that keeps NaN.
fn at_least(x: f32, floor: f32) -> f32 {
    if x < floor { floor } else { x }
}
