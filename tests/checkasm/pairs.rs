//! Products of pairs of `bf16`, and how pairs are made. Models: as for the other tiles; the same bits.

use crate::guarded::Guarded;
use crate::support::{Rng, cases};
use crate::tiles::{C, Three, extent, poison, rows_of_chunk, small, some, up};
use half::bf16;
use std::ptr::{null, null_mut};
use subquad::kernel::Kernel;
use subquad::kernel::matmul_bf16::{Args, MatmulBf16};
use subquad::kernel::pair_rows::{self, PairRows, ZipArgs, ZipRows};

fn bits(x: f32) -> u32 {
    bf16::from_f32(x).to_bits().into()
}

fn numbers(pair: u32) -> [f32; 2] {
    [pair as u16, (pair >> 16) as u16].map(|bits| bf16::from_bits(bits).to_f32())
}

/// Whether two pairs hold the same numbers: one NaN is as good as another, and denormals may be zero.
fn same(a: u32, b: u32) -> bool {
    let tiny = |x: f32| x.abs() < 2.0 * f32::MIN_POSITIVE;
    let one =
        |(x, y): (f32, f32)| x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan() || tiny(x) && tiny(y);
    numbers(a).into_iter().zip(numbers(b)).all(one)
}

/// Pairs of random numbers, in some calls with a NaN or an infinity among them.
fn pairs(rng: &mut Rng, hostile: bool, n: usize) -> Vec<u32> {
    let mut values = rng.values(2 * n, 2.0);
    poison(rng, hostile, &mut values);
    values.chunks(2).map(|pair| bits(pair[0]) | bits(pair[1]) << 16).collect()
}

/// Of absolute values.
fn sizes(pairs: &[u32]) -> Vec<u32> {
    pairs.iter().map(|pair| pair & 0x7fff_7fff).collect()
}

#[test]
fn matmul_bf16() {
    cases::<MatmulBf16>(800, |rng, run| {
        let (m, k) = (small(rng, 40), small(rng, 70));
        let by_columns = rng.one_in(2);
        let [has_c0, has_pre, has_col, has_mid, has_l, has_post, in_place, packs] =
            [(); 8].map(|()| rng.one_in(2));
        let n = if packs { 16 * rng.below(6) } else { small(rng, 90) };
        let has_u = has_l && m <= C;
        let hostile = rng.one_in(4) && !has_u;
        let lda = if by_columns { m } else { k } + rng.below(5);
        let (ldb, ldu, ldp) = (up(n) + rng.below(5), up(n) + rng.below(5), n + rng.below(5));
        let ldl = m + rng.below(5);
        let width = if has_c0 && in_place { up(n) } else { n };
        let (ldc, ldc0) = (width + rng.below(9), up(n) + rng.below(9));
        let a = pairs(rng, hostile, if by_columns { extent(k, m, lda) } else { extent(m, k, lda) });
        let b = pairs(rng, hostile, extent(k, up(n), ldb));
        let mut c0 = rng.values(extent(m, up(n), ldc0), 2.0);
        let [mut pre, mut mid, mut post] = [(); 3].map(|()| rng.values(m, 2.0));
        let mut col = rng.values(up(n), 2.0);
        let mut l = rng.values(extent(m, m, ldl), 2.0);
        (0..m).for_each(|i| (i + 1..m).for_each(|j| l[i * ldl + j] = 0.0));
        let u = rng.values(extent(m, up(n), ldu), 2.0);
        for values in [&mut c0, &mut pre, &mut col, &mut mid, &mut post] {
            poison(rng, hostile, values);
        }
        let before = if has_c0 && in_place {
            rng.values(extent(m, width, ldc), 2.0)
        } else {
            vec![f32::NAN; extent(m, n, ldc)]
        };
        let inputs = [&c0, &pre, &col, &mid, &post, &l, &u].map(|values| Three::new(rng, values));
        let operands =
            [(&a, &b), (&sizes(&a), &sizes(&b))].map(|(a, b)| (Guarded::new(rng, a), Guarded::new(rng, b)));
        let mut c = Three::new(rng, &before);
        let n_packed = if packs { extent(m.div_ceil(2), n, ldp) } else { 0 };
        let mut packed = Guarded::<u32>::unset(rng, n_packed);
        let mut scratch = vec![0u32; n_packed];
        let args = |of: fn(&Three) -> &[f32], size: usize, c: *mut f32, packed: *mut u32| {
            let [c0, pre, col, mid, post, l, u] = inputs.each_ref().map(|three| of(three).as_ptr());
            let (c0, ldc0) = if in_place { (c.cast_const(), ldc) } else { (c0, ldc0) };
            Args {
                m,
                n,
                pairs: k,
                a: operands[size].0.as_ptr(),
                lda,
                a_by_columns: by_columns,
                b: operands[size].1.as_ptr(),
                ldb,
                mid: some(has_mid, mid),
                c,
                ldc: ldc as isize,
                c0: some(has_c0, c0),
                ldc0: ldc0 as isize,
                pre: some(has_pre, pre),
                col: some(has_col, col),
                l: some(has_u, l),
                ldl,
                u: some(has_u, u),
                ldu,
                post: some(has_post, post),
                packed: if packs { packed } else { null_mut() },
                ldp,
            }
        };
        // SAFETY: the extents above are those that `Args` asks for.
        unsafe {
            let (want, size, got) = (c.want.as_mut_ptr(), c.size.as_mut_ptr(), c.got.as_mut_ptr());
            MatmulBf16::reference(&args(|t| &t.want, 0, want, scratch.as_mut_ptr()));
            MatmulBf16::reference(&args(|t| &t.size, 1, size, scratch.as_mut_ptr()));
            run(&args(|t| &t.got, 0, got, packed.as_mut_ptr()));
        }
        let terms = (2 * k + if has_u { m } else { 0 } + 8) as f64;
        let what = format!("{m}×{n}×2·{k}, by columns {by_columns}");
        c.check(&before, |i| (i % ldc < n).then_some(terms), &what);
        packed.check();
        for (i, j) in (0..if packs { m } else { 0 }).step_by(2).flat_map(|i| (0..n).map(move |j| (i, j))) {
            let second = if i + 1 < m { bits(c.got[(i + 1) * ldc + j]) } else { 0 };
            let pair = bits(c.got[i * ldc + j]) | second << 16;
            assert!(same(packed[i / 2 * ldp + j], pair), "{what}: pair of rows {i}, column {j}");
        }

        // A column's bits don't depend on how many there are.
        if n > 1 && !(has_c0 && in_place) {
            let fewer = 1 + rng.below(n - 1);
            let mut part = Guarded::unset(rng, before.len());
            let fewer_columns =
                Args { n: fewer, packed: null_mut(), ..args(|t| &t.got, 0, part.as_mut_ptr(), null_mut()) };
            // SAFETY: as above, with fewer columns of the same operands.
            unsafe { run(&fewer_columns) };
            for i in (0..before.len()).filter(|i| i % ldc < fewer) {
                let (x, y): (f32, f32) = (part[i], c.got[i]);
                assert!(
                    x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan(),
                    "{what}: element {i} depends on n"
                );
            }
        }
    });
}

/// A NaN in a row of `A` stays in its row of `C`.
#[test]
fn nan_stays_in_its_row() {
    cases::<MatmulBf16>(100, |rng, run| {
        let (m, n, k) = (2 + rng.below(30), 1 + rng.below(40), 1 + rng.below(40));
        let (mut a, b) = (pairs(rng, false, m * k), pairs(rng, false, k * up(n)));
        let row = rng.below(m);
        a[row * k + rng.below(k)] |= rng.pick(&[0x7fc0, 0x7fc0_0000]);
        let mut c = vec![0.0; m * n];
        let mut args = Args::product(m, n, k, c.as_mut_ptr(), n as isize);
        (args.a, args.lda, args.b, args.ldb) = (a.as_ptr(), k, b.as_ptr(), up(n));
        // SAFETY: the extents above are those that `Args` asks for.
        unsafe { run(&args) };
        for (i, x) in c.iter().enumerate() {
            assert_eq!(x.is_nan(), i / n == row, "row {}", i / n);
        }
    });
}

#[test]
fn pair_rows() {
    cases::<PairRows>(400, |rng, run| {
        let (n, d) = (small(rng, 40), small(rng, 70));
        let (ld, ldd) = (up(d) + rng.below(5), up(d) + rng.below(5));
        let src = rng.mixed(extent(n, up(d), ld));
        let factors = rng.values(n, 2.0);
        let factors = Guarded::new(rng, &factors);
        let factor = if rng.one_in(2) { factors.as_ptr() } else { null() };
        let guarded = Guarded::new(rng, &src);
        let before = vec![u32::MAX; extent(n.div_ceil(2), up(d), ldd)];
        let (mut got, mut want) = (Guarded::new(rng, &before), before.clone());
        let wanted = rng.one_in(2);
        let mut sums = [(); 2].map(|()| Guarded::<f32>::unset(rng, up(d)));
        let args = |dst: *mut u32, sums: &mut Guarded<f32>| {
            let sums = if wanted { sums.as_mut_ptr() } else { null_mut() };
            pair_rows::Args { n, d, src: guarded.as_ptr(), ld, factor, dst, ldd, sums }
        };
        // SAFETY: the extents above are those that `Args` asks for.
        unsafe {
            PairRows::reference(&args(want.as_mut_ptr(), &mut sums[0]));
            run(&args(got.as_mut_ptr(), &mut sums[1]));
        }
        got.check();
        sums[1].check();
        for c in 0..if wanted { up(d) } else { 0 } {
            let column = (0..n.div_ceil(2)).flat_map(|i| numbers(want[i * ldd + c]));
            let size: f64 = column.map(|x| f64::from(x.abs())).sum();
            let (w, g) = (f64::from(sums[0][c]), f64::from(sums[1][c]));
            let bound = n as f64 * (size * f64::from(f32::EPSILON) + f64::from(f32::MIN_POSITIVE));
            // Sums of finite numbers may overflow on their way.
            let fine = !size.is_finite() || size > 3e38 || (w - g).abs() <= bound;
            assert!(fine && (!w.is_nan() || g.is_nan()), "{n}×{d}, sum of column {c}: {g:e} for {w:e}");
        }
        for (i, (&got, &want)) in got.iter().zip(&want).enumerate() {
            assert!(same(got, want), "{n}×{d}, element {i}: {got:08x} for {want:08x}");
        }
    });
}

#[test]
fn zip_rows() {
    cases::<ZipRows>(400, |rng, run| {
        let (n, d) = (rows_of_chunk(rng), small(rng, 70));
        let (ld, ldd) = (d + rng.below(5), d + rng.below(5));
        let src: Vec<_> = (0..extent(n, d, ld)).map(|_| bf16::from_bits(rng.next() as u16)).collect();
        let guarded = Guarded::new(rng, &src);
        let before = vec![u32::MAX; extent(n.div_ceil(2), d, ldd)];
        let (mut got, mut want) = (Guarded::new(rng, &before), before.clone());
        let args = |dst: *mut u32| ZipArgs { n, d, src: guarded.as_ptr(), ld, dst, ldd };
        // SAFETY: the extents above are those that `ZipArgs` asks for.
        unsafe {
            ZipRows::reference(&args(want.as_mut_ptr()));
            run(&args(got.as_mut_ptr()));
        }
        got.check();
        assert_eq!(got[..], want[..], "{n}×{d}");
    });
}
