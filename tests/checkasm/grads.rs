//! The tiles that only gradients call; the model of rounding errors is that of `tiles.rs`.

use crate::guarded::Guarded;
use crate::support::{EPS, Rng, TINY, assert_close, cases};
use crate::tiles::{C, Three, clear_padding, decays, extent, poison, rows_of_chunk, small, some, up};
use std::ptr::null_mut;
use subquad::kernel::Kernel;
use subquad::kernel::elementwise::Function;
use subquad::kernel::map_grad::{self, MapGrad};
use subquad::kernel::products::lanes::{self, LaneProducts};
use subquad::kernel::products::{self, Products};
use subquad::kernel::scores_grad::{self, ScoresGrad};

fn some_mut<T>(on: bool, p: *mut T) -> *mut T {
    if on { p } else { null_mut() }
}

#[test]
fn products() {
    cases::<Products>(600, |rng, run| {
        let (n, d) = (small(rng, 40), small(rng, 90));
        let (lda, ldb) = (up(d) + rng.below(5), up(d) + rng.below(5));
        let [has_b, has_row, has_col, hostile] = [(); 4].map(|()| rng.one_in(2));
        let mut a = rng.values(extent(n, up(d), lda), 2.0);
        let mut b = rng.values(extent(n, up(d), ldb), 2.0);
        poison(rng, hostile, &mut a);
        poison(rng, hostile, &mut b);
        if lda > 0 {
            clear_padding(&mut a, d, lda);
        }
        let (row0, col0) = (rng.values(n, 2.0), rng.values(up(d), 2.0));
        let inputs = [&a, &b].map(|values| Three::new(rng, values));
        let mut outputs = [&row0, &col0].map(|values| Three::new(rng, values));
        let args = |of: fn(&Three) -> &[f32], [row, col]: [*mut f32; 2]| {
            let [a, b] = inputs.each_ref().map(|three| of(three).as_ptr());
            let (row, col) = (some_mut(has_row, row), some_mut(has_col, col));
            products::Args { n, d, a, lda, b: some(has_b, b), ldb, row, col }
        };
        // SAFETY: the extents above are those that `products::Args` asks for.
        unsafe {
            let want = outputs.each_mut().map(|three| three.want.as_mut_ptr());
            Products::reference(&args(|t| &t.want, want));
            let size = outputs.each_mut().map(|three| three.size.as_mut_ptr());
            Products::reference(&args(|t| &t.size, size));
            let got = outputs.each_mut().map(|three| three.got.as_mut_ptr());
            run(&args(|t| &t.got, got));
        }
        let what = format!("{n}×{d}");
        let [row, col] = &outputs;
        row.check(&row0, |_| has_row.then_some((d + 8) as f64), &format!("rows of {what}"));
        // A NaN beside the zeros of the padding shows there.
        col.check(&col0, |_| has_col.then_some((n + 8) as f64), &format!("columns of {what}"));
    });
}

#[test]
fn products_by_lane() {
    cases::<LaneProducts>(600, |rng, run| {
        let (n, d) = (small(rng, 40), small(rng, 90));
        let (lda, ldb) = (up(d) + rng.below(5), up(d) + rng.below(5));
        let [apart, hostile] = [(); 2].map(|()| rng.one_in(2));
        let mut a = rng.values(extent(n, up(d), lda), 2.0);
        let mut b = rng.values(extent(n, up(d), ldb), 2.0);
        poison(rng, hostile, &mut a);
        poison(rng, hostile, &mut b);
        if lda > 0 {
            clear_padding(&mut a, d, lda);
        }
        let sum0 = rng.values(if apart { n * lanes::LANES } else { lanes::LANES }, 2.0);
        let inputs = [&a, &b].map(|values| Three::new(rng, values));
        let mut sums = Three::new(rng, &sum0);
        let args = |of: fn(&Three) -> &[f32], sum: *mut f32| {
            let [a, b] = inputs.each_ref().map(|three| of(three).as_ptr());
            lanes::Args { n, d, a, lda, b, ldb, apart, sum }
        };
        // SAFETY: the extents above are those that `lanes::Args` asks for.
        unsafe {
            LaneProducts::reference(&args(|t| &t.want, sums.want.as_mut_ptr()));
            LaneProducts::reference(&args(|t| &t.size, sums.size.as_mut_ptr()));
            run(&args(|t| &t.got, sums.got.as_mut_ptr()));
        }
        let terms = up(d) / lanes::LANES * if apart { 1 } else { n };
        sums.check(&sum0, |_| Some((terms + 8) as f64), &format!("{n}×{d} by lane"));
    });
}

#[test]
fn scores_grad() {
    cases::<ScoresGrad>(700, |rng, run| {
        let (n, d, n_sets) = (rows_of_chunk(rng), small(rng, 80), rng.below(4));
        let (ld, ld_alpha) = (up(d) + rng.below(5), up(d) + rng.below(5));
        let [by_channel, mut has_dq, has_de] = [(); 3].map(|()| rng.one_in(2));
        let has_alpha = !rng.one_in(4);
        // What needs a factor per channel.
        let channel = by_channel && has_alpha;
        let [has_bonus, has_erase, erase_pre, second] = [(); 4].map(|()| channel && rng.one_in(3));
        let has_bonus = has_bonus && n_sets > 0;
        has_dq |= has_bonus;
        let k_sets = 1 + usize::from(second && !has_bonus);
        let has_dg = has_alpha && has_dq && rng.one_in(2);
        let hostile = rng.one_in(4) && by_channel && has_alpha;
        let block = |rng: &mut Rng, sets: usize, strict: bool| {
            let mut s = rng.values(sets * C * C, 2.0);
            // What lies above the diagonal is not read.
            let unread = |i: usize| i % C + usize::from(strict) > i / C % C;
            s.iter_mut().enumerate().filter(|(i, _)| unread(*i)).for_each(|(_, s)| *s = f32::NAN);
            s
        };
        let (da, db) = (block(rng, k_sets * n_sets, false), block(rng, k_sets, true));
        let mut q = rng.values(n_sets * C * ld, 2.0);
        let mut k = rng.values(extent(k_sets * n, up(d), ld), 2.0);
        poison(rng, hostile, &mut q);
        poison(rng, hostile, &mut k);
        let alpha = decays(rng, if by_channel { extent(n, up(d), ld_alpha) } else { n });
        let (row, end) = (rng.values(n, 2.0), rng.values(up(d), 2.0));
        let rows = extent(n, up(d), ld);
        let dq0 = rng.values(n_sets * C * ld, 2.0);
        let dk0 = rng.values(extent(k_sets * n, up(d), ld), 2.0);
        let [de0, dg0, erase] = [(); 3].map(|()| rng.values(rows, 2.0));
        let [bonus, dbonus0] = [(); 2].map(|()| rng.values(up(d), 2.0));
        let inputs = [&alpha, &q, &k, &row, &da, &db, &end, &erase, &bonus];
        let inputs = inputs.map(|values| Three::new(rng, values));
        let mut outputs = [&dq0, &dk0, &de0, &dg0, &dbonus0].map(|values| Three::new(rng, values));
        let args = |of: fn(&Three) -> &[f32], [dq, dk, de, dg, dbonus]: [*mut f32; 5]| {
            let inputs = inputs.each_ref().map(|three| of(three).as_ptr());
            let [alpha, q, k, erase_row, da, db, end, erase, bonus] = inputs;
            scores_grad::Args {
                n,
                d,
                ld,
                alpha: some(has_alpha, alpha),
                ld_alpha,
                by_channel,
                q,
                n_sets,
                bonus: some(has_bonus, bonus),
                k,
                k_sets,
                erase: some(has_erase, erase),
                erase_row,
                erase_pre,
                da,
                db,
                dq: some_mut(has_dq, dq),
                dk,
                de: some_mut(has_de, de),
                dg: some_mut(has_dg, dg),
                dbonus,
                end,
            }
        };
        // SAFETY: the extents above are those that `scores_grad::Args` asks for.
        unsafe {
            let want = outputs.each_mut().map(|three| three.want.as_mut_ptr());
            ScoresGrad::reference(&args(|t| &t.want, want));
            let got = outputs.each_mut().map(|three| three.got.as_mut_ptr());
            run(&args(|t| &t.got, got));
            // Of the gates' gradients the magnitudes are what is added and what is taken off.
            let size = outputs.each_mut().map(|three| three.size.as_mut_ptr());
            ScoresGrad::reference(&args(|t| &t.size, size));
        }
        let what = format!(
            "{n}×{d}, {n_sets} sets, by_channel {by_channel}, alpha {has_alpha}, bonus {has_bonus}, {k_sets} blocks of keys, \
             erase rows {has_erase}, before {erase_pre}"
        );
        let [dq, dk, de, dg, dbonus] = &mut outputs;
        let set = |i: usize| i % ld < up(d) && i / ld % C < n;
        let one = |i: usize| i % ld < up(d);
        let own = 60.0 * k_sets as f64;
        dq.check(&dq0, |i| (has_dq && set(i)).then_some(own), &format!("dq of {what}"));
        dk.check(&dk0, |i| one(i).then_some(60.0 + 40.0 * n_sets as f64), &format!("dk of {what}"));
        de.check(&de0, |i| (has_de && one(i)).then_some(own), &format!("de of {what}"));
        let all_own = (n * n_sets + 8) as f64;
        dbonus.check(&dbonus0, |_| has_bonus.then_some(all_own), &format!("dbonus of {what}"));
        if hostile {
            return dg.got.check();
        }
        // The magnitude of a sum of differences: of all that could have been summed.
        let scale = |t: &Three| t.size.iter().fold(0.0f32, |m, &x| m.max(x));
        let keys = k_sets as f32 * scale(dk);
        let all = (n_sets as f32 * scale(dq) + 2.0 * scale(de) + keys) * 2.0 * n as f32 + 2.0;
        dg.size.fill(all);
        dg.check(&dg0, |i| (has_dg && one(i)).then_some(60.0), &format!("dg of {what}"));
    });
}

/// Errors in units of the slope's largest terms.
fn check<F: Function>(roundings: f64, largest: impl Fn(f64) -> f64) {
    cases::<MapGrad<F>>(400, |rng, run| {
        let n = rng.len();
        let x = rng.mixed(n);
        let dy: Vec<f32> = rng.values(n, 2.0);
        let (from, mut got) = (Guarded::new(rng, &x), Guarded::new(rng, &dy));
        let mut want = dy.clone();
        // SAFETY: `n` elements each.
        unsafe {
            MapGrad::<F>::reference(&map_grad::Args { n, x: x.as_ptr(), dy: want.as_mut_ptr() });
            run(&map_grad::Args { n, x: from.as_ptr(), dy: got.as_mut_ptr() });
        }
        for i in 0..n {
            let size = largest(f64::from(x[i])) * f64::from(dy[i]).abs();
            // What is flushed may have been multiplied by the argument.
            let floor = TINY * (4.0 + f64::from(x[i]).abs().min(200.0)) * 2.0;
            let tolerance = roundings * EPS * size + floor;
            // Past the range the terms may be infinite where their product is not.
            if !size.is_finite() || largest(f64::from(x[i])) > 1e38 {
                continue;
            }
            assert_close(got[i], want[i], tolerance, || format!("element {i}: {} of {:e}", F::NAME, x[i]));
        }
        got.check();
        from.check();
    });
}

macro_rules! slopes {
    ($($name:ident: $marker:ident, $roundings:expr, $largest:expr;)*) => {$(
        #[test]
        fn $name() {
            check::<map_grad::$marker>($roundings, $largest);
        }
    )*};
}

slopes! {
    elu1_slope: Elu1Slope, 4.0, |x| x.min(0.0).exp();
    elu1_neg_slope: Elu1NegSlope, 4.0, |x| (-x).min(0.0).exp();
    tanh1_slope: Tanh1Slope, 16.0, |x| 4.0 * (-2.0 * x.abs()).exp();
    relu_slope: ReluSlope, 0.0, |_| 1.0;
    relu2_slope: Relu2Slope, 1.0, |x| 2.0 * x.abs();
    silu_slope: SiluSlope, 16.0, |x| (1.0 + x.abs()) * x.min(0.0).exp();
}
