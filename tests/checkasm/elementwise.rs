//! Model: ULP of the result, the bounds of `tests/math.rs` and half of one for the reference's rounding.

use crate::guarded::Guarded;
use crate::support::{TINY, assert_close, assert_same, cases, ulp};
use subquad::kernel::Kernel;
use subquad::kernel::elementwise::{self as ew, Args, Elementwise, Function};
use subquad::kernel::sincos::{self, SinCos};

/// `floor`: results smaller than this may be anything smaller.
fn check<F: Function>(max_ulp: f64, floor: f64) {
    cases::<Elementwise<F>>(400, |rng, run| {
        let n = rng.len();
        let values: Vec<f32> =
            if rng.one_in(4) { (0..n).map(|_| rng.finite()).collect() } else { rng.mixed(n) };
        let src = Guarded::new(rng, &values);
        let mut want = Guarded::<f32>::unset(rng, n);
        let mut got = if rng.one_in(2) { src.copy(rng) } else { Guarded::unset(rng, n) };
        let in_place = got.first().is_some_and(|x| x.to_bits() == src[0].to_bits());
        let from = if in_place { got.as_ptr() } else { src.as_ptr() };
        // SAFETY: every buffer holds n elements.
        unsafe {
            Elementwise::<F>::reference(&Args { n, src: src.as_ptr(), dst: want.as_mut_ptr() });
            run(&Args { n, src: from, dst: got.as_mut_ptr() });
        }
        for i in 0..n {
            let tolerance = ((max_ulp + 0.5) * ulp(want[i])).max(floor);
            // Near overflow the reference may be finite where the kernel isn't, and the reverse.
            if got[i].is_infinite() != want[i].is_infinite() && want[i].abs().min(got[i].abs()) > 3.402_82e38
            {
                continue;
            }
            assert_close(got[i], want[i], tolerance, || {
                format!("element {i} of {n}: {} of {:e}", F::NAME, src[i])
            });
        }
        got.check();
        src.check();
        assert_same(&src, &values, || "source".into());
    });
}

#[test]
fn product() {
    cases::<ew::Product>(400, |rng, run| {
        let n = rng.len();
        let (src, before) = (rng.mixed(n), rng.mixed(n));
        let from = Guarded::new(rng, &src);
        let mut got = Guarded::new(rng, &before);
        let mut want = before.clone();
        // SAFETY: every buffer holds n elements.
        unsafe {
            ew::Product::reference(&Args { n, src: src.as_ptr(), dst: want.as_mut_ptr() });
            run(&Args { n, src: from.as_ptr(), dst: got.as_mut_ptr() });
        }
        for i in 0..n {
            assert_close(got[i], want[i], TINY, || format!("{:e} · {:e}", src[i], before[i]));
        }
        got.check();
        from.check();
    });
}

macro_rules! checks {
    ($($name:ident: $marker:ident, $ulp:expr, $floor:expr;)*) => {$(
        #[test]
        fn $name() {
            check::<ew::$marker>($ulp, $floor);
        }
    )*};
}

checks! {
    exp: ExpFn, 2.3, TINY;
    log: LogFn, 1.1, TINY;
    tanh: TanhFn, 1.6, TINY;
    sigmoid: SigmoidFn, 2.5, TINY;
    silu: SiluFn, 2.5, 2.7e-37;
    softplus: SoftplusFn, 2.0, TINY;
    rsqrt: RsqrtFn, 1.5, TINY;
    elu1: Elu1Fn, 1.2, TINY;
    elu1_neg: Elu1NegFn, 1.2, TINY;
    tanh1: Tanh1Fn, 2.6, TINY;
    relu: ReluFn, 0.0, 0.0;
    relu2: Relu2Fn, 0.5, TINY;
    relu_weight: ReluWeightFn, 0.0, 0.0;
    relu2_weight: Relu2WeightFn, 0.5, TINY;
    laplace_weight: LaplaceWeightFn, 2.0, 2e-7;
    sin: SinFn, 1.6, TINY;
    cos: CosFn, 1.6, TINY;
}

/// What is masked is told from a weight of 0 by its sign.
#[test]
fn masked_weights() {
    fn check<F: Function>() {
        cases::<Elementwise<F>>(1, |_, run| {
            let src = [f32::NEG_INFINITY, -1e30, -0.0, 0.0, f32::NAN, -1.0, -3e38];
            let mut got = src;
            // SAFETY: as many elements in place.
            unsafe { run(&Args { n: src.len(), src: got.as_ptr(), dst: got.as_mut_ptr() }) };
            let masked = got.map(|x| x.to_bits() == 0x8000_0000);
            assert_eq!(masked, [true, false, false, false, false, false, false], "{}: {got:?}", F::NAME);
            assert!(got[4].is_nan(), "{}: {got:?}", F::NAME);
        });
    }
    check::<ew::ReluWeightFn>();
    check::<ew::Relu2WeightFn>();
    check::<ew::LaplaceWeightFn>();
}

#[test]
fn sincos() {
    cases::<SinCos>(400, |rng, run| {
        let n = rng.len();
        let values: Vec<f32> =
            if rng.one_in(4) { (0..n).map(|_| rng.finite()).collect() } else { rng.mixed(n) };
        let src = Guarded::new(rng, &values);
        let outputs = |rng: &mut _| [Guarded::<f32>::unset(rng, n), Guarded::unset(rng, n)];
        let (mut want, mut got) = (outputs(rng), outputs(rng));
        let args = |[sin, cos]: &mut [Guarded<f32>; 2]| sincos::Args {
            n,
            src: src.as_ptr(),
            sin: sin.as_mut_ptr(),
            cos: cos.as_mut_ptr(),
        };
        // SAFETY: every buffer holds n elements.
        unsafe {
            SinCos::reference(&args(&mut want));
            run(&args(&mut got));
        }
        for (got, want) in got.iter().zip(&want) {
            for i in 0..n {
                let tolerance = (2.1 * ulp(want[i])).max(TINY);
                assert_close(got[i], want[i], tolerance, || format!("element {i} of {n}: {:e}", src[i]));
            }
            got.check();
        }
        src.check();
    });
}
