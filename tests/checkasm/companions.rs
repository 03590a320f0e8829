//! Causal convolution and gates, forward and backward. Model: roundings (2⁻²⁴) of the magnitudes of what is summed.

use crate::guarded::Guarded;
use crate::support::{EPS, Rng, TINY, assert_close, assert_same, cases};
use subquad::kernel::causal_conv::{self, CausalConv, MAX_WIDTH, PANEL};
use subquad::kernel::causal_conv_grad::{self, CausalConvGrad};
use subquad::kernel::gate::{self, Function, Gate};
use subquad::kernel::gate_grad::{self, GateGrad};
use subquad::kernel::{Kernel, KernelFn};

/// Values, in some cases hostile ones.
fn input(rng: &mut Rng, n: usize, hostile: bool) -> Vec<f32> {
    if hostile { rng.mixed(n) } else { rng.values(n, 3.0) }
}

/// Where only an order of summation decides between a number and an overflow, nothing is known.
#[track_caller]
fn close(got: f32, want: f32, tolerance: f64, what: impl FnOnce() -> String) {
    let known = tolerance.is_finite() && tolerance < 1e30;
    if known {
        assert_close(got, want, tolerance + TINY, what);
    }
}

#[test]
fn causal_conv() {
    cases::<CausalConv>(600, |rng, run| {
        let (n, d, width) = (rng.below(40), rng.len().min(150), 1 + rng.below(MAX_WIDTH));
        let (silu, has_bias, hostile) = (rng.one_in(2), rng.one_in(2), rng.one_in(4));
        let panels = d.div_ceil(PANEL);
        let (lds, ldd) = (d + rng.below(5), d + rng.below(5));
        let rows = |n: usize, ld: usize| if n == 0 { 0 } else { (n - 1) * ld + d };
        let backwards = rng.one_in(4);
        let src = input(rng, rows(n + width - 1, lds), hostile);
        let weight = rng.values(panels * width * PANEL, 2.0);
        let bias = input(rng, panels * PANEL, hostile);
        let given = [&src, &weight, &bias].map(|values| Guarded::new(rng, values));
        let (mut want, mut got) =
            (Guarded::<f32>::unset(rng, rows(n, ldd)), Guarded::<f32>::unset(rng, rows(n, ldd)));
        let args = |dst: *mut f32| {
            // The last row first: negative distances, of results too.
            let last = if backwards && n > 0 { (n - 1) * ldd } else { 0 };
            causal_conv::Args {
                n,
                d,
                width,
                src: given[0].as_ptr(),
                src_stride: lds as isize,
                weight: given[1].as_ptr(),
                bias: if has_bias { given[2].as_ptr() } else { std::ptr::null() },
                silu,
                dst: dst.wrapping_add(last),
                dst_stride: if backwards { -(ldd as isize) } else { ldd as isize },
            }
        };
        // SAFETY: the extents above are those that `Args` asks for.
        unsafe {
            CausalConv::reference(&args(want.as_mut_ptr()));
            run(&args(got.as_mut_ptr()));
        }
        got.check();
        given.iter().for_each(Guarded::check);
        for at in 0..rows(n, ldd) {
            let (row, c) = (at / ldd, at % ldd);
            if c >= d {
                assert_eq!(got[at].to_bits(), want[at].to_bits(), "between rows");
                continue;
            }
            let i = if backwards { n - 1 - row } else { row };
            let tap = |j: usize| f64::from(weight[(c / PANEL * width + j) * PANEL + c % PANEL]);
            let terms = (0..width).map(|j| (f64::from(src[(i + j) * lds + c]) * tap(j)).abs());
            let magnitude = terms.sum::<f64>() + if has_bias { f64::from(bias[c]).abs() } else { 0.0 };
            let tolerance = EPS * (magnitude * (width + 2) as f64 * 1.1 + 6.0 * f64::from(want[at]).abs());
            close(got[at], want[at], tolerance + 3e-37, || {
                format!("token {i} of {n}, channel {c} of {d}, W = {width}")
            });
        }
    });
}

#[test]
fn causal_conv_grad() {
    cases::<CausalConvGrad>(400, |rng, run| {
        let (n, width) = (rng.below(40), 1 + rng.below(MAX_WIDTH));
        let (silu, has_bias, in_place) = (rng.one_in(2), rng.one_in(2), rng.one_in(2));
        let src = rng.values((n + width - 1) * PANEL, 3.0);
        let weight = rng.values(width * PANEL, 2.0);
        let [bias, db] = [(); 2].map(|()| rng.values(PANEL, 2.0));
        let (dout, dw) = (rng.values(n * PANEL, 2.0), rng.values(width * PANEL, 2.0));
        let given = [&src, &weight, &bias, &dout].map(|values| Guarded::new(rng, values));
        let mut results = [(); 2].map(|()| [&dout, &dw, &db].map(|values| Guarded::new(rng, values)));
        let args = |[dz, dw, db]: [*mut f32; 3]| causal_conv_grad::Args {
            n,
            width,
            src: given[0].as_ptr(),
            weight: given[1].as_ptr(),
            bias: if has_bias { given[2].as_ptr() } else { std::ptr::null() },
            silu,
            dout: if in_place { dz.cast_const() } else { given[3].as_ptr() },
            dz,
            dw,
            db,
        };
        let [want, got] = &mut results;
        // SAFETY: the extents above are those that `Args` asks for.
        unsafe {
            CausalConvGrad::reference(&args(want.each_mut().map(|buffer| buffer.as_mut_ptr())));
            run(&args(got.each_mut().map(|buffer| buffer.as_mut_ptr())));
        }
        got.iter().chain(&given).for_each(Guarded::check);
        // The slope of silu changes by at most half of what its argument does, and is at most 1.1.
        let magnitude = |i: usize, c: usize| {
            let terms = (0..width).map(|j| (src[(i + j) * PANEL + c] * weight[j * PANEL + c]).abs());
            terms.sum::<f32>() + if has_bias { bias[c].abs() } else { 0.0 }
        };
        let of_dz = |i: usize, c: usize| {
            let z = if silu { f64::from(magnitude(i, c)) * (width + 8) as f64 + 12.0 } else { 1.0 };
            EPS * f64::from(dout[i * PANEL + c].abs()) * z
        };
        for at in 0..n * PANEL {
            close(got[0][at], want[0][at], of_dz(at / PANEL, at % PANEL), || {
                format!("dz {at} of {n} tokens")
            });
        }
        for c in 0..PANEL {
            let sum = |x: &dyn Fn(usize) -> f64| {
                let terms = (0..n).map(|i| {
                    x(i) * (of_dz(i, c) + EPS * (n + 2) as f64 * f64::from(want[0][i * PANEL + c]).abs())
                });
                terms.sum::<f64>()
            };
            close(got[2][c], want[2][c], sum(&|_| 1.0) + 2e-6, || format!("db {c} of {n} tokens"));
            for j in 0..width {
                let x = |i: usize| f64::from(src[(i + j) * PANEL + c]).abs();
                let at = j * PANEL + c;
                close(got[1][at], want[1][at], sum(&x) + 2e-6, || {
                    format!("dw {j} {c} of {n} tokens, W = {width}")
                });
            }
        }
    });
}

/// What the two kernels of gates have in common: `n`, `d`, `ld`, function, and `bias`, `pre`, `post`.
struct Case {
    n: usize,
    d: usize,
    ld: usize,
    function: Function,
    factors: [Vec<f32>; 3],
}

impl Case {
    fn new(rng: &mut Rng) -> Case {
        let (n, d) = (rng.below(8), rng.len().min(150));
        let ld = d + rng.below(5);
        let function = rng.pick(&[Function::Softplus, Function::Sigmoid]);
        let factors = [(); 3].map(|()| rng.values(d, 2.0));
        Case { n, d, ld, function, factors }
    }

    /// Largest magnitude of the function's argument, with that of the sum in it.
    fn argument(&self, x: f32, l: usize) -> f64 {
        let [bias, pre, _] = self.factors.each_ref().map(|values| f64::from(values[l]));
        pre.abs() * (f64::from(x).abs() + bias.abs())
    }
}

#[test]
fn gate() {
    cases::<Gate>(500, |rng, run| {
        let case = Case::new(rng);
        let Case { n, d, ld, function, .. } = case;
        let hostile = rng.one_in(4);
        let x = input(rng, n * ld, hostile);
        let given = case.factors.each_ref().map(|values| Guarded::new(rng, values));
        let (mut want, mut got) = (Guarded::new(rng, &x), Guarded::new(rng, &x));
        let call = |run: KernelFn<gate::Args>, x: *mut f32| {
            let [bias, pre, post] = given.each_ref().map(|buffer| buffer.as_ptr());
            // SAFETY: the extents above are those that `Args` asks for.
            unsafe { run(&gate::Args { n, d, x, ld, bias, pre, post, function }) }
        };
        call(Gate::reference, want.as_mut_ptr());
        call(run, got.as_mut_ptr());
        got.check();
        given.iter().for_each(Guarded::check);
        for at in 0..n * ld {
            let l = at % ld;
            if l >= d {
                assert_same(&got[at..=at], &x[at..=at], || "padding".into());
                continue;
            }
            // Of the result relative: the function's logarithm changes by no more than its argument.
            let argument = case.argument(x[at], l);
            // What the function flushes is multiplied by up to 2.
            let tolerance = EPS * f64::from(want[at]).abs() * (3.0 * argument + 8.0) + 2.0 * TINY;
            close(got[at], want[at], tolerance, || format!("{function:?} of {:e}, column {l} of {d}", x[at]));
        }
    });
}

#[test]
fn gate_grad() {
    cases::<GateGrad>(500, |rng, run| {
        let case = Case::new(rng);
        let Case { n, d, ld, function, .. } = case;
        let (x, dy) = (rng.values(n * ld, 5.0), rng.values(n * ld, 2.0));
        let sums = [(); 2].map(|()| rng.values(d, 2.0));
        let given = case.factors.each_ref().map(|values| Guarded::new(rng, values));
        let from = Guarded::new(rng, &x);
        let mut results = [(); 2].map(|()| [&dy, &sums[0], &sums[1]].map(|values| Guarded::new(rng, values)));
        let args = |[dy, dbias, da]: [*mut f32; 3]| {
            let [bias, pre, post] = given.each_ref().map(|buffer| buffer.as_ptr());
            gate_grad::Args { n, d, x: from.as_ptr(), dy, ld, bias, pre, post, function, dbias, da }
        };
        let [want, got] = &mut results;
        // SAFETY: the extents above are those that `Args` asks for.
        unsafe {
            GateGrad::reference(&args(want.each_mut().map(|buffer| buffer.as_mut_ptr())));
            run(&args(got.each_mut().map(|buffer| buffer.as_mut_ptr())));
        }
        got.iter().chain(&given).chain([&from]).for_each(Guarded::check);
        let roundings = |at: usize| EPS * (3.0 * case.argument(x[at], at % ld) + 12.0 + n as f64);
        for at in 0..n * ld {
            let (w, l) = (f64::from(want[0][at]), at % ld);
            let tolerance = if l < d { roundings(at) * w.abs() } else { 0.0 };
            assert_close(got[0][at], want[0][at], tolerance + TINY, || format!("dx, column {l} of {d}"));
        }
        for l in 0..d {
            let [bias, pre, post] = case.factors.each_ref().map(|values| f64::from(values[l]));
            let (mut of_bias, mut of_a) = (2e-6, 2e-6);
            for at in (0..n).map(|i| i * ld + l) {
                let sum = f64::from(x[at]).abs() + bias.abs();
                let dx = f64::from(want[0][at]).abs();
                let softplus = (pre.abs() * sum + 0.7) * f64::from(dy[at]).abs() * post.abs();
                of_bias += roundings(at) * dx;
                of_a += roundings(at) * if function == Function::Softplus { softplus } else { dx * sum };
            }
            assert_close(got[1][l], want[1][l], of_bias, || format!("dbias {l} of {d}, {n} rows"));
            assert_close(got[2][l], want[2][l], of_a, || format!("da {l} of {d}, {n} rows, {function:?}"));
        }
    });
}
