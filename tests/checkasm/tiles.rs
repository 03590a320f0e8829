//! The tiles of the linear engine. Model: a sum of products of `n` terms, in any order, is within `n + c` roundings of
//! the sum of their magnitudes, and the magnitudes are what the reference makes of absolute values. Decays may
//! underflow on their way: what that loses is below the smallest normal number times the magnitude.

use crate::guarded::Guarded;
use crate::support::{EPS, Rng, TINY, assert_close, cases};
use std::ptr::{null, null_mut};
use subquad::kernel::Kernel;
use subquad::kernel::decay_rows::{self, DecayRows};
use subquad::kernel::denominator::{self, Denominator};
use subquad::kernel::matmul::{self, Matmul};
use subquad::kernel::scores::{ChannelArgs, ScoresChannel, ScoresToken, TokenArgs};
use subquad::kernel::solve::{self, Solve};
use subquad::kernel::value_decay::{self, ValueDecay};

pub const C: usize = 16;

/// Elements of `rows` rows of `columns` that are `ld` apart: nothing after the last one.
pub fn extent(rows: usize, columns: usize, ld: usize) -> usize {
    if rows == 0 { 0 } else { (rows - 1) * ld + columns }
}

pub fn up(n: usize) -> usize {
    n.next_multiple_of(16)
}

/// A small extent with all remainders, seldom zero.
pub fn small(rng: &mut Rng, below: usize) -> usize {
    if rng.one_in(20) { 0 } else { 1 + rng.below(below) }
}

pub fn rows_of_chunk(rng: &mut Rng) -> usize {
    if rng.one_in(3) { C } else { rng.below(C + 1) }
}

/// Factors of a decay, some of them 0, 1 or tiny.
pub fn decays(rng: &mut Rng, n: usize) -> Vec<f32> {
    let every = rng.pick(&[2, 10, 100]);
    let mut one = || if rng.one_in(every) { rng.pick(&[0.0, 1.0, 1e-20, 1e-38]) } else { rng.signed().abs() };
    (0..n).map(|_| one()).collect()
}

pub fn some<T>(on: bool, p: *const T) -> *const T {
    if on { p } else { null() }
}

/// The same numbers in three places: for the kernel, for the reference, and as absolute values.
pub struct Three {
    pub got: Guarded<f32>,
    pub want: Vec<f32>,
    pub size: Vec<f32>,
}

impl Three {
    pub fn new(rng: &mut Rng, values: &[f32]) -> Three {
        let size = values.iter().map(|x| x.abs()).collect();
        Three { got: Guarded::new(rng, values), want: values.to_vec(), size }
    }

    /// Results that are not numbers yet.
    fn unset(rng: &mut Rng, len: usize) -> Three {
        Three::new(rng, &vec![f32::NAN; len])
    }

    /// Compares element by element, where `roundings` says by how much; elsewhere nothing may have changed.
    #[track_caller]
    pub fn check(&self, before: &[f32], roundings: impl Fn(usize) -> Option<f64>, what: &str) {
        self.got.check();
        for (i, before) in before.iter().enumerate() {
            match roundings(i) {
                Some(n) => {
                    let size = f64::from(self.size[i]);
                    // Where the magnitude is not finite, specials must agree.
                    let tolerance =
                        if size.is_finite() { size * (EPS * n + TINY) + 64.0 * TINY } else { 0.0 };
                    assert_close(self.got[i], self.want[i], tolerance, || format!("{what}, element {i}"));
                }
                None => {
                    assert_eq!(self.got[i].to_bits(), before.to_bits(), "{what}, element {i} was written");
                }
            }
        }
    }
}

/// Puts NaN or an infinity somewhere, in some calls.
pub fn poison(rng: &mut Rng, on: bool, values: &mut [f32]) {
    if on && !values.is_empty() && rng.one_in(3) {
        let at = rng.below(values.len());
        values[at] = rng.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
    }
}

#[test]
fn matmul() {
    cases::<Matmul>(800, |rng, run| {
        let (m, n, k) = (small(rng, 40), small(rng, 90), small(rng, 70));
        let by_columns = rng.one_in(2);
        let [has_c0, has_pre, has_col, has_l, has_l2, has_post, in_place] = [(); 7].map(|()| rng.one_in(2));
        let [has_u, has_u2] = [has_l, has_l2].map(|on| on && m <= C);
        let hostile = rng.one_in(4) && !has_u && !has_u2;
        let lda = if by_columns { m } else { k } + rng.below(5);
        let (ldb, ldu) = (up(n) + rng.below(5), up(n) + rng.below(5));
        let ldl = m + rng.below(5);
        // What C0 reads of its last row, C has to have, where both are one.
        let width = if has_c0 && in_place { up(n) } else { n };
        let (ldc, ldc0) = (width + rng.below(9), up(n) + rng.below(9));
        let backwards = rng.one_in(4);
        let mut a = rng.values(if by_columns { extent(k, m, lda) } else { extent(m, k, lda) }, 2.0);
        let mut b = rng.values(extent(k, up(n), ldb), 2.0);
        let mut c0 = rng.values(extent(m, up(n), ldc0), 2.0);
        let (mut pre, mut col, mut post) = (rng.values(m, 2.0), rng.values(up(n), 2.0), rng.values(m, 2.0));
        let [mut l, mut l2] = [(); 2].map(|()| rng.values(extent(m, m, ldl), 2.0));
        for l in [&mut l, &mut l2] {
            (0..m).for_each(|i| (i + 1..m).for_each(|j| l[i * ldl + j] = 0.0));
        }
        let [u, u2] = [(); 2].map(|()| rng.values(extent(m, up(n), ldu), 2.0));
        for values in [&mut a, &mut b, &mut c0, &mut pre, &mut col, &mut post] {
            poison(rng, hostile, values);
        }
        let before = if has_c0 && in_place {
            rng.values(extent(m, width, ldc), 2.0)
        } else {
            vec![f32::NAN; extent(m, n, ldc)]
        };
        let inputs = [&a, &b, &c0, &pre, &col, &post, &l, &u, &l2, &u2].map(|values| Three::new(rng, values));
        let mut c = Three::new(rng, &before);
        let row = |p: *mut f32, ld: usize, len: usize| {
            let last = if backwards && len > 0 { (m - 1) * ld } else { 0 };
            (p.wrapping_add(last), if backwards { -(ld as isize) } else { ld as isize })
        };
        let args = |of: fn(&Three) -> &[f32], c: *mut f32| {
            let [a, b, c0, pre, col, post, l, u, l2, u2] = inputs.each_ref().map(|three| of(three).as_ptr());
            let (c, ldc) = row(c, ldc, before.len());
            let (c0, ldc0) = if in_place {
                (c.cast_const(), ldc)
            } else {
                let (c0, ldc0) = row(c0.cast_mut(), ldc0, extent(m, up(n), ldc0));
                (c0.cast_const(), ldc0)
            };
            matmul::Args {
                m,
                n,
                k,
                a,
                lda,
                a_by_columns: by_columns,
                b,
                ldb,
                c,
                ldc,
                c0: some(has_c0, c0),
                ldc0,
                pre: some(has_pre, pre),
                col: some(has_col, col),
                l: some(has_u, l),
                ldl,
                u: some(has_u, u),
                ldu,
                l2: some(has_u2, l2),
                u2: some(has_u2, u2),
                post: some(has_post, post),
            }
        };
        // SAFETY: the extents above are those that `matmul::Args` asks for.
        unsafe {
            let (want, size, got) = (c.want.as_mut_ptr(), c.size.as_mut_ptr(), c.got.as_mut_ptr());
            Matmul::reference(&args(|t| &t.want, want));
            Matmul::reference(&args(|t| &t.size, size));
            run(&args(|t| &t.got, got));
        }
        let triangles = usize::from(has_u) + usize::from(has_u2);
        let terms = (k + triangles * m + 6) as f64;
        let what = format!("{m}×{n}×{k}, by columns {by_columns}");
        c.check(&before, |i| (i % ldc < n).then_some(terms), &what);

        // A column's bits don't depend on how many there are.
        if n > 1 && !(has_c0 && in_place) {
            let fewer = 1 + rng.below(n - 1);
            let mut part = Three::unset(rng, before.len());
            let got = part.got.as_mut_ptr();
            // SAFETY: as above, with fewer columns of the same operands.
            unsafe { run(&matmul::Args { n: fewer, ..args(|t| &t.got, got) }) };
            for i in (0..before.len()).filter(|i| i % ldc < fewer) {
                let same =
                    part.got[i].to_bits() == c.got[i].to_bits() || part.got[i].is_nan() && c.got[i].is_nan();
                assert!(same, "{what}: element {i} depends on the number of columns");
            }
        }
    });
}

#[test]
fn solve() {
    cases::<Solve>(500, |rng, run| {
        let n = small(rng, 80);
        let ld = up(n) + rng.below(5);
        let rows = rows_of_chunk(rng);
        let scale = rng.pick(&[0.1, 0.5, 1.0]);
        let mut coef = rng.values(C * C, scale);
        for i in 0..C {
            // Only what is below the diagonal is read, and past the end of the chunk it is zero.
            (i..C).for_each(|j| coef[i * C + j] = f32::NAN);
            (0..if i >= rows { i } else { 0 }).for_each(|j| coef[i * C + j] = 0.0);
        }
        let mut before = rng.values(extent(C, up(n), ld), 2.0);
        let hostile = rng.one_in(4);
        poison(rng, hostile, &mut before);
        let (coef, mut u) = (Three::new(rng, &coef), Three::new(rng, &before));
        let args = |coef: &[f32], u: *mut f32| solve::Args { n, coef: coef.as_ptr(), u, ld };
        // SAFETY: the extents above are those that `solve::Args` asks for.
        unsafe {
            Solve::reference(&args(&coef.want, u.want.as_mut_ptr()));
            Solve::reference(&args(&coef.size, u.size.as_mut_ptr()));
            run(&args(&coef.got, u.got.as_mut_ptr()));
        }
        u.check(&before, |i| (i % ld < up(n)).then_some(34.0), &format!("{rows} rows of {n}"));
    });
}

/// Keys by channel, nothing in the columns past the last token.
fn keys(rng: &mut Rng, n: usize, d: usize) -> Vec<f32> {
    let mut kt = rng.values(d * C, 2.0);
    let rest = rng.pick(&[0.0, f32::NAN]);
    kt.iter_mut().enumerate().filter(|(i, _)| i % C >= n).for_each(|(_, k)| *k = rest);
    kt
}

/// Where a block of scores is zero, whatever the rows hold.
fn assert_triangle(s: &[f32], n: usize, strict: bool) {
    for (i, row) in s.chunks_exact(C).enumerate() {
        let kept = if i < n { i + usize::from(!strict) } else { 0 };
        assert!(row[kept..].iter().all(|x| x.to_bits() == 0), "row {i} of {n}: {row:?}");
    }
}

#[test]
fn scores_token() {
    cases::<ScoresToken>(600, |rng, run| {
        let (n, d) = (rows_of_chunk(rng), small(rng, 80));
        let ldx = d + rng.below(5);
        let (has_alpha, has_row, strict) = (rng.one_in(2), rng.one_in(2), rng.one_in(2));
        let mut x = rng.values(extent(n, d, ldx), 2.0);
        let mut kt = keys(rng, n, d);
        let hostile = rng.one_in(4);
        poison(rng, hostile, &mut x);
        poison(rng, hostile, &mut kt);
        let alpha = if hostile { vec![0.5; n] } else { decays(rng, n) };
        let row = rng.values(n, 2.0);
        let inputs = [&x, &kt, &alpha, &row].map(|values| Three::new(rng, values));
        let before = [f32::NAN; C * C];
        let mut s = Three::new(rng, &before);
        let args = |of: fn(&Three) -> &[f32], s: *mut f32| {
            let [x, kt, alpha, row] = inputs.each_ref().map(|three| of(three).as_ptr());
            let (alpha, row) = (some(has_alpha, alpha), some(has_row, row));
            TokenArgs { n, d, x, ldx, kt, alpha, row, strict, s }
        };
        // SAFETY: the extents above are those that `TokenArgs` asks for.
        unsafe {
            ScoresToken::reference(&args(|t| &t.want, s.want.as_mut_ptr()));
            ScoresToken::reference(&args(|t| &t.size, s.size.as_mut_ptr()));
            run(&args(|t| &t.got, s.got.as_mut_ptr()));
        }
        // A decay is rounded after the product: what underflows there is lost whole.
        let what = format!("{n}×{d}, strict {strict}, decay {has_alpha}");
        s.check(&before, |_| Some((d + 20) as f64), &what);
        assert_triangle(&s.got, n, strict);
    });
}

#[test]
fn scores_channel() {
    cases::<ScoresChannel>(600, |rng, run| {
        let (n, d) = (rows_of_chunk(rng), small(rng, 80));
        let ld = d + rng.below(5);
        let two = rng.one_in(2);
        let (has_bonus, strict_pre, has_row) = (!two && rng.one_in(2), rng.one_in(2), rng.one_in(2));
        let mut x = rng.values(extent(n, d, ld), 2.0);
        let mut strict_x = rng.values(extent(n, d, ld), 2.0);
        let mut kt = keys(rng, n, d);
        let hostile = rng.one_in(4);
        poison(rng, hostile, &mut x);
        poison(rng, hostile, &mut strict_x);
        poison(rng, hostile, &mut kt);
        let alpha = if hostile { vec![0.5; extent(n, d, ld)] } else { decays(rng, extent(n, d, ld)) };
        let (row, bonus) = (rng.values(n, 2.0), rng.values(d, 2.0));
        let inputs = [&x, &kt, &alpha, &strict_x, &row, &bonus].map(|values| Three::new(rng, values));
        let before = [f32::NAN; C * C];
        let (mut s, mut strict_s) = (Three::new(rng, &before), Three::new(rng, &before));
        let mut decayed = Guarded::<f32>::unset(rng, d * C);
        let decayed_at = decayed.as_mut_ptr();
        let args = |of: fn(&Three) -> &[f32], s: *mut f32, strict_s: *mut f32| {
            let [x, kt, alpha, strict_x, row, bonus] = inputs.each_ref().map(|three| of(three).as_ptr());
            ChannelArgs {
                n,
                d,
                alpha,
                kt,
                decayed: decayed_at,
                x,
                s,
                bonus: some(has_bonus, bonus),
                strict_x: some(two, strict_x),
                strict_pre,
                strict_row: some(has_row, row),
                strict_s,
                ld,
            }
        };
        // SAFETY: the extents above are those that `ChannelArgs` asks for.
        unsafe {
            ScoresChannel::reference(&args(|t| &t.want, s.want.as_mut_ptr(), strict_s.want.as_mut_ptr()));
            ScoresChannel::reference(&args(|t| &t.size, s.size.as_mut_ptr(), strict_s.size.as_mut_ptr()));
            run(&args(|t| &t.got, s.got.as_mut_ptr(), strict_s.got.as_mut_ptr()));
        }
        decayed.check();
        let what = format!("{n}×{d}, two {two}, bonus {has_bonus}, strict before the decay {strict_pre}");
        let roundings = |_| Some((d + 40) as f64);
        s.check(&before, roundings, &what);
        assert_triangle(&s.got, n, false);
        strict_s.check(&before, |i| if two { roundings(i) } else { None }, &what);
        if two {
            assert_triangle(&strict_s.got, n, true);
        }
    });
}

#[test]
fn decay_rows() {
    cases::<DecayRows>(600, |rng, run| {
        let (n, d, n_sets) = (rows_of_chunk(rng), small(rng, 80), rng.below(4));
        let ld = up(d) + rng.below(5);
        let (has_alpha, by_channel) = (!rng.one_in(5), rng.one_in(2));
        let (has_erase, has_end) = (rng.one_in(2), rng.one_in(2));
        let (k_sets, has_row) = (1 + rng.below(2), rng.one_in(2));
        let (q_pre, erase_pre) = (rng.one_in(2), rng.one_in(2));
        // Erase rows are made of the keys, of other rows, or of themselves.
        let made_of = rng.below(3);
        let hostile = rng.one_in(4);
        let len = if by_channel { extent(n, up(d), ld) } else { n };
        let alpha = if hostile { vec![0.5; len] } else { decays(rng, len) };
        let row = rng.values(n, 2.0);
        let len = extent(n, up(d), ld);
        let [mut q0, mut k0, from, mut erase0] =
            [n_sets * C * ld, extent(k_sets * n, up(d), ld), len, len].map(|len| rng.values(len, 2.0));
        poison(rng, hostile, &mut q0);
        poison(rng, hostile, &mut k0);
        if made_of < 2 {
            erase0.fill(f32::NAN);
        }
        let end0 = vec![f32::NAN; up(d)];
        let inputs = [&alpha, &row, &from].map(|values| Three::new(rng, values));
        let mut outputs = [&q0, &k0, &erase0, &end0].map(|values| Three::new(rng, values));
        let args = |of: fn(&Three) -> &[f32], [q, k, erase, end]: [*mut f32; 4]| {
            let [alpha, row, from] = inputs.each_ref().map(|three| of(three).as_ptr());
            decay_rows::Args {
                n,
                d,
                ld,
                alpha: some(has_alpha, alpha),
                by_channel,
                q,
                n_sets,
                q_pre,
                k,
                k_sets,
                erase: if has_erase { erase } else { null_mut() },
                erase_from: [k.cast_const(), from, erase][made_of],
                erase_row: some(has_row, row),
                erase_pre,
                end: if has_end { end } else { null_mut() },
            }
        };
        // SAFETY: the extents above are those that `decay_rows::Args` asks for.
        unsafe {
            let want = outputs.each_mut().map(|three| three.want.as_mut_ptr());
            DecayRows::reference(&args(|t| &t.want, want));
            let size = outputs.each_mut().map(|three| three.size.as_mut_ptr());
            DecayRows::reference(&args(|t| &t.size, size));
            let got = outputs.each_mut().map(|three| three.got.as_mut_ptr());
            run(&args(|t| &t.got, got));
        }
        // A prefix that underflowed is lost whole: relative to what it multiplies.
        let what = format!("{n}×{d}, {n_sets} sets, decay {has_alpha} by channel {by_channel}");
        let roundings =
            |rows: usize| move |i: usize| (i % ld < up(d) && i / ld % C.max(rows) < rows).then_some(20.0);
        let [q, k, erase, end] = &outputs;
        q.check(&q0, roundings(n), &format!("q of {what}"));
        k.check(&k0, roundings(k_sets * n), &format!("k of {what}"));
        erase.check(&erase0, roundings(if has_erase { n } else { 0 }), &format!("erase of {what}"));
        end.check(&end0, |_| (has_end && has_alpha).then_some(20.0), &format!("end of {what}"));
    });
}

/// Zeroes the columns past `d` of rows that are `ld` apart.
pub fn clear_padding(values: &mut [f32], d: usize, ld: usize) {
    values.iter_mut().enumerate().filter(|(i, _)| i % ld >= d).for_each(|(_, x)| *x = 0.0);
}

#[test]
fn denominator() {
    cases::<Denominator>(600, |rng, run| {
        let (n, d, n_sets) = (rows_of_chunk(rng), small(rng, 80), rng.below(4));
        let ld = up(d) + rng.below(5);
        let (has_a, has_k, has_end) = (rng.one_in(2), rng.one_in(2), rng.one_in(2));
        let hostile = rng.one_in(4);
        let mut q = rng.values(n_sets * C * ld, 2.0);
        let mut k = rng.values(extent(n, up(d), ld), 2.0);
        let mut z0 = rng.values(up(d), 2.0);
        poison(rng, hostile, &mut q);
        poison(rng, hostile, &mut k);
        poison(rng, hostile, &mut z0);
        if ld > 0 {
            clear_padding(&mut q, d, ld);
            clear_padding(&mut k, d, ld);
        }
        z0[d..].fill(0.0);
        let mut a = rng.values(n_sets * C * C, 2.0);
        // Rows above their diagonal are zero, as the scores leave them.
        a.iter_mut().enumerate().filter(|(i, _)| i % C > i / C % C).for_each(|(_, a)| *a = 0.0);
        let end = decays(rng, up(d));
        let inputs = [&q, &k, &a, &end].map(|values| Three::new(rng, values));
        let den0 = vec![f32::NAN; n_sets * C];
        let (mut den, mut z) = (Three::new(rng, &den0), Three::new(rng, &z0));
        let args = |of: fn(&Three) -> &[f32], den: *mut f32, z: *mut f32| {
            let [q, k, a, end] = inputs.each_ref().map(|three| of(three).as_ptr());
            let (a, k, end) = (some(has_a, a), some(has_k, k), some(has_end, end));
            denominator::Args { n, d, ld, q, n_sets, a, den, k, end, z }
        };
        // SAFETY: the extents above are those that `denominator::Args` asks for.
        unsafe {
            Denominator::reference(&args(|t| &t.want, den.want.as_mut_ptr(), z.want.as_mut_ptr()));
            Denominator::reference(&args(|t| &t.size, den.size.as_mut_ptr(), z.size.as_mut_ptr()));
            run(&args(|t| &t.got, den.got.as_mut_ptr(), z.got.as_mut_ptr()));
        }
        let what = format!("{n}×{d}, {n_sets} sets");
        den.check(&den0, |i| (i % C < n).then_some((d + 20) as f64), &format!("den of {what}"));
        z.check(&z0, |i| (has_k && i < d).then_some(24.0), &format!("z of {what}"));
    });
}

#[test]
fn value_decay() {
    cases::<ValueDecay>(500, |rng, run| {
        let (n, e, n_sets) = (rows_of_chunk(rng), small(rng, 80), rng.below(4));
        let [ldy, ldu, ldg] = [(); 3].map(|()| up(e) + rng.below(5));
        let hostile = rng.one_in(4);
        let mut a = rng.values(n_sets * C * C, 2.0);
        // Only what is not above the diagonal is read.
        a.iter_mut().enumerate().filter(|(i, _)| i % C > i / C % C).for_each(|(_, a)| *a = f32::NAN);
        let len = extent(n, up(e), ldg);
        let gamma = if hostile { vec![0.5; len] } else { decays(rng, len) };
        let mut y0 = rng.values(n_sets * C * ldy, 2.0);
        let mut u0 = rng.values(extent(n, up(e), ldu), 2.0);
        poison(rng, hostile, &mut y0);
        poison(rng, hostile, &mut u0);
        let end0 = vec![f32::NAN; up(e)];
        let inputs = [&a, &gamma].map(|values| Three::new(rng, values));
        let mut outputs = [&y0, &u0, &end0].map(|values| Three::new(rng, values));
        let args = |of: fn(&Three) -> &[f32], [y, u, end]: [*mut f32; 3]| {
            let [a, gamma] = inputs.each_ref().map(|three| of(three).as_ptr());
            value_decay::Args { n, e, a, y, ldy, n_sets, u, ldu, gamma, ldg, end }
        };
        // SAFETY: the extents above are those that `value_decay::Args` asks for.
        unsafe {
            let want = outputs.each_mut().map(|three| three.want.as_mut_ptr());
            ValueDecay::reference(&args(|t| &t.want, want));
            let size = outputs.each_mut().map(|three| three.size.as_mut_ptr());
            ValueDecay::reference(&args(|t| &t.size, size));
            let got = outputs.each_mut().map(|three| three.got.as_mut_ptr());
            run(&args(|t| &t.got, got));
        }
        let what = format!("{n}×{e}, {n_sets} sets");
        let [y, u, end] = &outputs;
        y.check(&y0, |i| (i % ldy < up(e) && i / ldy % C < n).then_some(40.0), &format!("y of {what}"));
        u.check(&u0, |i| (i % ldu < up(e)).then_some(20.0), &format!("u of {what}"));
        end.check(&end0, |_| Some(20.0), &format!("end of {what}"));
    });
}
