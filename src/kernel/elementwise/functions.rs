//! The functions: names, definitions, vectors.

use super::{Elementwise, Function};
use crate::simd::math;
use pulp::Simd;

macro_rules! functions {
    ($($(#[$doc:meta])* $kernel:ident, $marker:ident, $name:literal, |$x:ident| $scalar:expr, |$s:ident, $v:ident| $vector:expr;)*) => {$(
        #[doc = concat!("Marks the function of [`", stringify!($kernel), "`].")]
        pub struct $marker;
        impl Function for $marker {
            const NAME: &'static str = $name;
            #[inline(always)]
            fn scalar($x: f64) -> f64 {
                $scalar
            }
            #[inline(always)]
            fn vector<S: Simd>($s: S, $v: S::f32s) -> S::f32s {
                $vector
            }
        }
        $(#[$doc])*
        pub type $kernel = Elementwise<$marker>;
    )*};
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn elu1(x: f64) -> f64 {
    if x > 0.0 { x + 1.0 } else { x.exp() }
}

/// `f64::max` would turn NaN into 0.
fn relu(x: f64) -> f64 {
    if x <= 0.0 { 0.0 } else { x }
}

/// `½ erfc((√½ − x) √(2π))`: a series where it is short, else Laplace's continued fraction.
fn laplace(x: f64) -> f64 {
    let z = (x - std::f64::consts::FRAC_1_SQRT_2) * std::f64::consts::TAU.sqrt();
    let a = z.abs();
    let tail = if a < 3.0 {
        let mut term = a;
        let sum: f64 = (0..60)
            .map(|k| {
                let this = term / f64::from(2 * k + 1);
                term *= -a * a / f64::from(k + 1);
                this
            })
            .sum();
        0.5 - sum / std::f64::consts::PI.sqrt()
    } else {
        let fraction = (1..60).rev().fold(0.0, |f, k| f64::from(k) / 2.0 / (a + f));
        0.5 * (-a * a).exp() / (std::f64::consts::PI.sqrt() * (a + fraction))
    };
    if z < 0.0 { tail } else { 1.0 - tail }
}

/// The weight of a masked score, which is `−∞`: as in `online_softmax`, no visible one has it.
fn visible(x: f64, weight: f64) -> f64 {
    if x == f64::NEG_INFINITY { -0.0 } else { weight }
}

/// The same of a vector.
#[inline(always)]
fn visible_lanes<S: Simd>(s: S, x: S::f32s, weight: S::f32s) -> S::f32s {
    let masked = s.equal_f32s(x, s.splat_f32s(f32::NEG_INFINITY));
    math::select(s, masked, s.splat_f32s(-0.0), weight)
}

functions! {
    /// `eˣ`.
    Exp, ExpFn, "elementwise_exp_f32", |x| x.exp(), |s, x| math::exp(s, x);
    /// `ln x`.
    Log, LogFn, "elementwise_log_f32", |x| x.ln(), |s, x| math::log(s, x);
    /// `tanh x`.
    Tanh, TanhFn, "elementwise_tanh_f32", |x| x.tanh(), |s, x| math::tanh(s, x);
    /// `1 / (1 + e⁻ˣ)`.
    Sigmoid, SigmoidFn, "elementwise_sigmoid_f32", |x| sigmoid(x), |s, x| math::sigmoid(s, x);
    /// `x / (1 + e⁻ˣ)`.
    Silu, SiluFn, "elementwise_silu_f32", |x| x * sigmoid(x), |s, x| math::silu(s, x);
    /// `max(x, 0) + log(1 + e^{−|x|})`.
    Softplus, SoftplusFn, "elementwise_softplus_f32", |x| relu(x) + (-x.abs()).exp().ln_1p(), |s, x| math::softplus(s, x);
    /// `1/√x`.
    Rsqrt, RsqrtFn, "elementwise_rsqrt_f32", |x| 1.0 / x.sqrt(), |s, x| math::rsqrt(s, x);
    /// `x + 1` if `x > 0`, else `eˣ`.
    Elu1, Elu1Fn, "elementwise_elu1_f32", |x| elu1(x), |s, x| math::elu1(s, x);
    /// `elu1(−x)`.
    Elu1Neg, Elu1NegFn, "elementwise_elu1_neg_f32", |x| elu1(-x), |s, x| math::elu1(s, math::neg(s, x));
    /// `tanh x + 1`, which is `2 sigmoid(2x)`: written so, it stays positive and keeps its digits for `x < 0`.
    Tanh1, Tanh1Fn, "elementwise_tanh1_f32", |x| 2.0 * sigmoid(2.0 * x), |s, x| {
        let y = math::sigmoid(s, s.add_f32s(x, x));
        s.add_f32s(y, y)
    };
    /// `max(x, 0)`.
    Relu, ReluFn, "elementwise_relu_f32", |x| relu(x), |s, x| math::relu(s, x);
    /// `max(x, 0)²`.
    Relu2, Relu2Fn, "elementwise_relu2_f32", |x| relu(x) * relu(x), |s, x| { let r = math::relu(s, x); s.mul_f32s(r, r) };
    /// `max(x, 0)` of a score: `−0` where it is masked.
    ReluWeight, ReluWeightFn, "elementwise_relu_weight_f32", |x| visible(x, relu(x)), |s, x| {
        visible_lanes(s, x, math::relu(s, x))
    };
    /// `max(x, 0)²` of a score, likewise.
    Relu2Weight, Relu2WeightFn, "elementwise_relu2_weight_f32", |x| visible(x, relu(x) * relu(x)), |s, x| {
        let r = math::relu(s, x);
        visible_lanes(s, x, s.mul_f32s(r, r))
    };
    /// [`math::laplace`] of a score, likewise.
    LaplaceWeight, LaplaceWeightFn, "elementwise_laplace_weight_f32", |x| visible(x, laplace(x)), |s, x| {
        visible_lanes(s, x, math::laplace(s, x))
    };
    /// `sin x`.
    Sin, SinFn, "elementwise_sin_f32", |x| x.sin(), |s, x| math::sincos(s, x).0;
    /// `cos x`.
    Cos, CosFn, "elementwise_cos_f32", |x| x.cos(), |s, x| math::sincos(s, x).1;
}
