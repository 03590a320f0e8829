//! Doubly normalised attention (`docs/spec/softmax.md` 8): sums over the queries first, then softmaxes of what they leave.
//!
//! ```text
//! c_s = ln Σ_t e^{X_ts}                         the same loop, queries and keys exchanged, no values
//! o_t = Σ_s softmax_s(X_ts − c_s) v_s           blended with Σ_s softmax_s(X_ts) v_s
//! ```
//!
//! The sums of a query head are as many as its keys. A table of [`TABLE`] of them takes turns with the softmaxes that
//! read them, as many heads at a time as it holds: memory does not depend on the length, which it bounds. Chunks of 64
//! sums, as many as a tile has keys, lie with the workers in turn.

use super::call::Call;
use super::rows::{Grid, KEYS, Unit};
use super::{Attention, Form, Softmax, tile};
use crate::error::{Error, Result};
use crate::parallel::{self, Runner};
use crate::workspace::Workspace;
use std::ops::Range;

/// Sums that the table holds: 1 MiB, and the most keys of a sequence.
pub const TABLE: usize = 1 << 18;
const CHUNKS: usize = TABLE / KEYS;

/// Chunks of the table that lie with one of so many workers.
pub fn chunks(workers: usize) -> usize {
    CHUNKS.div_ceil(workers)
}

/// Sums over the queries, by query head and key.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    memory: Workspace,
    /// Where the chunks begin in a worker's memory.
    at: usize,
    workers: usize,
    /// Chunks of a head.
    chunks: usize,
    /// The first head, of all sequences.
    first: usize,
}

impl Columns {
    /// Those of one head, by its number among those of all sequences, which follow each other from an element on.
    pub fn of_head(memory: Workspace, at: usize, keys: usize, head: usize) -> Columns {
        Columns { memory, at, workers: 1, chunks: keys.div_ceil(KEYS), first: head }
    }

    /// The sum of a key of a head; the rest of its 64 follow it.
    pub fn at(&self, head: usize, key: usize) -> *mut f32 {
        let chunk = (head - self.first) * self.chunks + key / KEYS;
        let base = self.memory.worker(chunk % self.workers);
        base.wrapping_add(self.at + chunk / self.workers * KEYS + key % KEYS)
    }
}

/// Runs a call.
pub fn run(engine: &Softmax, runner: &dyn Runner, call: &Call, workspace: &Workspace) -> Result<()> {
    let chunks = call.sequences.longest().1.div_ceil(KEYS).max(1);
    if chunks > CHUNKS {
        return Err(Error::Internal("a sequence has more keys than the table of sums"));
    }
    let form = if call.blend.is_some() { Form::Blend } else { Form::Plain };
    let rows = Softmax { settings: Attention { form, ..engine.settings }, ..engine.clone() };
    let settings = Attention { form: Form::Plain, ..engine.settings };
    let heads = (engine.heads.0, engine.heads.0);
    let sums = Softmax { settings, heads, shared: engine.sets(), ..engine.clone() };
    let (n, at_once) = (call.sequences.len() * engine.heads.0, CHUNKS / chunks);
    for first in (0..n).step_by(at_once) {
        let heads = first..(first + at_once).min(n);
        let (memory, at, workers) = (*workspace, engine.at.columns, engine.workers);
        let columns = Columns { memory, at, workers, chunks, first };
        pass(&sums, runner, &call.exchanged(columns), &heads, workspace)?;
        pass(&rows, runner, &Call { columns: Some(columns), ..*call }, &heads, workspace)?;
    }
    Ok(())
}

/// These query heads, of all sequences.
fn pass(
    engine: &Softmax,
    runner: &dyn Runner,
    call: &Call,
    heads: &Range<usize>,
    workspace: &Workspace,
) -> Result<()> {
    let grid = Grid::new(engine, call);
    let tiles = grid.tiles_of_head(engine);
    parallel::run(runner, heads.len() * tiles, &|task, worker| {
        let Some(unit) = Unit::new(engine, call, &grid, heads.start * tiles + task) else { return };
        tile::run(&unit, workspace.worker(worker), 0, None);
    })
}
