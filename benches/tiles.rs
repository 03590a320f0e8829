//! Time of each kernel on each instruction set of this machine: `cargo bench --bench tiles -- <filter>`.
//!
//! One line of `tiles` is one kernel at one size, named `<kernel>/<isa>/<size>`; throughput counts elements. Everything
//! fits in L2. The scalar row is the reference: it shows what the tests compare with, not what a compiler could do.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::{bf16, f16};
use std::hint::black_box;
use std::ptr::null;
use subquad::kernel::Kernel;
use subquad::kernel::row_rms::Activation;
use subquad::kernel::{
    elementwise as ew, load_rows, row_l2norm, row_rms, row_softmax, store_rows, transpose_rows,
};

/// Runs every implementation of `K` on `args`, which stand for `elements` elements.
fn bench<K: Kernel>(c: &mut Criterion, size: &str, elements: usize, args: K::Args) {
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
fn numbers(n: usize) -> *mut f32 {
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    Vec::from_iter((0..n).map(next)).leak().as_mut_ptr()
}

fn elementwise(n: usize) -> ew::Args {
    ew::Args { n, src: numbers(n), dst: numbers(n) }
}

fn softmax(n: usize, d: usize) -> row_softmax::Args {
    row_softmax::Args { n, d, x: numbers(n * d), ld: d }
}

fn l2norm(n: usize, d: usize) -> row_l2norm::Args {
    row_l2norm::Args {
        n,
        d,
        x: numbers(n * d),
        ld: d,
        mode: row_l2norm::Mode::SquareAdd,
        eps: 1e-6,
        scale: 1.0,
    }
}

fn rms(n: usize, d: usize, gate: bool) -> row_rms::Args {
    row_rms::Args {
        n,
        n_pieces: 1,
        piece_len: d,
        y: numbers(n * d),
        ld: d as isize,
        piece_stride: 0,
        eps: 1e-6,
        // Weights of 1: the same rows are normalised over and over.
        weight: vec![1.0; d].leak().as_ptr(),
        gate: if gate { numbers(n * d) } else { null() },
        gate_ld: d as isize,
        gate_piece_stride: 0,
        activation: Activation::Sigmoid,
    }
}

/// Rows `d` apart, or columns `n` apart.
fn strides(n: usize, d: usize, by_columns: bool) -> (isize, isize) {
    if by_columns { (1, n as isize) } else { (d as isize, 1) }
}

fn load<E>(n: usize, d: usize, by_columns: bool) -> load_rows::Args<E> {
    let (row_stride, col_stride) = strides(n, d, by_columns);
    load_rows::Args {
        n,
        d,
        src: numbers(n * d).cast(),
        row_stride,
        col_stride,
        row_scale: null(),
        row_scale_stride: 0,
        scale: 0.125,
        dst: numbers(n * d),
        ld: d,
    }
}

fn store<E>(n: usize, d: usize, by_columns: bool) -> store_rows::Args<E> {
    let (row_stride, col_stride) = strides(n, d, by_columns);
    store_rows::Args { n, d, src: numbers(n * d), ld: d, dst: numbers(n * d).cast(), row_stride, col_stride }
}

fn transpose(n: usize, d: usize) -> transpose_rows::Args {
    transpose_rows::Args { n, d, src: numbers(16 * d), ld: d, dst: numbers(16 * d) }
}

fn tiles(c: &mut Criterion) {
    bench::<ew::Exp>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Exp>(c, "67", 67, elementwise(67));
    bench::<ew::Log>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Tanh>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Sigmoid>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Silu>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Softplus>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Rsqrt>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Elu1>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Elu1Neg>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Tanh1>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Relu>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Relu2>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Sin>(c, "4096", 4096, elementwise(4096));
    bench::<ew::Cos>(c, "4096", 4096, elementwise(4096));
    bench::<row_softmax::RowSoftmax>(c, "64x128", 64 * 128, softmax(64, 128));
    bench::<row_l2norm::RowL2Norm>(c, "64x128", 64 * 128, l2norm(64, 128));
    bench::<row_rms::RowRms>(c, "64x128", 64 * 128, rms(64, 128, false));
    bench::<row_rms::RowRms>(c, "64x128_gate", 64 * 128, rms(64, 128, true));
    bench::<load_rows::LoadRows<f32>>(c, "64x128", 64 * 128, load(64, 128, false));
    bench::<load_rows::LoadRows<f32>>(c, "64x128_columns", 64 * 128, load(64, 128, true));
    bench::<load_rows::LoadRows<bf16>>(c, "64x128", 64 * 128, load(64, 128, false));
    bench::<load_rows::LoadRows<f16>>(c, "64x128", 64 * 128, load(64, 128, false));
    bench::<store_rows::StoreRows<f32>>(c, "64x128", 64 * 128, store(64, 128, false));
    bench::<store_rows::StoreRows<f32>>(c, "64x128_columns", 64 * 128, store(64, 128, true));
    bench::<store_rows::StoreRows<bf16>>(c, "64x128", 64 * 128, store(64, 128, false));
    bench::<store_rows::StoreRows<f16>>(c, "64x128", 64 * 128, store(64, 128, false));
    bench::<transpose_rows::TransposeRows>(c, "16x128", 16 * 128, transpose(16, 128));
    bench::<transpose_rows::TransposeRows>(c, "16x16", 16 * 16, transpose(16, 16));
    bench::<transpose_rows::TransposeRows>(c, "13x127", 16 * 127, transpose(13, 127));
}

criterion_group!(benches, tiles);
criterion_main!(benches);
