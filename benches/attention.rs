//! Time of the kernels of softmax attention on each instruction set of this machine, as [`tiles`](tiles.rs) does for the others:
//! `cargo bench --bench attention -- <filter>`. A tile has 64 keys; 32 queries stand across the lanes, 4 (or 1) do not.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use std::ptr::null;
use subquad::kernel::{best_key, dots, online_softmax, score_grad, score_terms, weigh};
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

/// Scores of `m` queries with `n` keys.
fn products(m: usize, n: usize, k: usize) -> dots::Args {
    let (a, b, c) = (numbers(m * k), numbers(n * k), numbers(n * 32));
    dots::Args { m, n, k, a, lda: k, b, ldb: k, ahead: 0, c, ldc: 32 }
}

/// Values of `n` keys for `m` queries.
fn sums(m: usize, n: usize, e: usize) -> weigh::Args {
    let (a, b, c) = (numbers(n * 32), numbers(n * e), numbers(m * e));
    weigh::Args { m, n, e, a, lda: 32, b, ldb: e, ahead: 0, c, ldc: e, first: true, pre: null() }
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
        bench::<dots::Dots>(c, &format!("{m}x64x128"), m * 64 * 128, products(m, 64, 128));
        bench::<weigh::Weigh>(c, &format!("{m}x64x128"), m * 64 * 128, sums(m, 64, 128));
    }
    bench::<score_terms::ScoreTerms>(c, "64x32", 64 * 32, terms(64, 32));
    bench::<online_softmax::OnlineSoftmax>(c, "64x32", 64 * 32, online(64, 32));
    bench::<best_key::BestKey>(c, "64x32", 64 * 32, best(64, 32));
    bench::<score_grad::ScoreGrad>(c, "64x32", 64 * 32, attention_grads(64, 32));
}

criterion_group!(benches, attention);
criterion_main!(benches);
