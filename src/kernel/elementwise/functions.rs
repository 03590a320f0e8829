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
    /// `sin x`.
    Sin, SinFn, "elementwise_sin_f32", |x| x.sin(), |s, x| math::sincos(s, x).0;
    /// `cos x`.
    Cos, CosFn, "elementwise_cos_f32", |x| x.cos(), |s, x| math::sincos(s, x).1;
}
