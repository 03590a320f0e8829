//! Tensors in any arrangement.

use super::golden::Array;
use super::support::Rng;
use subquad::{MAX_RANK, View, ViewMut};

/// Memory that holds one tensor in any arrangement, with NaN between its elements.
pub struct Strided {
    pub memory: Vec<f32>,
    pub first: usize,
    pub shape: Vec<i64>,
    pub stride: Vec<i64>,
}

impl Strided {
    /// A copy of `array`: axes from the outermost to the innermost in this order, `pad` elements after the extent
    /// of each (the innermost axis: `1 + pad` from one element to the next), axes of `reversed` backwards.
    pub fn new(array: &Array, order: &[usize], pad: &[usize], reversed: &[bool]) -> Strided {
        let rank = array.shape.len();
        assert!(rank <= MAX_RANK && order.len() == rank);
        let (mut stride, mut step, mut first) = (vec![0i64; rank], 1i64, 0i64);
        for &axis in order.iter().rev() {
            step += pad[axis] as i64;
            stride[axis] = step;
            step *= array.shape[axis].max(1);
        }
        let end = 1 + (0..rank).map(|a| (array.shape[a].max(1) - 1) * stride[a]).sum::<i64>();
        for axis in (0..rank).filter(|&axis| reversed[axis]) {
            first += (array.shape[axis].max(1) - 1) * stride[axis];
            stride[axis] = -stride[axis];
        }
        let memory = vec![f32::NAN; end as usize];
        let mut strided = Strided { memory, first: first as usize, shape: array.shape.clone(), stride };
        for (at, &x) in strided.places().into_iter().zip(&array.data) {
            strided.memory[at] = x;
        }
        strided
    }

    /// Any arrangement.
    pub fn random(rng: &mut Rng, array: &Array) -> Strided {
        let rank = array.shape.len();
        let mut order: Vec<usize> = (0..rank).collect();
        if !rng.one_in(3) {
            for i in (1..rank).rev() {
                order.swap(i, rng.below(i + 1));
            }
        }
        let pad: Vec<usize> = (0..rank).map(|_| if rng.one_in(2) { 0 } else { rng.below(4) }).collect();
        let reversed: Vec<bool> = (0..rank).map(|_| rng.one_in(4)).collect();
        Strided::new(array, &order, &pad, &reversed)
    }

    /// The same along an axis for `n` entries: stride 0. The axis has one entry.
    pub fn broadcast(mut self, axis: usize, n: i64) -> Strided {
        assert_eq!(self.shape[axis], 1);
        (self.shape[axis], self.stride[axis]) = (n, 0);
        self
    }

    /// Where the elements lie, in row-major order.
    fn places(&self) -> Vec<usize> {
        let mut places = vec![self.first as i64];
        for (&n, &stride) in self.shape.iter().zip(&self.stride) {
            places = places.iter().flat_map(|&at| (0..n).map(move |i| at + i * stride)).collect();
        }
        places.into_iter().map(|at| at as usize).collect()
    }

    /// The tensor, contiguous again. Panics if anything between its elements has changed.
    pub fn read(&self) -> Array {
        let mut mine = vec![false; self.memory.len()];
        let places = self.places();
        places.iter().for_each(|&at| mine[at] = true);
        let data = places.iter().map(|&at| self.memory[at]).collect();
        let nan = f32::NAN.to_bits();
        let foreign = |(x, mine): (&f32, &bool)| *mine || x.to_bits() == nan;
        assert!(self.memory.iter().zip(&mine).all(foreign), "memory between the elements was written");
        Array { shape: self.shape.clone(), data }
    }

    pub fn layout(&self) -> subquad::Layout {
        subquad::Layout::strided(&self.shape, &self.stride).unwrap()
    }

    pub fn view(&self) -> View<'_> {
        let data = self.memory[self.first.min(self.memory.len())..].as_ptr();
        // SAFETY: every element lies in `memory`, which is borrowed.
        unsafe { View::from_raw(data.cast(), subquad::DType::F32, self.layout()) }
    }

    pub fn view_mut(&mut self) -> ViewMut<'_> {
        let layout = self.layout();
        let data = self.memory.as_mut_ptr().wrapping_add(self.first);
        // SAFETY: every element lies in `memory`, which is borrowed mutably.
        unsafe { ViewMut::from_raw(data.cast(), subquad::DType::F32, layout) }
    }
}
