//! What memory gives one thread: a large buffer read once, in order.
//!
//! A step reads a cache that no processor cache holds, so its speed is a part of this one. As with the peak of a core
//! ([`crate::peak`]) the figure is worth something only if it is measured in the same second.

use pulp::{Simd, WithSimd};
use std::hint::black_box;
use std::time::Instant;

/// A buffer that is larger than the last-level cache of common machines.
pub struct Memory {
    buffer: Vec<f32>,
}

/// Elements of the buffer: 256 MiB.
const LEN: usize = 1 << 26;
/// Passes of one measurement, the best of which counts.
const PASSES: usize = 3;

impl Memory {
    /// Tensors of so many bytes come from memory in every call, not from a cache.
    pub fn holds(bytes: usize) -> bool {
        bytes >= 64 << 20
    }

    /// A buffer whose pages are there.
    pub fn new() -> Memory {
        Memory { buffer: vec![1.0; LEN] }
    }

    /// Bytes per second.
    pub fn bytes_per_s(&self) -> f64 {
        let pass = || {
            let start = Instant::now();
            black_box(pulp::Arch::new().dispatch(Sum(black_box(&self.buffer))));
            start.elapsed().as_secs_f64()
        };
        let best = (0..PASSES).map(|_| pass()).fold(f64::INFINITY, f64::min);
        (LEN * size_of::<f32>()) as f64 / best
    }
}

/// The sum of all, in four vectors.
struct Sum<'a>(&'a [f32]);

impl WithSimd for Sum<'_> {
    type Output = f32;
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let (vectors, rest) = S::as_simd_f32s(self.0);
        let mut sums = [simd.splat_f32s(0.0); 4];
        let mut chunks = vectors.chunks_exact(4);
        for chunk in &mut chunks {
            for (sum, &x) in sums.iter_mut().zip(chunk) {
                *sum = simd.add_f32s(*sum, x);
            }
        }
        for &x in chunks.remainder() {
            sums[0] = simd.add_f32s(sums[0], x);
        }
        let both = [simd.add_f32s(sums[0], sums[1]), simd.add_f32s(sums[2], sums[3])];
        simd.reduce_sum_f32s(simd.add_f32s(both[0], both[1])) + rest.iter().sum::<f32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_read() {
        let numbers: Vec<f32> = (0..1003u16).map(f32::from).collect();
        assert_eq!(pulp::Arch::new().dispatch(Sum(&numbers)), (1002 * 1003 / 2) as f32);
    }
}
