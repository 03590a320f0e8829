//! Time of the kernels of softmax attention on each instruction set of this machine, as [`tiles`](tiles.rs) does for the others:
//! `cargo bench --bench attention -- <filter>`. A tile has 64 keys; 32 queries stand across the lanes, 4 (or 1) do not.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use half::bf16;
use std::ptr::null;
use subquad::kernel::{best_key, dots, online_softmax, score_grad, score_terms, weigh};
use subquad::simd::prefetch::Ahead;
use support::{bench, numbers};

/// `n` keys, `w` queries.
fn best(n: usize, w: usize) -> best_key::Args {
    best_key::Args { n, w, x: numbers(n * w), ld: w, max: numbers(w), key: numbers(w) }
}

/// The reverse of a tile of attention scores: weights stay what they are, those of scores near 0.
fn attention_grads(n: usize, w: usize) -> score_grad::Args {
    let vectors = [(); 3].map(|()| numbers(w).cast_const());
    let plain = score_grad::Args::plain(n, w, w, numbers(n * w), numbers(n * w));
    score_grad::Args { dx: numbers(n * w), shift: vectors[0], factor: vectors[1], delta: vectors[2], ..plain }
}

/// Scores of `m` queries with `n` keys. Rows of 16-bit floats lie in what are numbers twice as long: small ones too.
fn products<E>(m: usize, n: usize, k: usize) -> dots::Args<E> {
    let (a, b, c) = (numbers(m * k), numbers(n * k), numbers(n * 32));
    dots::Args { m, n, k, a, lda: k, b, ldb: k, ahead: Ahead::default(), c, ldc: 32 }.cast()
}

/// Values of `n` keys for `m` queries.
fn sums<E>(m: usize, n: usize, e: usize) -> weigh::Args<E> {
    let (a, b, c, ahead) = (numbers(n * 32), numbers(n * e), numbers(m * e), Ahead::default());
    weigh::Args { m, n, e, a, lda: 32, b, ldb: e, ahead, c, ldc: e, first: true, pre: null() }.cast()
}

/// ALiBi and a mask.
fn terms(n: usize, w: usize) -> score_terms::Args {
    let [slope, position, first, end] = [(); 4].map(|()| numbers(w).cast_const());
    score_terms::Args { slope, position, first, end, ..score_terms::Args::plain(n, w, numbers(n * w), w) }
}

/// A tile in the midst of its row, of scores that are weights by the second call.
fn online(n: usize, w: usize) -> online_softmax::Args {
    let changed = Box::leak(Box::new(false));
    let [max, sum, factor] = [(); 3].map(|()| numbers(w));
    online_softmax::Args { n, w, x: numbers(n * w), ld: w, max, sum, factor, changed }
}

fn attention(c: &mut Criterion) {
    for m in [4, 1] {
        let (size, elements) = (format!("{m}x64x128"), m * 64 * 128);
        bench::<dots::Dots<f32>>(c, &size, elements, products(m, 64, 128));
        bench::<dots::Dots<bf16>>(c, &size, elements, products(m, 64, 128));
        bench::<weigh::Weigh<f32>>(c, &size, elements, sums(m, 64, 128));
        bench::<weigh::Weigh<bf16>>(c, &size, elements, sums(m, 64, 128));
    }
    bench::<score_terms::ScoreTerms>(c, "64x32", 64 * 32, terms(64, 32));
    bench::<online_softmax::OnlineSoftmax>(c, "64x32", 64 * 32, online(64, 32));
    bench::<online_softmax::OnlineSoftmax>(c, "64x4", 64 * 4, online(64, 4));
    bench::<best_key::BestKey>(c, "64x32", 64 * 32, best(64, 32));
    bench::<score_grad::ScoreGrad>(c, "64x32", 64 * 32, attention_grads(64, 32));
}

criterion_group!(benches, attention);
criterion_main!(benches);
