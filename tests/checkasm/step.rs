//! One token against a state, of either type. Model: as for the other tiles, and one rounding of the new state to
//! its type, by either side.

use crate::guarded::Guarded;
use crate::support::{EPS, Rng, TINY, assert_close, assert_same, cases, flushing, seed};
use crate::tiles::{Three, decays, extent, poison, small, some};
use half::bf16;
use std::ptr::null;
use subquad::kernel::Kernel;
use subquad::kernel::step::{self, StateElement, Step};

/// A state of elements `E` with its absolute values: for the kernel, for the reference, and as magnitudes.
struct StateOf<E> {
    got: Guarded<E>,
    want: Vec<E>,
    size: Vec<E>,
}

impl<E: StateElement> StateOf<E> {
    fn new(rng: &mut Rng, values: &[E]) -> StateOf<E> {
        let size = values.iter().map(|&x| E::narrow_reference(x.widen().abs())).collect();
        StateOf { got: Guarded::new(rng, values), want: values.to_vec(), size }
    }
}

fn step_of<E: StateElement>(rounding: f64) {
    cases::<Step<E>>(500, |rng, run| {
        let (d, e, n_sets) = (small(rng, 70), small(rng, 200), 1 + rng.below(3));
        let [has_erase, has_end, has_gamma, has_v, has_post, in_place] = [(); 6].map(|()| rng.one_in(2));
        let has_gamma = has_gamma && !has_erase && !has_v;
        let has_b = has_erase && rng.one_in(2);
        let backwards = rng.one_in(4);
        let (lds, lds_new) = (e + rng.below(5), e + rng.below(5));
        let lds_new = if in_place { lds } else { lds_new };
        let (ldq, ldy, lda, ldpost) =
            (d + rng.below(5), e + rng.below(5), 1 + rng.below(3), 1 + rng.below(3));
        let hostile = rng.one_in(4);
        let mut s0 = rng.values(extent(d, e, lds), 2.0);
        let (mut k, mut erase, mut q) =
            (rng.values(d, 2.0), rng.values(d, 2.0), rng.values(extent(n_sets, d, ldq), 2.0));
        let (mut x0, mut v) = (rng.values(e, 2.0), rng.values(e, 2.0));
        for values in [&mut s0, &mut k, &mut erase, &mut q, &mut x0, &mut v] {
            poison(rng, hostile, values);
        }
        let (mut b, a2) = (rng.values(d, 2.0), rng.values(extent(n_sets, 1, lda), 2.0));
        poison(rng, hostile, &mut b);
        let narrow = |values: &[f32]| Vec::from_iter(values.iter().map(|&x| E::narrow_reference(x)));
        let s0 = narrow(&s0);
        let a = rng.values(extent(n_sets, 1, lda), 2.0);
        let post = rng.values(extent(n_sets, 1, ldpost), 2.0);
        let (end, gamma) = (decays(rng, d), decays(rng, e));
        let skip = rng.signed().abs();
        let inputs =
            [&k, &erase, &q, &v, &a, &post, &end, &gamma, &b, &a2].map(|values| Three::new(rng, values));
        let new0 = if in_place { s0.clone() } else { narrow(&vec![f32::NAN; extent(d, e, lds_new)]) };
        let (s, mut new) = (StateOf::new(rng, &s0), StateOf::new(rng, &new0));
        let y0 = vec![f32::NAN; extent(n_sets, e, ldy)];
        let r0 = vec![f32::NAN; e];
        let mut outputs = [&x0, &y0, &r0].map(|values| Three::new(rng, values));
        let row = |p: *mut E, ld: usize| {
            let last = if backwards && d > 0 { (d - 1) * ld } else { 0 };
            (p.wrapping_add(last), if backwards { -(ld as isize) } else { ld as isize })
        };
        let args = |of: fn(&Three) -> &[f32], s: *const E, s_new: *mut E, [x, y, r]: [*mut f32; 3]| {
            let [k, erase, q, v, a, post, end, gamma, b, a2] =
                inputs.each_ref().map(|three| of(three).as_ptr());
            let (s, lds) = row(if in_place { s_new } else { s.cast_mut() }, lds);
            let (s_new, lds_new) = row(s_new, lds_new);
            step::Args {
                d,
                e,
                s,
                lds,
                s_new,
                lds_new,
                k,
                erase: some(has_erase, erase),
                b: some(has_b, b),
                q,
                ldq,
                n_sets,
                a,
                a2,
                lda,
                end: some(has_end, end),
                gamma: some(has_gamma, gamma),
                v: some(has_v, v),
                skip,
                post: some(has_post, post),
                ldpost,
                x,
                r,
                y,
                ldy,
            }
        };
        // SAFETY: the extents above are those that `step::Args` asks for.
        unsafe {
            let want = outputs.each_mut().map(|three| three.want.as_mut_ptr());
            Step::reference(&args(|t| &t.want, s.want.as_ptr(), new.want.as_mut_ptr(), want));
            let size = outputs.each_mut().map(|three| three.size.as_mut_ptr());
            Step::reference(&args(|t| &t.size, s.size.as_ptr(), new.size.as_mut_ptr(), size));
            let got = outputs.each_mut().map(|three| three.got.as_mut_ptr());
            run(&args(|t| &t.got, s.got.as_ptr(), new.got.as_mut_ptr(), got));
        }
        let what = format!(
            "{d}×{e}, {n_sets} sets, correction {has_erase}, two writes {has_b}, in place {in_place}"
        );
        let [x, y, r] = &outputs;
        let terms = (2 * d + 14) as f64;
        s.got.check();
        new.got.check();
        for (i, before) in new0.iter().enumerate() {
            let (got, want, size) = (new.got[i].widen(), new.want[i].widen(), new.size[i].widen());
            if i % lds_new >= e {
                assert_eq!(
                    got.to_bits(),
                    before.widen().to_bits(),
                    "state of {what}, element {i} was written"
                );
                continue;
            }
            let size = f64::from(size);
            let tolerance = size * (EPS * terms + TINY + 2.0 * rounding) + 64.0 * TINY;
            let tolerance = if size.is_finite() { tolerance } else { 0.0 };
            assert_close(got, want, tolerance, || format!("state of {what}, element {i}"));
        }
        x.check(&x0, |_| Some(terms), &format!("x of {what}"));
        r.check(&r0, |_| has_b.then_some(terms), &format!("r of {what}"));
        y.check(&y0, |i| (i % ldy < e).then_some(terms), &format!("y of {what}"));
    });
}

#[test]
fn step() {
    step_of::<f32>(0.0);
}

#[test]
fn step_bf16() {
    step_of::<bf16>(1.0 / 256.0);
}

/// A `bf16` state gives the very bits of an `f32` state of the same values, the new one rounded.
#[test]
fn step_bf16_is_step_f32_rounded() {
    for (row, wide) in Step::<bf16>::ROWS.iter().zip(Step::<f32>::ROWS) {
        assert_eq!(row.isa, wide.isa);
        if !row.isa.available() {
            continue;
        }
        for case in 0..200u64 {
            let rng = &mut Rng::new(seed().wrapping_add(case << 32));
            let (d, e) = (1 + rng.below(40), 1 + rng.below(150));
            let s = rng.mixed(d * e).into_iter().map(bf16::from_f32).collect::<Vec<_>>();
            // Multiples of 1/16 now and then: their sums lie half way between two neighbours.
            let coarse = rng.one_in(2);
            let mut values = |n| {
                let all = rng.values(n, 1.0).into_iter();
                Vec::from_iter(all.map(|x| if coarse { (x * 16.0).round() / 16.0 } else { x }))
            };
            let [k, erase, b, q, end] = [(); 5].map(|()| values(d));
            let [x, a] = [values(e), values(1)];
            fn run<E>(
                (d, e): (usize, usize),
                [k, erase, b, q, end, x, a]: [&[f32]; 7],
                two: bool,
                s: &mut [E],
                run: unsafe fn(&step::Args<E>),
            ) -> Vec<f32> {
                let (mut x, mut y, mut r) = (x.to_vec(), vec![f32::NAN; e], vec![f32::NAN; e]);
                let args = step::Args {
                    d,
                    e,
                    s: s.as_ptr(),
                    lds: e as isize,
                    s_new: s.as_mut_ptr(),
                    lds_new: e as isize,
                    k: k.as_ptr(),
                    erase: erase.as_ptr(),
                    b: some(two, b.as_ptr()),
                    q: q.as_ptr(),
                    ldq: d,
                    n_sets: 1,
                    a: a.as_ptr(),
                    a2: a.as_ptr(),
                    lda: 1,
                    end: end.as_ptr(),
                    gamma: null(),
                    v: null(),
                    skip: 0.0,
                    post: null(),
                    ldpost: 1,
                    x: x.as_mut_ptr(),
                    r: r.as_mut_ptr(),
                    y: y.as_mut_ptr(),
                    ldy: e,
                };
                // SAFETY: the extents are those that `step::Args` asks for; the state is updated in place.
                unsafe { run(&args) };
                x.extend(y);
                x.extend(r);
                x
            }
            let operands: [&[f32]; 7] = [&k, &erase, &b, &q, &end, &x, &a];
            let two = rng.one_in(2);
            let mut wide_state: Vec<f32> = s.iter().map(|x| x.to_f32()).collect();
            let mut state = s;
            let (mut got, mut want) = (vec![], vec![]);
            flushing(rng.one_in(2), || {
                got = run((d, e), operands, two, &mut state, row.run);
                want = run((d, e), operands, two, &mut wide_state, wide.run);
            });
            assert_same(&got, &want, || format!("outputs on {}, case {case}", row.isa));
            let widened = |values: &[bf16]| Vec::from_iter(values.iter().map(|x| x.to_f32()));
            let rounded = Vec::from_iter(wide_state.into_iter().map(bf16::from_f32));
            assert_same(&widened(&state), &widened(&rounded), || {
                format!("state on {}, case {case}", row.isa)
            });
        }
    }
}
