//! Largest error of the elementary functions on every instruction set of this machine.
//!
//! Sweeps the bit patterns of `f32` at a stride of 4999, or of `SUBQUAD_SWEEP`; the bounds are those of a sweep at 97.
//! Prints the largest error and where it is: `cargo test --test math -- --nocapture`.

use subquad::kernel::Kernel;
use subquad::kernel::elementwise::{self as ew, Args, Elementwise, Function};

/// Distance of `got` from `exact` in units of the last place of `exact`, which must be normal.
fn ulps(got: f32, exact: f64) -> f64 {
    let exponent = exact.abs().log2().floor().clamp(-126.0, 127.0);
    (f64::from(got) - exact).abs() / (exponent - 23.0).exp2()
}

/// Whether results this small may be flushed: their sources pass through denormals.
fn flushes(exact: f64, floor: f64) -> bool {
    exact.abs() < floor
}

/// What is known of a function.
struct Claim {
    /// Largest error in ULP, between the arguments given.
    bounds: &'static [(f32, f32, f64)],
    /// Results smaller than this may be anything below it.
    floor: f64,
}

const INF: f32 = f32::INFINITY;
const TINY: f64 = f32::MIN_POSITIVE as f64;

fn sweep<F: Function>(claim: Claim) {
    let stride: usize = std::env::var("SUBQUAD_SWEEP").map_or(4999, |s| s.parse().expect("a stride"));
    const CHUNK: usize = 1 << 14;
    let mut src = Vec::with_capacity(CHUNK);
    let mut dst = vec![0f32; CHUNK];
    let rows: Vec<_> = Elementwise::<F>::ROWS
        .iter()
        .filter(|row| row.isa.available() && row.isa != subquad::Isa::Scalar)
        .collect();
    let mut worst = vec![vec![(0f64, 0f32, 0f32); claim.bounds.len()]; rows.len()];
    let mut patterns = (0..=u64::from(u32::MAX)).step_by(stride).map(|bits| bits as u32).chain(specials());
    loop {
        src.clear();
        src.extend(patterns.by_ref().take(CHUNK).map(f32::from_bits));
        if src.is_empty() {
            break;
        }
        let exact: Vec<f64> = src.iter().map(|&x| F::scalar(f64::from(x))).collect();
        for (row, worst) in rows.iter().zip(&mut worst) {
            // SAFETY: both hold `src.len()` elements.
            unsafe { (row.run)(&Args { n: src.len(), src: src.as_ptr(), dst: dst.as_mut_ptr() }) };
            for ((&x, &got), &exact) in src.iter().zip(&dst).zip(&exact) {
                let at = || {
                    format!("{} {} at {x:e} ({:#x}): {got:e} for {exact:e}", F::NAME, row.isa, x.to_bits())
                };
                if exact.is_nan() {
                    assert!(got.is_nan(), "{}", at());
                } else if got.is_infinite() || (exact as f32).is_infinite() {
                    // The last number before overflow may round to infinity.
                    assert!(
                        f64::from(got) == exact
                            || (got.signum() as f64 == exact.signum() && exact.abs() > 3.402_822e38),
                        "{}",
                        at()
                    );
                } else if flushes(exact, claim.floor) {
                    assert!(f64::from(got).abs() <= claim.floor, "{}", at());
                } else {
                    let error = ulps(got, exact);
                    let Some(k) = claim.bounds.iter().position(|&(lo, hi, _)| lo <= x && x <= hi) else {
                        continue;
                    };
                    if error > worst[k].0 || error.is_nan() {
                        worst[k] = (error, x, got);
                    }
                }
            }
        }
    }
    for (row, worst) in rows.iter().zip(&worst) {
        for (&(lo, hi, bound), &(error, x, got)) in claim.bounds.iter().zip(worst) {
            println!(
                "{:24} {:7} [{lo:e}, {hi:e}]: {error:.3} ULP at {x:e} ({:#x}), bound {bound}",
                F::NAME,
                row.isa.name(),
                x.to_bits()
            );
            assert!(error <= bound, "{} {}: {error} ULP at {x:e}: {got:e}", F::NAME, row.isa);
        }
    }
}

/// Patterns that a stride may miss: the ends of the classes and of the ranges that the functions distinguish.
fn specials() -> impl Iterator<Item = u32> {
    let values = [
        0.0,
        f32::MIN_POSITIVE,
        INF,
        f32::MAX,
        1.0,
        0.625,
        88.0,
        88.375_93,
        88.722_83,
        87.336_54,
        87.683_1,
        131_072.0,
        1e4,
        17.0,
        9.0,
        std::f32::consts::FRAC_PI_2,
        std::f32::consts::PI,
        0.881_373_6,
        std::f32::consts::SQRT_2,
        std::f32::consts::FRAC_1_SQRT_2,
    ];
    let near = values.into_iter().flat_map(|v: f32| {
        let bits = v.to_bits();
        (bits.saturating_sub(64)..=bits.saturating_add(64)).flat_map(|b| [b, b | 0x8000_0000])
    });
    near.chain([0x7fc0_0000, 0xffc0_0000, 0x7f80_0001, 0x7fff_ffff, 0xff80_ffff, 0x7fab_cdef])
}

macro_rules! claims {
    ($($name:ident: $marker:ident, $floor:expr, $bounds:expr;)*) => {$(
        #[test]
        fn $name() {
            sweep::<ew::$marker>(Claim { bounds: $bounds, floor: $floor });
        }
    )*};
}

claims! {
    exp: ExpFn, TINY, &[(-INF, 88.37, 1.2), (88.37, INF, 2.3)];
    log: LogFn, TINY, &[(0.0, INF, 1.1)];
    tanh: TanhFn, TINY, &[(-INF, INF, 1.6)];
    sigmoid: SigmoidFn, TINY, &[(-INF, INF, 2.5)];
    silu: SiluFn, 2.7e-37, &[(-INF, INF, 2.5)];
    softplus: SoftplusFn, TINY, &[(-INF, INF, 2.0)];
    rsqrt: RsqrtFn, TINY, &[(0.0, INF, 1.5)];
    elu1: Elu1Fn, TINY, &[(-INF, INF, 1.2)];
    elu1_neg: Elu1NegFn, TINY, &[(-INF, INF, 1.2)];
    tanh1: Tanh1Fn, TINY, &[(-INF, INF, 2.6)];
    relu: ReluFn, 0.0, &[(-INF, INF, 0.0)];
    relu2: Relu2Fn, TINY, &[(-INF, INF, 0.5)];
    sin: SinFn, TINY, &[(-INF, INF, 1.6)];
    cos: CosFn, TINY, &[(-INF, INF, 1.6)];
}

/// The promises of `simd::math` that aren't about rounding.
#[test]
fn exact_values() {
    fn check<F: Function>(cases: &[(f32, f32)]) {
        for row in Elementwise::<F>::ROWS.iter().filter(|row| row.isa.available()) {
            for &(x, want) in cases {
                let mut y = [0f32; 40];
                let x = [x; 40];
                // SAFETY: both hold 40 elements.
                unsafe { (row.run)(&Args { n: 40, src: x.as_ptr(), dst: y.as_mut_ptr() }) };
                assert!(y.iter().all(|&y| y == want), "{} {} {}: {}", F::NAME, row.isa, x[0], y[0]);
            }
        }
    }
    check::<ew::ExpFn>(&[
        (0.0, 1.0),
        (-0.0, 1.0),
        (-INF, 0.0),
        (INF, INF),
        (-1e-8, 1.0),
        (-200.0, 0.0),
        (200.0, INF),
    ]);
    check::<ew::LogFn>(&[(0.0, -INF), (-0.0, -INF), (1.0, 0.0), (INF, INF)]);
    check::<ew::TanhFn>(&[(INF, 1.0), (-INF, -1.0), (10.0, 1.0), (-10.0, -1.0), (0.0, 0.0), (1e-30, 1e-30)]);
    check::<ew::SigmoidFn>(&[(INF, 1.0), (-INF, 0.0), (20.0, 1.0), (0.0, 0.5), (-200.0, 0.0)]);
    check::<ew::SoftplusFn>(&[(INF, INF), (-INF, 0.0), (100.0, 100.0)]);
    check::<ew::RsqrtFn>(&[(0.0, INF), (INF, 0.0), (4.0, 0.5), (1.0, 1.0)]);
    check::<ew::ReluFn>(&[(-INF, 0.0), (-0.0, 0.0), (INF, INF), (1.5, 1.5)]);
}

/// `eˣ ≤ 1` for `x ≤ 0`, or a decay factor could grow.
#[test]
fn exp_of_negative_is_at_most_one() {
    let x: Vec<f32> = (0..1 << 16).map(|i| -f32::from_bits(i << 14)).filter(|x| !x.is_nan()).collect();
    let mut y = vec![0f32; x.len()];
    for row in ew::Exp::ROWS.iter().filter(|row| row.isa.available()) {
        // SAFETY: both hold `x.len()` elements.
        unsafe { (row.run)(&Args { n: x.len(), src: x.as_ptr(), dst: y.as_mut_ptr() }) };
        assert!(y.iter().all(|y| (0.0..=1.0).contains(y)), "{}", row.isa);
    }
}
