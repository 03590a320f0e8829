//! Projections of feature maps in reverse, and the gradients of what all tokens share.
//!
//! ```text
//! y = x W + b       dx = dy Wᵀ       dW = Σ xᵀ dy       db = Σ dy
//! ```
//!
//! Every unit (sequence × state head) sums over its tokens in memory of its own, queries and keys apart where their
//! weights are; the units are added up in order at the end, so no bit depends on threads.

use super::{BLOCK, Reverse, Run};
use crate::CHUNK;
use crate::engine::call::Heads;
use crate::engine::linear::features::{FeatureMap, Features, Operand, Projection, Side};
use crate::engine::linear::geometry::Geometry;
use crate::engine::linear::tiles::Rows;
use crate::kernel::matmul;
use crate::tensor::Tensor;
use crate::workspace::Carver;
use std::ops::Range;
use std::ptr;

/// Offsets of a worker's buffers for feature maps; all but the last none where they work in place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Maps {
    /// Features `[C, ldm]`.
    pub phi: usize,
    /// Gradients of projected rows `[C, ldw]`, and their transpose `[ldw, C]`.
    pub dy: usize,
    pub dy_t: usize,
    /// Gradients of rows by channel `[ldd, C]`, and by row `[C, ldd]`; of three rows for a gate.
    pub dx_t: usize,
    pub dx: usize,
    /// Shifts of the map `exp` before and after each chunk, and of the state's gradient in the end
    /// `[2 · BLOCK + 1, ldm]`.
    pub shift: usize,
}

impl Maps {
    /// The buffers of these features.
    pub fn carve(carver: &mut Carver, features: &Features, g: &Geometry) -> Maps {
        let shifts = if features.map == FeatureMap::Exp { 2 * BLOCK + 1 } else { 0 };
        let shift = carver.take(&[shifts, g.ldm]);
        if features.in_place() {
            return Maps { shift, ..Maps::default() };
        }
        let (ldd, ldw) = (g.at.features.ldd, g.at.features.ldw);
        let pieces = if matches!(features.map, FeatureMap::Gated { .. }) { 3 } else { 1 };
        Maps {
            phi: carver.take(&[CHUNK, g.ldm]),
            dy: carver.take(&[CHUNK, ldw]),
            dy_t: carver.take(&[ldw, CHUNK]),
            dx_t: carver.take(&[ldd, CHUNK]),
            dx: carver.take(&[pieces, CHUNK, ldd]),
            shift,
        }
    }
}

/// Sums of a unit: for each side with weights of its own, weights `[depth, ldw]`, then a bias `[ldw]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parameters {
    /// Sides, those of the queries first; one if they share their weights.
    slots: usize,
    depth: usize,
    ldw: usize,
}

impl Parameters {
    /// Those of these features that have a gradient.
    pub fn new(features: &Features, g: &Geometry) -> Parameters {
        let slots = match features.projection {
            Projection::None if matches!(features.map, FeatureMap::Gated { .. }) => 2,
            Projection::Rows { .. } => 1,
            Projection::PerHead { .. } => g.n_sets + 1,
            Projection::None | Projection::Cosine | Projection::Shared { .. } => 0,
        };
        Parameters { slots, depth: g.at.features.depth, ldw: g.at.features.ldw }
    }

    /// Slots, and the elements of one.
    pub fn shape(&self) -> [usize; 2] {
        [self.slots, (self.depth + 1) * self.ldw]
    }
}

impl Reverse<'_> {
    /// Whether a gradient of what tokens share is wanted.
    pub fn wants_parameters(&self) -> bool {
        let given = &self.grads.given;
        let all = [given.w, given.sigma, given.w_q, given.w_k, given.b_q, given.b_k];
        self.plan.layout.parameters.slots > 0 && all.iter().any(Option::is_some)
    }

    /// Sums of this unit for a slot.
    fn slot(&self, slot: usize) -> *mut f32 {
        let [_, len] = self.plan.layout.parameters.shape();
        self.parameters.wrapping_add(slot * len)
    }

    /// Where weights of a side have their sums.
    pub fn slot_of(&self, side: Side) -> usize {
        let last = self.plan.layout.parameters.slots.saturating_sub(1);
        match side {
            Side::Query(set) => set.min(last),
            Side::Key => last,
        }
    }

    /// `dW += xᵀ dy`, from row `first` of the weights on.
    ///
    /// # Safety
    /// `x` and `dy` have `n` rows of their widths; `dy` whole blocks of 16.
    pub unsafe fn add_weights(&self, slot: usize, first: usize, n: usize, x: Operand, dy: Operand) {
        if !self.wants_parameters() {
            return;
        }
        let ldw = self.plan.layout.parameters.ldw;
        let sum = self.slot(slot).wrapping_add(first * ldw);
        let mut product = matmul::Args::product(x.width, dy.width, n, sum, ldw as isize);
        (product.a, product.lda, product.a_by_columns) = (x.y, x.ld, true);
        (product.b, product.ldb) = (dy.y, dy.ld);
        (product.c0, product.ldc0) = (sum, ldw as isize);
        // SAFETY: the caller's contract; the sum is [depth, ldw] and this unit's.
        unsafe { (self.unit.tiles().matmul)(&product) }
    }

    /// `db += Σ dy`.
    ///
    /// # Safety
    /// `dy` has `n` rows of its width.
    pub unsafe fn add_bias(&self, slot: usize, n: usize, dy: Operand) {
        let Parameters { depth, ldw, .. } = self.plan.layout.parameters;
        // SAFETY: the caller's contract; the sum is [ldw], below the weights.
        unsafe {
            let sum = std::slice::from_raw_parts_mut(self.slot(slot).add(depth * ldw), dy.width);
            for i in 0..n {
                let row = std::slice::from_raw_parts(dy.y.add(i * dy.ld), dy.width);
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
        }
    }

    /// `dx = dy Wᵀ`, `dx` as wide as `W` is deep.
    ///
    /// # Safety
    /// `dy` and `dx` are `[16, ld]`, `w` has `ldw` elements to a row.
    pub unsafe fn through(&self, n: usize, dy: Operand, (w, ldw): (*const f32, usize), dx: Operand) {
        let maps = &self.at().maps;
        let (dy_t, dx_t) = (self.buffer(maps.dy_t), self.buffer(maps.dx_t));
        let mut product = matmul::Args::product(dx.width, CHUNK, dy.width, dx_t, CHUNK as isize);
        (product.a, product.lda) = (w, ldw);
        (product.b, product.ldb) = (dy_t, CHUNK);
        // SAFETY: the caller's contract; transposes have the extents that `Maps` names.
        unsafe {
            self.unit.tiles().transpose(dy.y, (n, dy.width), dy.ld, dy_t);
            (self.unit.tiles().matmul)(&product);
            self.to_rows(dx_t, dx);
        }
    }

    /// From channels `[width, 16]` to 16 rows, with zeros past the last channel.
    ///
    /// # Safety
    /// `by_channel` has these columns; rows are whole blocks of 16.
    pub unsafe fn to_rows(&self, by_channel: *const f32, rows: Operand) {
        let tile = self.buffer(self.at().tile);
        for first in (0..rows.ld).step_by(CHUNK) {
            // SAFETY: the caller's contract; the tile is [16, 16].
            unsafe {
                let n = CHUNK.min(rows.width - first.min(rows.width));
                self.unit.tiles().transpose(by_channel.add(first * CHUNK), (n, CHUNK), CHUNK, tile);
                for i in 0..CHUNK {
                    ptr::copy_nonoverlapping(tile.add(i * CHUNK), rows.y.add(i * rows.ld + first), CHUNK);
                }
            }
        }
    }
}

impl Run<'_> {
    /// Gradients of what feature maps share between tokens.
    pub fn store_parameters(&self) {
        let (heads, features) = (&self.engine.heads, &self.engine.recurrence.features);
        let (cyclic, given) = (self.engine.recurrence.cyclic_heads, &self.grads.given);
        let sets = heads.sets();
        let key = |head: usize, _| Heads::shared(head, heads.state, heads.k, cyclic);
        let query = |head: usize, set: usize| {
            Heads::shared(heads.output(head, set, cyclic), heads.out, heads.q, cyclic)
        };
        match features.projection {
            Projection::Rows { .. } => self.store_rows_of(heads.k, &key),
            Projection::PerHead { .. } => {
                let wanted = [
                    (given.w_q, 0..sets, &query as &dyn Fn(usize, usize) -> usize),
                    (given.w_k, sets..sets + 1, &key),
                ];
                for (tensor, slots, owner) in wanted {
                    let Some(tensor) = tensor else { continue };
                    for own in 0..tensor.extent(0) {
                        self.set(&tensor, (&[own, 0, 0], 1, 2), self.total(slots.clone(), owner, own));
                    }
                }
            }
            Projection::None if matches!(features.map, FeatureMap::Gated { .. }) => {
                for (slot, w, b) in [(0, given.w_q, given.b_q), (1, given.w_k, given.b_k)] {
                    if w.is_none() && b.is_none() {
                        continue;
                    }
                    let total = self.total(slot..slot + 1, &|_, _| 0, 0);
                    if let Some(w) = &w {
                        self.set(w, (&[0, 0], 1, 0), total);
                    }
                    if let Some(b) = &b {
                        let Parameters { depth, ldw, .. } = self.plan.layout.parameters;
                        self.set(b, (&[0], 0, 0), total.map(|total| total.wrapping_add(depth * ldw)));
                    }
                }
            }
            Projection::None | Projection::Cosine | Projection::Shared { .. } => {}
        }
    }

    /// Sums over all units of the slots that are `own`'s, in order; `None` if there are no units.
    fn total(
        &self,
        slots: Range<usize>,
        owner: &dyn Fn(usize, usize) -> usize,
        own: usize,
    ) -> Option<*mut f32> {
        let [_, len] = self.plan.layout.parameters.shape();
        let mut total: Option<*mut f32> = None;
        for i in 0..self.call.n_sequences() {
            for head in 0..self.engine.heads.state {
                for slot in slots.clone().filter(|&slot| owner(head, slot) == own) {
                    let one = self.parameters(i, head).wrapping_add(slot * len);
                    match total {
                        None => total = Some(one),
                        // SAFETY: slots are [len], each its own, and no task runs any more.
                        Some(total) => unsafe { add(total, one, len) },
                    }
                }
            }
        }
        total
    }

    /// Sets a matrix from its axis of depth and of width, or if they are one a row; zero where there is no sum.
    fn set(&self, tensor: &Tensor, (at, depth, width): (&[usize], usize, usize), total: Option<*mut f32>) {
        let (n, d) = (if depth == width { 1 } else { tensor.extent(depth) }, tensor.extent(width));
        let tiles = &self.engine.tiles;
        // SAFETY: the tensor has these elements and so has the sum (checked); no task runs any more.
        unsafe {
            if let Some(total) = total {
                let to = Rows { tensor, at, rows: depth, columns: width, n, d };
                return tiles.store(total, self.plan.layout.parameters.ldw, &to);
            }
            for i in 0..n {
                let row = tensor.from(depth, i);
                (0..d).for_each(|j| tiles.set(&row.from(width, j), at, 0.0));
            }
        }
    }

    /// `u = W (σ ⊙ x̂)`: from sums `G = Σ x̂ᵀ du` to `dw = σ ⊙ G`, `dσ = rowsum(w ∘ G)`.
    fn store_rows_of(&self, n_heads: usize, key: &dyn Fn(usize, usize) -> usize) {
        let (given, wanted) = (&self.call.tensors.given, &self.grads.given);
        let Parameters { depth, ldw, .. } = self.plan.layout.parameters;
        let Some(w) = given.w else { return };
        let shared = w.layout.rank == 2 || w.extent(0) == 1;
        let width = w.extent(w.layout.rank - 2);
        let value = |tensor: &Tensor, at: &[usize]| {
            // SAFETY: weights are [P, D], [1, P, D] or [Hk, P, D], `sigma` [H, D] (checked).
            unsafe { self.engine.tiles.value(tensor, at) }
        };
        let mut all: Option<*mut f32> = None;
        for head in 0..n_heads {
            let total = self.total(0..1, key, head);
            for c in 0..depth {
                let row = total.map(|total| {
                    // SAFETY: sums are [depth, ldw], and no task runs any more.
                    unsafe { std::slice::from_raw_parts_mut(total.add(c * ldw), width) }
                });
                let row = row.unwrap_or_default();
                if let Some(sigma) = &wanted.sigma {
                    let weight = |p: usize| match w.layout.rank {
                        2 => value(&w, &[p, c]),
                        _ => value(&w, &[if shared { 0 } else { head }, p, c]),
                    };
                    let sum: f64 =
                        row.iter().enumerate().map(|(p, g)| f64::from(weight(p)) * f64::from(*g)).sum();
                    // SAFETY: gradients have the shapes of their roles (checked).
                    unsafe { self.engine.tiles.set(sigma, &[head, c], sum as f32) }
                }
                if let Some(sigma) = &given.sigma {
                    let sigma = value(sigma, &[head, c]);
                    row.iter_mut().for_each(|g| *g *= sigma);
                }
            }
            match (&wanted.w, shared, total, all) {
                (Some(w), false, ..) => self.set(w, (&[head, 0, 0], 2, 1), total),
                // SAFETY: as above.
                (_, true, Some(total), Some(all)) => unsafe { add(all, total, depth * ldw) },
                (_, true, Some(total), None) => all = Some(total),
                _ => {}
            }
        }
        match &wanted.w {
            Some(w) if w.layout.rank == 2 => self.set(w, (&[0, 0], 1, 0), all),
            Some(w) if shared => self.set(w, (&[0, 0, 0], 2, 1), all),
            _ => {}
        }
    }
}

/// `to += from`.
///
/// # Safety
/// Both have `n` elements, and do not overlap.
unsafe fn add(to: *mut f32, from: *const f32, n: usize) {
    // SAFETY: the caller's contract.
    let (to, from) = unsafe { (std::slice::from_raw_parts_mut(to, n), std::slice::from_raw_parts(from, n)) };
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}
