//! What the benchmarks of kernels share.

use criterion::{BenchmarkId, Criterion, Throughput};
use std::hint::black_box;
use subquad::kernel::Kernel;

/// Runs every implementation of `K` on `args`, which stand for `elements` elements.
pub fn bench<K: Kernel>(c: &mut Criterion, size: &str, elements: usize, args: K::Args) {
    let mut group = c.benchmark_group(K::NAME);
    group.throughput(Throughput::Elements(elements as u64));
    for row in K::ROWS.iter().filter(|row| row.isa.available()) {
        group.bench_function(BenchmarkId::new(row.isa.name(), size), |b| {
            // SAFETY: the functions below make arguments whose buffers are large enough and stay.
            b.iter(|| unsafe { (row.run)(black_box(&args)) });
        });
    }
    group.finish();
}

/// `n` numbers between −1 and 1 that stay until the end.
pub fn numbers(n: usize) -> *mut f32 {
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    Vec::from_iter((0..n).map(next)).leak().as_mut_ptr()
}
