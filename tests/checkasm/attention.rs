//! Kernels of softmax attention. Model: roundings (2⁻²⁴) of the magnitudes that are added, as the kernels' pages count
//! them; an exponential turns the rounding of its argument into a relative one.

use crate::convert::Value;
use crate::guarded::Guarded;
use crate::support::{EPS, Rng, TINY, assert_close, cases};
use crate::tiles::{extent, poison, small, some, up};
use half::{bf16, f16};
use subquad::kernel::Kernel;

use subquad::kernel::dots::{self, Dots};
use subquad::kernel::load_rows::Source;
use subquad::kernel::online_softmax::{self, EndArgs, MASKED, OnlineSoftmax, SoftmaxEnd};
use subquad::kernel::score_terms::{self, ScoreTerms};
use subquad::kernel::weigh::{self, Weigh};
use subquad::simd::prefetch::Ahead;

/// Scores: ordinary, or far apart, with masked ones and poison among them in some calls.
fn scores(rng: &mut Rng, n: usize, w: usize, ld: usize) -> Vec<f32> {
    let scale = rng.pick(&[1.0, 10.0, 200.0]);
    let mut x = rng.values(extent(n, w, ld), scale);
    let masked = rng.pick(&[0, 0, 2, 10]);
    for x in &mut x {
        if masked > 0 && rng.one_in(masked) {
            *x = f32::NEG_INFINITY;
        }
    }
    let hostile = rng.one_in(4);
    poison(rng, hostile, &mut x);
    x
}

/// Compares columns below `w` by `tolerance(row, column, wanted)`; others may not have changed.
#[track_caller]
fn compare(got: &[f32], want: &[f32], (w, ld): (usize, usize), tolerance: impl Fn(usize, usize, f32) -> f64) {
    for (at, (&g, &e)) in got.iter().zip(want).enumerate() {
        let (i, j) = (at / ld, at % ld);
        let allowed = if j < w { tolerance(i, j, e) } else { 0.0 };
        assert_close(g, e, allowed, || format!("row {i}, column {j} of {w}"));
    }
}

#[test]
fn score_terms() {
    cases::<ScoreTerms>(600, |rng, run| {
        let (n, w) = (small(rng, 70), 16 * (1 + rng.below(3)));
        let ld = w + rng.below(20);
        let [capped, sloped, tiled, decayed, masked] = [(); 5].map(|()| rng.one_in(2));
        let values = scores(rng, n, w, ld);
        let cap = if capped { rng.pick(&[1.0, 30.0, 50.0]) } else { 0.0 };
        let (slope, tile) = (rng.values(w, 1.0), rng.values(extent(n, w, ld), 3.0));
        let position: Vec<f32> = (0..w).map(|_| rng.below(200) as f32 - 60.0).collect();
        let row: [Vec<f32>; 2] = [1000.0, 1e-4].map(|scale| rng.values(w, scale));
        let key: [Vec<f32>; 2] = [1000.0, 1e-4].map(|scale| rng.values(n, scale));
        let first: Vec<f32> = (0..w).map(|_| rng.below(n + 2) as f32).collect();
        let end: Vec<f32> = (0..w).map(|_| rng.below(n + 2) as f32).collect();
        let guarded = [&slope, &position, &tile, &row[0], &row[1], &key[0], &key[1], &first, &end]
            .map(|values| Guarded::new(rng, values));
        let [p_slope, p_position, p_tile, p_row0, p_row1, p_key0, p_key1, p_first, p_end] =
            guarded.each_ref().map(|buffer| buffer.as_ptr());
        let mut want = Guarded::new(rng, &values);
        let mut got = Guarded::new(rng, &values);
        let args = score_terms::Args {
            n,
            w,
            x: want.as_mut_ptr(),
            ld,
            cap,
            slope: some(sloped, p_slope),
            position: some(sloped, p_position),
            tile: some(tiled, p_tile),
            row: [some(decayed, p_row0), some(decayed, p_row1)],
            key: [some(decayed, p_key0), some(decayed, p_key1)],
            first: some(masked, p_first),
            end: some(masked, p_end),
        };
        // SAFETY: vectors of w and n elements, tiles of n rows of w.
        unsafe {
            ScoreTerms::reference(&args);
            run(&score_terms::Args { x: got.as_mut_ptr(), ..args });
        }
        got.check();
        compare(&got, &want, (w, ld), |s, r, e| {
            // Every intermediate sum is below the sum of the magnitudes.
            let x = f64::from(if capped { cap } else { values[s * ld + r].abs() });
            let alibi = f64::from(slope[r] * (position[r] - s as f32)).abs() * f64::from(u8::from(sloped));
            let tile = f64::from(tile[s * ld + r].abs()) * f64::from(u8::from(tiled));
            let decay = f64::from(row[0][r] - key[0][s]).abs() * f64::from(u8::from(decayed));
            if e.is_finite() { (x * 4.0 + alibi + tile + decay + 1.0) * 6.0 * EPS } else { 0.0 }
        });
    });
}

#[test]
fn online_softmax() {
    cases::<OnlineSoftmax>(800, |rng, run| {
        let (n, w) = (small(rng, 70), [4, 16, 32, 48][rng.below(4)]);
        let ld = w + rng.below(20);
        let mut values = scores(rng, n, w, ld);
        for s in 0..n {
            // Columns that see nothing, and one that overflows.
            values[s * ld] = f32::NEG_INFINITY;
            if w > 16 && rng.one_in(40) {
                values[s * ld + 16] = f32::INFINITY;
            }
        }
        let begun = rng.one_in(2);
        let max: Vec<f32> = (0..w)
            .map(|_| if begun && !rng.one_in(4) { rng.signed() * 30.0 } else { f32::NEG_INFINITY })
            .collect();
        let sum: Vec<f32> =
            max.iter().map(|m| if m.is_finite() { 1.0 + rng.signed().abs() } else { 0.0 }).collect();
        let mut all = [(); 2].map(|()| [&values, &max, &sum, &sum].map(|values| Guarded::new(rng, values)));
        let mut changed = [false; 2];
        for (i, [x, max, sum, factor]) in all.iter_mut().enumerate() {
            let (x, max, sum, factor) =
                (x.as_mut_ptr(), max.as_mut_ptr(), sum.as_mut_ptr(), factor.as_mut_ptr());
            let args = online_softmax::Args { n, w, x, ld, max, sum, factor, changed: &mut changed[i] };
            // SAFETY: n rows of w elements, vectors of w.
            unsafe { if i == 0 { OnlineSoftmax::reference(&args) } else { run(&args) } };
        }
        let [[x, m, l, f], [got_x, got_m, got_l, got_f]] = &all;
        [got_x, got_m, got_l, got_f].into_iter().for_each(|buffer| buffer.check());
        // What is NaN anyway may have either maximum, and weights to that.
        let lost = |r: usize| l[r].is_nan();
        let size = |s: usize, r: usize| f64::from((values[s * ld + r] - m[r]).abs()).min(200.0);
        let kept = |x: &[f32]| -> Vec<f32> {
            let one = |(at, &x): (usize, &f32)| if at % ld < w && lost(at % ld) { 0.0 } else { x };
            x.iter().enumerate().map(one).collect()
        };
        compare(&kept(got_x), &kept(x), (w, ld), |s, r, e| f64::from(e) * EPS * (size(s, r) + 8.0) + TINY);
        for r in 0..w {
            let what = |name: &str| format!("{name} of column {r}");
            if lost(r) {
                assert!(got_l[r].is_nan(), "{}", what("sum"));
                continue;
            }
            for s in (0..n).filter(|s| values[s * ld + r] == f32::NEG_INFINITY) {
                assert_eq!(got_x[s * ld + r].to_bits(), MASKED, "{}", what("masked weight"));
            }
            let far = f64::from((max[r] - m[r]).abs()).min(200.0);
            assert_close(got_m[r], m[r], 0.0, || what("maximum"));
            assert_close(got_f[r], f[r], EPS * (far + 8.0) + TINY, || what("factor"));
            assert_close(got_l[r], l[r], f64::from(l[r]) * EPS * (n as f64 + far + 200.0) + TINY, || {
                what("sum")
            });
        }
        assert_eq!(changed[1], got_f.iter().any(|&f| f != 1.0));
    });
}

#[test]
fn softmax_end() {
    cases::<SoftmaxEnd>(400, |rng, run| {
        let w = 16 * (1 + rng.below(3));
        let logit = |rng: &mut Rng| match rng.below(8) {
            0 => f32::NEG_INFINITY,
            1 => rng.signed() * 1e4,
            _ => rng.signed() * 30.0,
        };
        let max: Vec<f32> = (0..w).map(|_| logit(rng)).collect();
        let sum: Vec<f32> =
            max.iter().map(|m| if m.is_finite() { 1.0 + rng.signed().abs() } else { 0.0 }).collect();
        let sink: Vec<f32> = (0..w).map(|_| logit(rng)).collect();
        let has_sink = rng.one_in(2);
        let [max, sum, sink] = [&max, &sum, &sink].map(|values| Guarded::new(rng, values));
        let mut results = [(); 4].map(|()| Guarded::<f32>::unset(rng, w));
        let [want_f, want_l, got_f, got_l] = results.each_mut().map(|buffer| buffer.as_mut_ptr());
        let args = EndArgs {
            w,
            max: max.as_ptr(),
            sum: sum.as_ptr(),
            sink: some(has_sink, sink.as_ptr()),
            factor: want_f,
            lse: want_l,
        };
        // SAFETY: vectors of w elements.
        unsafe {
            SoftmaxEnd::reference(&args);
            run(&EndArgs { factor: got_f, lse: got_l, ..args });
        }
        results.iter().for_each(|buffer| buffer.check());
        let [want_f, want_l, got_f, got_l] = results;
        for r in 0..w {
            let far = if has_sink { f64::from((max[r] - sink[r]).abs()).min(200.0) } else { 0.0 };
            let relative = EPS * (far + 16.0);
            assert_close(got_f[r], want_f[r], f64::from(want_f[r]) * relative + TINY, || {
                format!("factor {r}")
            });
            let tolerance = EPS * f64::from(want_l[r].abs()) * 2.0 + relative;
            assert_close(got_l[r], want_l[r], tolerance, || format!("lse {r}"));
        }
    });
}

/// Where a next tile may lie; nothing there is read.
fn ahead(rng: &mut Rng) -> Ahead {
    Ahead { bytes: rng.pick(&[0, 512, -64]), follows: rng.one_in(2) }
}

/// Values of a type, now and then so small that halves of them are denormal, and their magnitudes.
fn typed<E: Value>(rng: &mut Rng, values: &[f32]) -> (Vec<E>, Vec<f32>) {
    let unit = if rng.one_in(4) { 1e-5 } else { 1.0 };
    let values: Vec<E> = values.iter().map(|&x| E::make(x * unit)).collect();
    let sizes = values.iter().map(|x| x.show().abs()).collect();
    (values, sizes)
}

fn dots_of<E: Source + Value>() {
    cases::<Dots<E>>(600, |rng, run| {
        let longest = if rng.one_in(3) { 400 } else { 150 };
        let (m, n, k) = (small(rng, 20), small(rng, 40), small(rng, longest));
        let (lda, ldb, ldc) = (up(k) + rng.below(9), k + rng.below(9), m + rng.below(9));
        let mut a = rng.values(extent(m, up(k), lda), 2.0);
        for i in 0..m {
            a[i * lda + k..i * lda + up(k)].fill(0.0);
        }
        let mut b = rng.values(extent(n, k, ldb), 2.0);
        let hostile = rng.one_in(4);
        poison(rng, hostile, &mut b);
        let (b, size_b) = typed::<E>(rng, &b);
        let size_a: Vec<f32> = a.iter().map(|x| x.abs()).collect();
        let (a, b) = (Guarded::new(rng, &a), Guarded::new(rng, &b));
        let (unset, ahead) = (vec![-7.5; extent(n, m, ldc)], ahead(rng));
        let [mut want, mut got, mut size] = [(); 3].map(|()| Guarded::new(rng, &unset));
        let args =
            dots::Args { m, n, k, a: a.as_ptr(), lda, b: b.as_ptr(), ldb, ahead, c: want.as_mut_ptr(), ldc };
        // SAFETY: m rows of k rounded up, n of k, n of m.
        unsafe {
            Dots::reference(&args);
            run(&dots::Args { c: got.as_mut_ptr(), ..args });
            let (a, b) = (size_a.as_ptr(), size_b.as_ptr());
            Dots::reference(&dots::Args { a, b, c: size.as_mut_ptr(), ..args.cast::<f32>() });
        }
        got.check();
        compare(&got, &want, (m, ldc), |j, i, _| {
            f64::from(size[j * ldc + i]) * EPS * (k as f64 / 4.0 + 8.0) + TINY
        });
    });
}

#[test]
fn dots_f32() {
    dots_of::<f32>();
}

#[test]
fn dots_bf16() {
    dots_of::<bf16>();
}

#[test]
fn dots_f16() {
    dots_of::<f16>();
}

fn weigh_of<E: Source + Value>() {
    cases::<Weigh<E>>(600, |rng, run| {
        let widest = if rng.one_in(3) { 400 } else { 150 };
        let (m, n, e) = (small(rng, 20), small(rng, 70), small(rng, widest));
        let (lda, ldb, ldc) = (m + rng.below(9), up(e) + rng.below(9), up(e) + rng.below(9));
        let [first, with_factor] = [(); 2].map(|()| rng.one_in(3));
        let ahead = ahead(rng);
        let a = rng.values(extent(n, m, lda), 2.0);
        let mut b = rng.values(extent(n, up(e), ldb), 2.0);
        let hostile = rng.one_in(4);
        poison(rng, hostile, &mut b);
        let (b, size_b) = typed::<E>(rng, &b);
        let (c, pre) = (rng.values(extent(m, up(e), ldc), 2.0), rng.values(m, 2.0));
        let [size_a, size_c, size_pre] =
            [&a, &c, &pre].map(|x| x.iter().map(|x| x.abs()).collect::<Vec<f32>>());
        let [a, pre] = [&a, &pre].map(|values| Guarded::new(rng, values));
        let b = Guarded::new(rng, &b);
        let [mut want, mut got, mut size] = [&c, &c, &size_c].map(|c| Guarded::new(rng, c));
        let args = weigh::Args {
            m,
            n,
            e,
            a: a.as_ptr(),
            lda,
            b: b.as_ptr(),
            ldb,
            ahead,
            c: want.as_mut_ptr(),
            ldc,
            first,
            pre: some(with_factor, pre.as_ptr()),
        };
        // SAFETY: n rows of m and of e rounded up, m rows of e rounded up, m factors.
        unsafe {
            Weigh::reference(&args);
            run(&weigh::Args { c: got.as_mut_ptr(), ..args });
            let (a, b, pre) = (size_a.as_ptr(), size_b.as_ptr(), some(with_factor, size_pre.as_ptr()));
            Weigh::reference(&weigh::Args { a, b, pre, c: size.as_mut_ptr(), ..args.cast::<f32>() });
        }
        got.check();
        compare(&got, &want, (up(e), ldc), |i, c, _| {
            f64::from(size[i * ldc + c]) * EPS * (n as f64 + 4.0) + TINY
        });
    });
}

#[test]
fn weigh_f32() {
    weigh_of::<f32>();
}

#[test]
fn weigh_bf16() {
    weigh_of::<bf16>();
}

#[test]
fn weigh_f16() {
    weigh_of::<f16>();
}

/// Parts that are not there are not looked at.
#[test]
fn plain_terms_do_nothing() {
    let mut x = vec![1.5f32; 64];
    let args = score_terms::Args::plain(2, 32, x.as_mut_ptr(), 32);
    assert!(args.is_plain());
    // SAFETY: two rows of 32.
    unsafe { ScoreTerms::reference(&args) };
    assert_eq!(x, vec![1.5; 64]);
}
