//! Sizes and offsets of the backward pass's buffers.

use super::BLOCK;
use super::rounded::Waiting;
use super::weights::{Maps, Parameters};
use crate::CHUNK;
use crate::engine::linear::geometry::Geometry;
use crate::engine::linear::recurrence::{Decay, Recurrence};
use crate::engine::linear::{FeatureMap, Linear, norm};
use crate::error::Result;
use crate::kernel::products::lanes::LANES;
use crate::workspace::Carver;

/// Offsets of a worker's buffers, in elements; shapes in brackets, `C` = 16. Those of the forward pass come first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offsets {
    /// Coefficients of the reversed substitution `[BLOCK, C, C]`.
    pub reversed: usize,
    /// Corrected values of the panel in hand, then what second writes write `[BLOCK, writes · C, panel]`.
    pub u: usize,
    /// Gradients of its outputs before the normaliser `[BLOCK, sets, C, panel]`.
    pub dy: usize,
    /// Its state after each chunk `[BLOCK, m, panel]`.
    pub s: usize,
    /// Normaliser before each chunk `[BLOCK, ldm]`.
    pub z: usize,
    /// Gradients by channel of queries, keys (and second writes) and erase rows with their decay factors
    /// `[BLOCK, sets, ldm, C]`, `[BLOCK, writes, ldm, C]`, `[BLOCK, ldm, C]`.
    pub dq: usize,
    pub dk: usize,
    pub de: usize,
    /// Gradients of the scores `[BLOCK, writes, sets, C, C]`, and of those of the correction `[BLOCK, writes, C, C]`.
    pub da: usize,
    pub db: usize,
    /// What a chunk's end adds to the gradient of its log decays `[BLOCK, ldm]`.
    pub end: usize,
    /// The same in lanes that are still to be summed, for each channel if it has a decay of its own, else for all of
    /// them together; of each chunk, or where those follow (`early.rs`) of the block `[BLOCK or 1, end_rows, 16]`.
    pub end_lanes: usize,
    /// Gradients of the gains `[BLOCK, C]`.
    pub dgain: usize,
    /// Gradients of the state `[n_panels, m, panel]` and of the normaliser `[ldm]`.
    pub ds: usize,
    pub dz: usize,
    /// Transposes, each `[panel, C]`.
    pub dy_t: usize,
    pub u_t: usize,
    pub dr_t: usize,
    /// Gradients of a chunk's values, then of what second writes write `[writes · C, panel]`; those that were
    /// corrected in reverse order `[C, panel]`.
    pub du: usize,
    pub du_reversed: usize,
    /// Values, gates and other rows of a panel `[C, panel]`.
    pub rows: usize,
    pub more_rows: usize,
    /// Outputs of a chunk `[sets, C, panel]`, and their gradients with value decay.
    pub y: usize,
    pub dy_decayed: usize,
    /// Decay of a panel's value channels `[C, panel]`, and what a chunk's end adds to its gradient `[panel]`.
    pub gamma: usize,
    pub gamma_end: usize,
    /// Features without decay, second writes below the keys, and gradients by row `[sets, C, ldm]`,
    /// `[writes · C, ldm]`, `[C, ldm]`.
    pub q: usize,
    pub k: usize,
    pub erase: usize,
    pub dq_rows: usize,
    pub dk_rows: usize,
    pub de_rows: usize,
    pub dg_rows: usize,
    /// Gradient of the bonus from one chunk `[ldm]`.
    pub dbonus: usize,
    /// Rows as the caller gave them, and their normalised form `[C, max(ldm, ldd)]`.
    pub raw: usize,
    pub unit: usize,
    /// A transposed block `[C, C]`.
    pub tile: usize,
    /// Numbers per token `[4, C]`.
    pub token: usize,
    /// Weights of the output norm `[panel]`.
    pub weight: usize,
    /// What other heads left in a shared gradient `[C, max(ldm, panel, ldw)]`.
    pub sum: usize,
    /// What feature maps need.
    pub maps: Maps,
}

/// Buffers of one worker.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub at: Offsets,
    /// Elements of all but the stored states.
    pub len: usize,
    /// Elements of a stored state: panels, then the normaliser, then the shift of the map `exp`.
    pub state_len: usize,
    /// Rows of what is still to be summed of a chunk's end.
    pub end_rows: usize,
    /// Elements of the bonus's gradient.
    pub bonus_len: usize,
    /// Sums over tokens for the gradients of what feature maps share between them, of a unit.
    pub parameters: Parameters,
    /// Elements of those for the weights of an output norm.
    pub norm_len: usize,
}

impl Layout {
    /// Buffers for this blocking, whose chunks are [`BLOCK`].
    pub fn new(recurrence: &Recurrence, g: &Geometry) -> Result<Layout> {
        let Geometry { m, e, ldm, n_sets, panel, n_panels, .. } = *g;
        let (ldd, ldw) = (g.at.features.ldd, g.at.features.ldw);
        let mut carver = Carver::default();
        carver.take(&[g.len]);
        let corrects = usize::from(recurrence.corrects());
        let value_decay = usize::from(recurrence.value_decay);
        let (writes, bonus) = (recurrence.writes(), usize::from(recurrence.bonus));
        // A shift is a decay per channel.
        let shifts = recurrence.features.map == FeatureMap::Exp;
        let end_rows = if recurrence.decay == Decay::Channel || shifts { m } else { 1 };
        // Whether decay of values or gates as factors are bound is known by the call only.
        let follow = !(recurrence.corrects() || recurrence.value_decay || recurrence.convex || shifts);
        let ends = if follow { 1 } else { BLOCK };
        let at = Offsets {
            reversed: carver.take(&[corrects * BLOCK, CHUNK, CHUNK]),
            u: carver.take(&[BLOCK, writes * CHUNK, panel]),
            dy: carver.take(&[BLOCK, n_sets, CHUNK, panel]),
            s: carver.take(&[BLOCK, m, panel]),
            z: carver.take(&[BLOCK, ldm]),
            dq: carver.take(&[BLOCK, n_sets, ldm, CHUNK]),
            dk: carver.take(&[BLOCK, writes, ldm, CHUNK]),
            de: carver.take(&[corrects * BLOCK, ldm, CHUNK]),
            da: carver.take(&[BLOCK, writes * n_sets, CHUNK, CHUNK]),
            db: carver.take(&[corrects * BLOCK, writes, CHUNK, CHUNK]),
            end: carver.take(&[BLOCK, ldm]),
            end_lanes: carver.take(&[ends, end_rows, LANES]),
            dgain: carver.take(&[BLOCK, CHUNK]),
            ds: carver.take(&[n_panels, m, panel]),
            dz: carver.take(&[ldm]),
            dy_t: carver.take(&[panel, CHUNK]),
            u_t: carver.take(&[panel, CHUNK]),
            dr_t: carver.take(&[corrects * panel, CHUNK]),
            du: carver.take(&[writes * CHUNK, panel]),
            du_reversed: carver.take(&[corrects * CHUNK, panel]),
            rows: carver.take(&[CHUNK, panel]),
            more_rows: carver.take(&[CHUNK, panel]),
            y: carver.take(&[n_sets, CHUNK, panel]),
            dy_decayed: carver.take(&[value_decay * n_sets, CHUNK, panel]),
            gamma: carver.take(&[value_decay * CHUNK, panel]),
            gamma_end: carver.take(&[value_decay * panel]),
            q: carver.take(&[n_sets, CHUNK, ldm]),
            k: carver.take(&[writes * CHUNK, ldm]),
            erase: carver.take(&[corrects * CHUNK, ldm]),
            dq_rows: carver.take(&[n_sets, CHUNK, ldm]),
            dk_rows: carver.take(&[writes * CHUNK, ldm]),
            de_rows: carver.take(&[corrects * CHUNK, ldm]),
            dg_rows: carver.take(&[CHUNK, ldm]),
            dbonus: carver.take(&[bonus * ldm]),
            raw: carver.take(&[CHUNK, ldm.max(ldd)]),
            unit: carver.take(&[CHUNK, ldm.max(ldd)]),
            tile: carver.take(&[CHUNK, CHUNK]),
            token: carver.take(&[4, CHUNK]),
            weight: carver.take(&[panel]),
            sum: carver.take(&[CHUNK, ldm.max(panel).max(ldd).max(ldw)]),
            maps: Maps::carve(&mut carver, &recurrence.features, g),
        };
        // The normaliser, and a shift.
        let rows = if shifts { 2 } else { 1 };
        let (state_len, bonus_len) = (n_panels * m * panel + rows * ldm, bonus * ldm);
        let parameters = Parameters::new(&recurrence.features, g);
        let norm_len = if norm::wanted(recurrence) { 2 * n_sets * e } else { 0 };
        Ok(Layout { at, len: carver.finish()?, state_len, end_rows, bonus_len, parameters, norm_len })
    }
}

/// What per-head parameters get from one unit, in `f64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    /// The decay rate.
    Rate,
    /// `d_skip`.
    Skip,
    /// `dt_bias`.
    Bias,
}

/// Elements that the sums of a unit take.
pub const SUMS: usize = 16;

/// The workspace of one call: sums of the units, their bonuses, sums of output rows and of parameters, gradients that
/// wait to be rounded, then the workers' buffers.
#[derive(Clone, Copy, Debug)]
pub struct Regions {
    /// Sums `[sequences, Hs, SUMS]`.
    pub sums: usize,
    /// Gradients of the bonus from one unit, in `f64`, `[sequences, Hs, 2 · ldm]`; nothing without a bonus.
    pub bonus: usize,
    /// Elements of one unit there.
    pub bonus_len: usize,
    /// Of each row of the output, for its norm, `Σ y²` and `Σ y·do` `[sequences, n_q, Ho, 2]`.
    pub rows: usize,
    /// Elements of `rows` of one sequence.
    pub rows_len: usize,
    /// Sums of the parameters of feature maps, then of the norm's weights `[sequences, Hs, parameters_len]`.
    pub parameters: usize,
    /// Where in those of a unit the latter begin: in `f64`, `[sets, E]`.
    pub norm: usize,
    pub parameters_len: usize,
    /// Gradients of 16-bit rows that are added up as `f32`.
    pub waiting: Waiting,
    /// The first worker's buffers, and the elements of each.
    pub workers: usize,
    pub worker_len: usize,
    /// Elements in all.
    pub len: usize,
}

impl Regions {
    /// # Errors
    /// A size that overflows.
    pub fn new(
        layout: &Layout,
        engine: &Linear,
        sequences: usize,
        (n_q, n_k): (usize, usize),
        workers: usize,
    ) -> Result<Regions> {
        let (normed, heads) = (norm::wanted(&engine.recurrence), &engine.heads);
        let mut one = Carver::default();
        one.take(&[layout.len]);
        // Only tokens that are read and written need states: there are as many queries as keys among those.
        one.take(&[n_q.min(n_k).div_ceil(BLOCK * CHUNK), layout.state_len]);
        let worker_len = one.finish()?;
        let mut all = Carver::default();
        let sums = all.take(&[sequences, heads.state, SUMS]);
        let bonus_len = 2 * layout.bonus_len;
        let bonus = all.take(&[sequences, heads.state, bonus_len]);
        let mut row = Carver::default();
        row.take(&[if normed { n_q } else { 0 }, heads.out, 2]);
        let rows_len = row.finish()?;
        let rows = all.take(&[sequences, rows_len]);
        let mut unit = Carver::default();
        unit.take(&layout.parameters.shape());
        let norm = unit.take(&[layout.norm_len]);
        let parameters_len = unit.finish()?;
        let parameters = all.take(&[sequences, heads.state, parameters_len]);
        let waiting = engine.carve_sums(&mut all, sequences, (n_q, n_k));
        let first = all.take(&[workers, worker_len]);
        let len = all.finish()?;
        Ok(Regions {
            sums,
            bonus,
            bonus_len,
            rows,
            rows_len,
            parameters,
            norm,
            parameters_len,
            waiting,
            workers: first,
            worker_len,
            len,
        })
    }
}
