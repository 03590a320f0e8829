//! The derivatives: names, definitions, vectors.

use super::MapGrad;
use crate::kernel::elementwise::Function;
use crate::simd::math;
use pulp::Simd;

macro_rules! slopes {
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
        pub type $kernel = MapGrad<$marker>;
    )*};
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn step(x: f64) -> f64 {
    if x > 0.0 { 1.0 } else { 0.0 }
}

fn relu(x: f64) -> f64 {
    if x > 0.0 { x } else { 0.0 }
}

fn elu1(x: f64) -> f64 {
    if x > 0.0 { 1.0 } else { x.exp() }
}

/// `yes` where `x > 0`, else `no`.
#[inline(always)]
fn above_zero<S: Simd>(s: S, x: S::f32s, yes: S::f32s, no: S::f32s) -> S::f32s {
    math::select(s, s.less_than_f32s(s.splat_f32s(0.0), x), yes, no)
}

#[inline(always)]
fn elu1_slope<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    above_zero(s, x, s.splat_f32s(1.0), math::exp(s, x))
}

slopes! {
    /// 1 if `x > 0`, else `eˣ`.
    Elu1Grad, Elu1Slope, "map_grad_elu1_f32", |x| elu1(x), |s, x| elu1_slope(s, x);
    /// −1 if `x < 0`, else `−e⁻ˣ`.
    Elu1NegGrad, Elu1NegSlope, "map_grad_elu1_neg_f32", |x| -elu1(-x), |s, x| math::neg(s, elu1_slope(s, math::neg(s, x)));
    /// `1 − tanh² x`.
    Tanh1Grad, Tanh1Slope, "map_grad_tanh1_f32", |x| 4.0 * sigmoid(2.0 * x) * sigmoid(-2.0 * x), |s, x| {
        let x = s.add_f32s(x, x);
        let product = s.mul_f32s(math::sigmoid(s, x), math::sigmoid(s, math::neg(s, x)));
        s.mul_f32s(s.splat_f32s(4.0), product)
    };
    /// 1 if `x > 0`, else 0.
    ReluGrad, ReluSlope, "map_grad_relu_f32", |x| step(x), |s, x| above_zero(s, x, s.splat_f32s(1.0), s.splat_f32s(0.0));
    /// `2 max(x, 0)`.
    Relu2Grad, Relu2Slope, "map_grad_relu2_f32", |x| 2.0 * relu(x), |s, x| above_zero(s, x, s.add_f32s(x, x), s.splat_f32s(0.0));
    /// `σ(x) (1 + x σ(−x))`.
    SiluGrad, SiluSlope, "map_grad_silu_f32", |x| sigmoid(x) * (1.0 + x * sigmoid(-x)), |s, x| {
        let rest = math::sigmoid(s, math::neg(s, x));
        s.mul_f32s(math::sigmoid(s, x), s.mul_add_f32s(x, rest, s.splat_f32s(1.0)))
    };
}
