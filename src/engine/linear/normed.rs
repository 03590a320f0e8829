//! Norms of an output of 16 bits: rows are normalised in `f32`, then rounded, once.
//!
//! The last pass of `norm.rs` reads what the scan wrote, which would be rounded here: twice the error, and in
//! `f16` an overflow where only the norm makes a row small. So a task runs all heads that the norm mixes (one, or
//! with `srms_all` all of its sequence) over a segment of tokens; the scan writes `f32` rows to the workspace, through
//! a view that is indexed like the output; the norm reads them there and stores to the output. Segments end where
//! chunks do: they change no bit.
//!
//! *Cost*: nothing more than the last pass, which stays in cache. With `srms_all` the heads of a sequence are one
//! task, and the workspace holds the states of all of them.

use super::norm::Norm;
use super::{Call, Linear, Pass, Sequence, Unit, scan, step};
use crate::CHUNK;
use crate::tensor::{DType, Layout, MAX_RANK, Tensor};
use std::ops::Range;

/// Tokens of a segment: as many as are prepared at most before the panels run over them.
pub const SEGMENT: usize = 4 * CHUNK;

/// One task: a sequence and some of its state heads.
pub struct Normed<'a> {
    engine: &'a Linear,
    call: &'a Call,
    sequence: Sequence,
    heads: Range<usize>,
    norm: Norm<'a>,
    memory: *mut f32,
}

impl<'a> Normed<'a> {
    /// A task on one worker's buffers.
    pub fn new(
        engine: &'a Linear,
        call: &'a Call,
        sequence: Sequence,
        heads: Range<usize>,
        memory: *mut f32,
    ) -> Normed<'a> {
        let norm = Norm::new(engine, call, memory);
        Normed { engine, call, sequence, heads, norm, memory }
    }

    /// Runs it from its incoming to its outgoing states.
    pub fn run(&self) {
        let s = &self.sequence;
        if self.call.step && self.engine.steps_in_place(self.call) {
            self.segment(s.q0..s.q0 + 1, step::step);
            return;
        }
        self.each(self.call, |unit| unit.load_state());
        for pass in scan::passes(&self.unit(self.call, self.heads.start)) {
            if !pass.read {
                self.each(self.call, |unit| run(unit, pass));
                continue;
            }
            for t in (0..pass.n).step_by(SEGMENT) {
                let (q0, k0, n) = (pass.q0 + t, pass.k0 + t, SEGMENT.min(pass.n - t));
                self.segment(q0..q0 + n, |unit| run(unit, Pass { q0, k0, n, ..pass }));
            }
        }
        self.each(self.call, |unit| unit.store_state());
    }

    /// Calls `f` for every head.
    fn each(&self, call: &Call, f: impl Fn(&Unit<'_>)) {
        for head in self.heads.clone() {
            f(&self.unit(call, head));
        }
    }

    fn unit<'b>(&'b self, call: &'b Call, head: usize) -> Unit<'b> {
        Unit::new(self.engine, call, self.sequence, head, self.memory)
    }

    /// Lets `f` write the rows of these queries for every head, and normalises them.
    fn segment(&self, queries: Range<usize>, f: impl Fn(&Unit<'_>)) {
        let rows = self.rows(queries.start);
        let mut call = *self.call;
        call.tensors.out = Some(rows);
        self.each(&call, f);
        for t in queries {
            let token = (self.sequence.batch, t);
            if self.heads.len() == self.engine.heads.state {
                self.norm.token(&rows, token, 0..self.engine.heads.out);
                continue;
            }
            self.each(self.call, |unit| {
                for set in 0..self.engine.geometry.n_sets {
                    let head = unit.output_head(set);
                    self.norm.token(&rows, token, head..head + 1);
                }
            });
        }
    }

    /// The rows of a segment `[Ho, SEGMENT, E]` as a tensor with the indices of the output: any batch, tokens from
    /// `first` on.
    fn rows(&self, first: usize) -> Tensor {
        let g = &self.engine.geometry;
        let mut layout = Layout { rank: 4, shape: [1; MAX_RANK], stride: [0; MAX_RANK] };
        (layout.shape[1], layout.stride[1]) = (self.engine.heads.out as i64, (SEGMENT * g.e) as i64);
        (layout.shape[2], layout.stride[2]) = (SEGMENT as i64, g.e as i64);
        (layout.shape[3], layout.stride[3]) = (g.e as i64, 1);
        let data = self.memory.wrapping_add(g.at.rows).wrapping_sub(first * g.e);
        Tensor { data: data.cast(), dtype: DType::F32, layout }
    }
}

/// Runs a pass. Heads of a task share the buffers of what their maps read, so that is packed anew.
fn run(unit: &Unit<'_>, pass: Pass) {
    unit.prepare_features();
    scan::run(unit, pass);
}
