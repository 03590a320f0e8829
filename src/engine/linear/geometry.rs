//! Blocking: sizes that a plan fixes, and the offsets of a worker's buffers.

use super::normed::SEGMENT;
use super::recurrence::Normaliser;
use super::{Recurrence, features, norm};
use crate::CHUNK;
use crate::context::Caches;
use crate::engine::Extents;
use crate::engine::call::Heads;
use crate::error::Result;
use crate::tensor::DType;
use crate::workspace::Carver;

/// Sizes of one plan's blocking. Leading dimensions are multiples of 16 elements.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Channels of a row of `q` and `k`.
    pub d: usize,
    /// Features of such a row: rows of the state.
    pub m: usize,
    /// Value channels: columns of the state.
    pub e: usize,
    /// Elements between packed rows of features.
    pub ldm: usize,
    /// Queries that share a state.
    pub n_sets: usize,
    /// Value columns of a panel; also the elements between its rows.
    pub panel: usize,
    /// Panels of a state.
    pub n_panels: usize,
    /// Chunks that are prepared before the panels run over them.
    pub chunks: usize,
    /// Whether products with the state take pairs of `bf16` (`dots.rs`).
    pub dots: bool,
    /// Whether outputs are normalised segment by segment, before they are rounded (`normed.rs`).
    pub normed: bool,
    /// State heads of one task: one, unless a norm mixes all heads before the output is rounded.
    pub heads: usize,
    /// Elements of what one of these carries from token to token: state, normaliser and shift.
    pub carried: usize,
    /// Elements of one worker's buffers.
    pub len: usize,
    /// Where each buffer begins.
    pub at: Offsets,
}

/// Offsets of a worker's buffers, in elements; shapes in brackets, `C` = 16.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offsets {
    /// Queries with prefix decay `[chunks, sets, C, ldm]`.
    pub q: usize,
    /// Keys with suffix decay, then second writes `[chunks, writes · C, ldm]`.
    pub k: usize,
    /// Rows that read the correction, with prefix decay and sign `[chunks, C, ldm]`.
    pub erase: usize,
    /// Scores `[chunks, sets, C, C]`.
    pub a: usize,
    /// Scores with the second writes `[chunks, sets, C, C]`.
    pub a_second: usize,
    /// What each correction takes over from those before it: `−B`, or `M` of two writes `[chunks, C, C]`.
    pub correction: usize,
    /// What it takes over from the values before it: `N` of two writes `[chunks, C, C]`.
    pub inflow: usize,
    /// Decay over a chunk `[chunks, ldm]`.
    pub end: usize,
    /// Reciprocal denominators `[chunks, sets, C]`.
    pub inv_den: usize,
    /// Gains `[chunks, C]`.
    pub gain: usize,
    /// Decay of value channels `[chunks, C, e16]`.
    pub gamma: usize,
    /// Its product over a chunk `[panel]`.
    pub gamma_end: usize,
    /// Decay factors of the chunk in preparation `[C, ldm]`.
    pub alpha: usize,
    /// Its keys by channel `[ldm, C]`.
    pub kt: usize,
    /// Scratch of the vector-decay scores `[ldm, C]`.
    pub decayed: usize,
    /// Negated gains `[C]`, then one factor `C` times.
    pub row: usize,
    /// Bonus of the current token `[ldm]`.
    pub bonus: usize,
    /// Values of a chunk, then what its second writes write `[writes · C, panel]`, or of a step `[writes, e16]`.
    pub u: usize,
    /// Values without gain, or gains by value channel `[C, panel]`, or of a step `[e16]`.
    pub x: usize,
    /// Outputs `[sets, C, panel]`, or of a step `[sets, e16]`.
    pub y: usize,
    /// State `[n_panels, m, panel]`, of the first head of the task; those of the next are `carried` further.
    pub state: usize,
    /// Normaliser `[ldm]`; the same.
    pub z: usize,
    /// Log shift per feature `[ldm]`, and the shift a chunk ends with `[ldm]`; the same.
    pub shift: usize,
    /// Decay over all chunks `[ldm]`.
    pub transition: usize,
    /// Factor of the denominator's epsilon `[sets, C]`.
    pub eps_factor: usize,
    /// A row of outputs, of gates and of weights for the output norm `[3, Ho · e16]`.
    pub norm: usize,
    /// Outputs that wait for their norm, before they are rounded `[Ho, SEGMENT, e]`.
    pub rows: usize,
    /// Queries in `bf16` `[chunks, sets, C, ldm / 2]`, pairs counted; only with `dots`, like the next five.
    pub q16: usize,
    /// Keys in `bf16` `[chunks, C, ldm / 2]`.
    pub k16: usize,
    /// Pairs of keys `[chunks, C / 2, ldm]`.
    pub k_pairs: usize,
    /// Factors of queries, of rows that read the correction, of what is written `[chunks, 3, C]`.
    pub factors: usize,
    /// Pairs of the values of a chunk `[C / 2, panel]`.
    pub u_pairs: usize,
    /// Pairs of rows of the state `[n_panels, ⌈m / 2⌉, panel]`.
    pub s_pairs: usize,
    /// What feature maps need.
    pub features: features::Layout,
}

impl Geometry {
    /// Blocking for a state of `d` (before features) by `e`.
    ///
    /// The panel is as wide as keeps the state panel in two thirds of L1 (`docs/spec/linear.md` 1.6), evened out
    /// over the panels, and at least two AVX-512 vectors, which the matrix tile wants. Chunks are prepared in
    /// blocks of at most 4 that fill at most half of L2: longer blocks gained nothing measurable and leave less
    /// room for the rows fetched ahead. With a single panel there is nothing to reuse, and a block is one chunk.
    pub fn new(recurrence: &Recurrence, extents: &Extents, caches: Caches) -> Result<Geometry> {
        let Extents { heads, d, e, dtype_out, bf16_dot, .. } = *extents;
        let normed = dtype_out != DType::F32 && norm::wanted(recurrence);
        let mixes_heads = matches!(recurrence.normaliser, Normaliser::SrmsAll { .. });
        let heads_of_task = if normed && mixes_heads { heads.state } else { 1 };
        let m = recurrence.n_features(d);
        let ldm = m.next_multiple_of(16);
        let e16 = e.next_multiple_of(16);
        let widest = (caches.l1 * 2 / 3 / 4 / m / 16 * 16).clamp(32, 256);
        let n_panels = e16.div_ceil(widest);
        let panel = e.div_ceil(n_panels).next_multiple_of(16);
        let n_panels = e16.div_ceil(panel);
        let n_sets = heads.sets();
        let writes = recurrence.writes();
        let per_chunk = 4 * CHUNK * (ldm * (n_sets + 1 + writes) + CHUNK * (n_sets + 1) * writes);
        let chunks = if n_panels == 1 { 1 } else { (caches.l2 / 2 / per_chunk).clamp(1, 4) };
        let geometry = Geometry {
            d,
            m,
            e,
            ldm,
            n_sets,
            panel,
            n_panels,
            chunks,
            dots: bf16_dot,
            normed,
            heads: heads_of_task,
            carried: 0,
            len: 0,
            at: Offsets::default(),
        };
        geometry.carve(recurrence, &heads)
    }

    /// The same blocking with so many chunks prepared at a time, for gradients: all in `f32`, one head at a time, no
    /// outputs.
    pub fn with_chunks(self, recurrence: &Recurrence, heads: &Heads, chunks: usize) -> Result<Geometry> {
        Geometry { chunks, dots: false, normed: false, heads: 1, ..self }.carve(recurrence, heads)
    }

    fn carve(self, recurrence: &Recurrence, heads: &Heads) -> Result<Geometry> {
        let Geometry { d, m, e, ldm, n_sets, panel, n_panels, chunks, .. } = self;
        let (e16, writes) = (e.next_multiple_of(16), recurrence.writes());
        let paired = if self.dots { chunks } else { 0 };
        let mut carver = Carver::default();
        let mut own = Carver::default();
        let (state, z, shift) = (own.take(&[n_panels, m, panel]), own.take(&[ldm]), own.take(&[2, ldm]));
        let carried = own.finish()?;
        let first = carver.take(&[self.heads, carried]);
        let at = Offsets {
            q: carver.take(&[chunks, n_sets, CHUNK, ldm]),
            k: carver.take(&[chunks, writes * CHUNK, ldm]),
            erase: carver.take(&[if recurrence.corrects() { chunks } else { 0 }, CHUNK, ldm]),
            a: carver.take(&[chunks, n_sets, CHUNK, CHUNK]),
            a_second: carver.take(&[chunks * (writes - 1), n_sets, CHUNK, CHUNK]),
            correction: carver.take(&[chunks, CHUNK, CHUNK]),
            inflow: carver.take(&[chunks * (writes - 1), CHUNK, CHUNK]),
            end: carver.take(&[chunks, ldm]),
            inv_den: carver.take(&[chunks, n_sets, CHUNK]),
            gain: carver.take(&[chunks, CHUNK]),
            gamma: carver.take(&[if recurrence.value_decay { chunks } else { 0 }, CHUNK, e16]),
            gamma_end: carver.take(&[panel]),
            alpha: carver.take(&[CHUNK, ldm]),
            kt: carver.take(&[ldm, CHUNK]),
            decayed: carver.take(&[ldm, CHUNK]),
            row: carver.take(&[2, CHUNK]),
            bonus: carver.take(&[if recurrence.bonus { ldm } else { 0 }]),
            u: carver.take(&[writes, (CHUNK * panel).max(e16)]),
            x: carver.take(&[(CHUNK * panel).max(e16)]),
            y: carver.take(&[n_sets, (CHUNK * panel).max(e16)]),
            state: first + state,
            z: first + z,
            shift: first + shift,
            transition: carver.take(&[ldm]),
            eps_factor: carver.take(&[n_sets, CHUNK]),
            norm: carver.take(&[3, heads.out, e16]),
            rows: carver.take(&[if self.normed { heads.out } else { 0 }, SEGMENT, e]),
            q16: carver.take(&[paired, n_sets, CHUNK, ldm / 2]),
            k16: carver.take(&[paired, CHUNK, ldm / 2]),
            k_pairs: carver.take(&[paired, CHUNK / 2, ldm]),
            factors: carver.take(&[paired, 3, CHUNK]),
            u_pairs: carver.take(&[if self.dots { CHUNK / 2 } else { 0 }, panel]),
            s_pairs: carver.take(&[if self.dots { n_panels } else { 0 }, m.div_ceil(2), panel]),
            features: features::Layout::carve(&mut carver, &recurrence.features, d, n_sets),
        };
        Ok(Geometry { len: carver.finish()?, carried, at, ..self })
    }

    /// Columns of panel `p` that exist.
    pub fn columns(&self, p: usize) -> usize {
        self.panel.min(self.e - p * self.panel)
    }
}
