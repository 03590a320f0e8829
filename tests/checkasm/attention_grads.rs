//! Kernels of softmax attention in reverse. Model: roundings (2⁻²⁴) of the magnitudes that are added, times the weight, whose
//! exponential turns the rounding of its argument into a relative one.

use crate::guarded::Guarded;
use crate::support::{EPS, TINY, assert_close, cases};
use crate::tiles::{extent, poison, small, some};
use std::ptr::null_mut;
use subquad::kernel::Kernel;
use subquad::kernel::online_softmax::MASKED;
use subquad::kernel::score_grad::{self, ScoreGrad};

#[test]
fn score_grad() {
    cases::<ScoreGrad>(800, |rng, run| {
        let (n, w) = (small(rng, 70), 16 * (1 + rng.below(3)));
        let ld = w + rng.below(20);
        let [probe, capped, distances, in_place] = [(); 4].map(|()| rng.one_in(2));
        let cap = if capped { rng.pick(&[1.0, 30.0]) } else { 0.0 };
        let hostile = rng.one_in(4);
        let mut tile = |scale: f32| {
            let mut x = rng.values(extent(n, w, ld), scale);
            poison(rng, hostile, &mut x);
            x
        };
        let (mut x, dp, y, t) = (tile(20.0), tile(2.0), tile(0.9), tile(2.0));
        let y: Vec<f32> = y.iter().map(|y| y * cap).collect();
        let every = rng.pick(&[0, 2, 10]);
        x.iter_mut().filter(|_| every > 0 && rng.one_in(every)).for_each(|x| *x = f32::NEG_INFINITY);
        let seen: Vec<bool> = x.iter().map(|&x| x != f32::NEG_INFINITY).collect();
        // Some columns are no queries.
        let shift: Vec<f32> =
            (0..w).map(|_| if rng.one_in(8) { f32::MAX } else { 15.0 + 5.0 * rng.signed() }).collect();
        let position: Vec<f32> = (0..w).map(|_| rng.below(200) as f32 - 60.0).collect();
        let [factor, delta, mean, along, distance] = [(); 5].map(|()| rng.values(w, 2.0));
        let vectors = [&shift, &factor, &delta, &mean, &along, &position];
        let guarded = vectors.map(|values| Guarded::new(rng, values));
        let [p_shift, p_factor, p_delta, p_mean, p_along, p_position] =
            guarded.each_ref().map(|buffer| buffer.as_ptr());
        let mut all =
            [(); 2].map(|()| [&x, &dp, &dp, &y, &t, &distance].map(|values| Guarded::new(rng, values)));
        for (i, [x, dp, dx, y, t, distance]) in all.iter_mut().enumerate() {
            let dp = dp.as_mut_ptr();
            let args = score_grad::Args {
                dx: if in_place { dp } else { dx.as_mut_ptr() },
                shift: p_shift,
                factor: p_factor,
                delta: p_delta,
                cap,
                y: if capped { y.as_mut_ptr() } else { null_mut() },
                t: if probe { t.as_mut_ptr() } else { null_mut() },
                mean: some(probe, p_mean),
                along: some(probe, p_along),
                position: some(distances, p_position),
                distance: if distances { distance.as_mut_ptr() } else { null_mut() },
                ..score_grad::Args::plain(n, w, ld, x.as_mut_ptr(), dp)
            };
            // SAFETY: tiles of n rows of w elements, vectors of w.
            unsafe { if i == 0 { ScoreGrad::reference(&args) } else { run(&args) } };
        }
        all.iter().flatten().for_each(|buffer| buffer.check());
        let [want, got] = &all;
        let mut moved = vec![0.0f64; w];
        for (at, (s, r)) in (0..n * ld).map(|at| (at, (at / ld, at % ld))).filter(|(at, _)| *at < x.len()) {
            let what = |name: &str| format!("{name} of row {s}, column {r} of {w}");
            let gradient = if in_place { 1 } else { 2 };
            if r >= w || !seen[at] {
                for i in [0, gradient, 3, 4] {
                    let wanted = want[i][at];
                    assert_close(got[i][at], wanted, 0.0, || what("what is masked or beside"));
                    assert!(r >= w || i == 3 && !capped || i == 4 && !probe || wanted == 0.0);
                }
                assert!(r >= w || got[0][at].to_bits() == MASKED, "{}", what("weight"));
                continue;
            }
            // The weight from the same numbers.
            let far = f64::from((x[at] - shift[r]).abs()).min(200.0);
            let p = f64::from(factor[r].abs()) * (f64::from(x[at]) - f64::from(shift[r])).exp();
            let [dp, delta, along, apart] =
                [dp[at].abs(), delta[r].abs(), along[r].abs(), mean[r].abs() + t[at].abs()].map(f64::from);
            let (weight, inner) =
                if probe { (1.0 + apart, dp + delta + apart * (dp + along)) } else { (1.0, dp + delta) };
            let rounding = p * EPS * (far + 16.0);
            let sizes = [weight, inner, inner * 4.0, dp + along];
            for (i, size) in [0, gradient, 3, 4].into_iter().zip(sizes) {
                let wanted = want[i][at];
                let unused = i == 3 && !capped || i == 4 && !probe;
                let tolerance = if unused { 0.0 } else { rounding * size + TINY };
                if wanted.is_nan() || tolerance.is_finite() {
                    assert_close(got[i][at], wanted, tolerance, || what(["W", "dX", "dX", "dY", "dt"][i]));
                }
            }
            moved[r] += f64::from((position[r] - s as f32).abs()) * p * inner * (far + 32.0 + n as f64);
        }
        for r in 0..w {
            let tolerance = (moved[r] + f64::from(distance[r].abs()) * 8.0) * EPS + TINY;
            if tolerance.is_finite() {
                assert_close(got[5][r], want[5][r], tolerance, || format!("distances of column {r}"));
            }
        }
    });
}
