//! Keys that a forget gate has made light (`docs/spec/softmax.md` 4): which a row may do without.
//!
//! ```text
//! |X_ts| ≤ U_t = min(cap, scale ‖q_t‖ max_s ‖k_s‖)
//! a tile of keys is left out of row t if  G_e − G_s < tol − ln n − 2 U_t  for its last key s
//! ```
//!
//! with `e` the last key that the row sees of its `n`: a key that is left out has less than `e^tol / n` of the weight of
//! `e`, all of them less than `e^tol` of the row's. Log gates are at most 0, so what comes before such a tile is lighter
//! still, and a row reads on from the first tile that it keeps: the rule moves the first key that a row sees, and its bits
//! depend on no other row. A bias or ALiBi shifts scores by what no norm bounds, and nothing is left out beside them. A
//! sink only adds to the weight of a row.
//!
//! Norms of queries are those of each row. The largest norm of the keys of a sequence and head, one number, is found in a
//! sweep of its own, `2 D` FLOPs per key against `2 (D + E)` for each pair that is left. A key that is not finite, and a
//! norm that overflows, leave nothing out.
//!
//! Lin et al., *Adaptive Computation Pruning for the Forgetting Transformer*, arXiv 2504.06949.

use super::call::Call;
use super::rows::{KEYS, ROWS, Unit};
use super::{SPLIT_KEYS, Softmax};
use crate::engine::linear::Rows as Slice;
use crate::error::Result;
use crate::kernel::products;
use crate::parallel::{self, Runner};
use crate::tensor::{DType, Tensor};
use crate::workspace::Workspace;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

/// Largest squares of norms of the keys of some heads, by sequence and key head.
#[derive(Clone, Copy, Debug)]
pub struct Norms {
    memory: Workspace,
    /// Where the table begins.
    at: usize,
    /// Its first head, of all sequences.
    first: usize,
}

impl Norms {
    /// The table of these heads of all sequences at an offset of the memory; `None` where nothing is left out.
    pub fn new(
        engine: &Softmax,
        runner: &dyn Runner,
        call: &Call,
        (memory, at): (&Workspace, usize),
        heads: Range<usize>,
    ) -> Result<Option<Norms>> {
        let shifted = call.bias.is_some() || call.alibi_slopes.is_some();
        if engine.settings.prune.is_none() || shifted {
            return Ok(None);
        }
        let norms = Norms { memory: *memory, at, first: heads.start };
        for head in heads.clone() {
            // SAFETY: the table has a place for each head, and no task runs.
            unsafe { *norms.of(head) = 0.0 };
        }
        let runs = call.sequences.longest().1.div_ceil(SPLIT_KEYS);
        parallel::run(runner, heads.len() * runs, &|task, _| {
            let (head, run) = (heads.start + task / runs, task % runs);
            // SAFETY: tensors have the shapes that `plan::check` made sure of; tasks reach a number by this alone.
            unsafe {
                let largest = largest(engine, call, head, run * SPLIT_KEYS..(run + 1) * SPLIT_KEYS);
                // Squares are in the order of their bits, and NaN comes after all.
                AtomicU32::from_ptr(norms.of(head).cast()).fetch_max(largest.to_bits(), Ordering::Relaxed);
            }
        })?;
        Ok(Some(norms))
    }

    fn of(&self, head: usize) -> *mut f32 {
        self.memory.worker(0).wrapping_add(self.at + head - self.first)
    }
}

/// The largest square of the norms of some keys of a head of all sequences; a `NaN` if one of them is.
///
/// # Safety
/// The tensors of the call have the shapes of the catalogue.
unsafe fn largest(engine: &Softmax, call: &Call, head: usize, keys: Range<usize>) -> f32 {
    let (index, head) = (head / engine.heads.1, head % engine.heads.1);
    let (Some(k), Some(s)) = (&call.k, call.sequences.get(index)) else { return 0.0 };
    let end = call.key_len.map_or(s.n_k, |len| len.get(index) as usize).min(keys.end);
    let mut largest = 0.0f32;
    let mut rest = keys.start..end;
    while !rest.is_empty() {
        let run = call.keys.run(&s, &(rest.start..rest.end.min(rest.start + KEYS)));
        // SAFETY: keys of the sequence.
        let squares = unsafe { squares(engine, k, [run.entry, head, run.row], run.n) };
        for square in squares.into_iter().take(run.n) {
            largest = if square > largest || square.is_nan() { square } else { largest };
        }
        rest.start += run.n;
    }
    largest
}

/// Squares of the norms of `n ≤ 64` rows of a tensor.
///
/// # Safety
/// It has these.
unsafe fn squares(engine: &Softmax, tensor: &Tensor, at: [usize; 3], n: usize) -> [f32; KEYS] {
    const CHUNK: usize = 64;
    let (mut squares, mut rows) = ([0.0; KEYS], [0.0; KEYS * CHUNK]);
    let plain = tensor.dtype == DType::F32 && tensor.stride(3) == 1 && tensor.stride(2) >= 0;
    if plain && engine.d.is_multiple_of(16) {
        let (a, lda) = (tensor.f32_at(&at).cast_const(), tensor.stride(2) as usize);
        let (row, col) = (squares.as_mut_ptr(), ptr::null_mut());
        // SAFETY: by contract; rows are whole vectors.
        unsafe {
            (engine.kernels.sums)(&products::Args { n, d: engine.d, a, lda, b: a, ldb: lda, row, col })
        };
        return squares;
    }
    let [batch, head, token] = at;
    for channel in (0..engine.d).step_by(CHUNK) {
        let (d, at) = ((engine.d - channel).min(CHUNK), [batch, head, token, channel]);
        let (a, row, col) = (rows.as_mut_ptr(), squares.as_mut_ptr(), ptr::null_mut());
        // SAFETY: by contract; rows are padded with zeros to whole vectors, and sums go on from chunk to chunk.
        unsafe {
            let from = Slice::tokens(tensor, &at, (n, d));
            engine.kernels.common.load(&from, 1.0, ptr::null(), a, CHUNK);
            (engine.kernels.sums)(&products::Args { n, d, a, lda: CHUNK, b: a, ldb: CHUNK, row, col });
        }
    }
    squares
}

/// What bounds grow by: more than roundings take away, those of operands to `bf16` included.
const SLACK: f64 = 1.005;

/// At least the norm of a row: what its square lost to underflow is less than what is added.
fn norm(square: f32, d: usize) -> f64 {
    SLACK * f64::from(square).sqrt() + 1e-18 * (d as f64).sqrt()
}

/// For each row, the decay since the last key that it sees below which it does without a key; `−∞`: without none.
///
/// # Safety
/// The tensors of the call have the shapes of the catalogue.
pub unsafe fn limits(unit: &Unit<'_>) -> [f64; ROWS] {
    let (engine, call, rows) = (unit.engine, unit.call, &unit.rows);
    let mut limits = [f64::NEG_INFINITY; ROWS];
    let (Some(tol), Some(norms), Some(q)) = (engine.settings.prune, &call.norms, &call.q) else {
        return limits;
    };
    let head = unit.index * engine.heads.1 + unit.head;
    // SAFETY: a head of the table, which is full.
    let keys = norm(unsafe { *norms.of(head) }, engine.d);
    let (s, cap) = (&unit.sequence, SLACK * f64::from(engine.settings.softcap));
    for run in rows.runs() {
        let set = rows.set[run.start];
        let at = [s.batch, unit.query_head(set), s.q0 + rows.token[run.start]];
        // SAFETY: rows of the tile, by contract.
        let (squares, scale) = unsafe { (squares(engine, q, at, run.len()), unit.scale(set)) };
        for (i, &square) in run.zip(&squares) {
            let score = f64::from(scale) * norm(square, engine.d) * keys;
            if score.is_finite() {
                let score = if cap > 0.0 { score.min(cap) } else { score };
                let seen = (rows.end[i] - rows.first[i]).max(1) as f64;
                limits[i] = tol - seen.ln() - 2.0 * score;
            }
        }
    }
    limits
}
