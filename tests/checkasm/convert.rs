//! Loading and storing rows. Model: the same bits, but for the bits of a NaN.

use crate::guarded::Guarded;
use crate::support::{Rng, assert_same, cases, flushing, for_each_row, is_qemu};
use half::{bf16, f16};
use subquad::kernel::Kernel;
use subquad::kernel::load_rows::{self, LoadRows, Source};
use subquad::kernel::store_rows::{self, StoreRows, Target};

/// Strides of an `n × d` matrix, and how many elements lie before and from its origin on.
struct Strides {
    row: isize,
    col: isize,
    before: usize,
    after: usize,
}

fn strides(rng: &mut Rng, n: usize, d: usize, may_repeat: bool) -> Strides {
    let gap = rng.below(4);
    let (mut row, mut col) = match rng.below(4) {
        0 => (1, n + gap),
        1 => (d * 3 + gap, 3),
        _ => (d + gap, 1),
    };
    if may_repeat && rng.one_in(6) {
        row = 0;
    }
    if may_repeat && rng.one_in(6) {
        col = 0;
    }
    let (rows, cols) = (n.saturating_sub(1) * row, d.saturating_sub(1) * col);
    let (up, left) = (rng.one_in(5), rng.one_in(5));
    let before = if up { rows } else { 0 } + if left { cols } else { 0 };
    Strides {
        row: if up { -(row as isize) } else { row as isize },
        col: if left { -(col as isize) } else { col as isize },
        before,
        after: if n * d == 0 { 0 } else { rows + cols - before + 1 },
    }
}

/// Floats that tests make from `f32` and print as such.
pub trait Value: Copy {
    fn make(x: f32) -> Self;
    fn show(self) -> f32;
}
impl Value for f32 {
    fn make(x: f32) -> f32 {
        x
    }
    fn show(self) -> f32 {
        self
    }
}
impl Value for bf16 {
    fn make(x: f32) -> bf16 {
        bf16::from_f32(x)
    }
    fn show(self) -> f32 {
        self.to_f32()
    }
}
impl Value for f16 {
    fn make(x: f32) -> f16 {
        f16::from_f32(x)
    }
    fn show(self) -> f32 {
        self.to_f32()
    }
}

fn load<E: Source + Value>() {
    cases::<LoadRows<E>>(600, |rng, run| {
        let (n, d) = (rng.below(7), rng.len());
        let ld = d + rng.below(20);
        let at = strides(rng, n, d, true);
        let values: Vec<E> = rng.mixed(at.before + at.after).into_iter().map(E::make).collect();
        let src = Guarded::new(rng, &values);
        let (scale_stride, scales) = (rng.below(3) as isize, rng.values(3 * n + 1, 2.0));
        let scales = Guarded::new(rng, &scales);
        let mut want = Guarded::<f32>::unset(rng, n * ld);
        let mut got = Guarded::<f32>::unset(rng, n * ld);
        let args = load_rows::Args {
            n,
            d,
            src: src.as_ptr().wrapping_add(at.before),
            row_stride: at.row,
            col_stride: at.col,
            row_scale: if rng.one_in(2) { scales.as_ptr() } else { std::ptr::null() },
            row_scale_stride: scale_stride,
            scale: rng.pick(&[1.0, 1.0, 0.37]),
            dst: want.as_mut_ptr(),
            ld,
        };
        // SAFETY: `strides` counted the elements.
        unsafe {
            LoadRows::<E>::reference(&args);
            run(&load_rows::Args { dst: got.as_mut_ptr(), ..args });
        }
        got.check();
        assert_same(&got, &want, || format!("n {n}, d {d}, ld {ld}, strides {} {}", at.row, at.col));
    });
}

fn store<E: Target + Value>() {
    cases::<StoreRows<E>>(600, |rng, run| {
        let (n, d) = (rng.below(7), rng.len());
        let ld = d + rng.below(20);
        let at = strides(rng, n, d, false);
        let values = rng.mixed(n * ld);
        let src = Guarded::new(rng, &values);
        let mut want = Guarded::<E>::unset(rng, at.before + at.after);
        let mut got = Guarded::<E>::unset(rng, at.before + at.after);
        let args = store_rows::Args {
            n,
            d,
            src: src.as_ptr(),
            ld,
            dst: want.as_mut_ptr().wrapping_add(at.before),
            row_stride: at.row,
            col_stride: at.col,
        };
        // SAFETY: `strides` counted the elements.
        unsafe {
            StoreRows::<E>::reference(&args);
            run(&store_rows::Args { dst: got.as_mut_ptr().wrapping_add(at.before), ..args });
        }
        got.check();
        let show = |x: &[E]| x.iter().map(|x| x.show()).collect::<Vec<f32>>();
        assert_same(&show(&got), &show(&want), || {
            format!("n {n}, d {d}, ld {ld}, strides {} {}", at.row, at.col)
        });
    });
}

#[test]
fn load_rows_f32() {
    load::<f32>();
}
#[test]
fn load_rows_bf16() {
    load::<bf16>();
}
#[test]
fn load_rows_f16() {
    load::<f16>();
}
#[test]
fn store_rows_f32() {
    store::<f32>();
}
#[test]
fn store_rows_bf16() {
    store::<bf16>();
}
#[test]
fn store_rows_f16() {
    store::<f16>();
}

/// Every 16-bit pattern, in both modes of the processor.
fn load_all<E: Source>(from_bits: fn(u16) -> E, to_f32: fn(E) -> f32) {
    let src: Vec<E> = (0..=u16::MAX).map(from_bits).collect();
    let want: Vec<f32> = src.iter().map(|&x| to_f32(x)).collect();
    for_each_row::<LoadRows<E>>(|isa, run| {
        for flush in [false, !is_qemu()] {
            let mut got = vec![0f32; src.len()];
            let args = load_rows::Args {
                n: 1,
                d: src.len(),
                src: src.as_ptr(),
                row_stride: 0,
                col_stride: 1,
                row_scale: std::ptr::null(),
                row_scale_stride: 0,
                scale: 1.0,
                dst: got.as_mut_ptr(),
                ld: src.len(),
            };
            // SAFETY: one row of as many elements.
            flushing(flush, || unsafe { run(&args) });
            // A denormal bf16 is a denormal f32: flushed.
            let want: Vec<f32> =
                want.iter().map(|&x| if flush && x.is_subnormal() { 0f32.copysign(x) } else { x }).collect();
            assert_same(&got, &want, || format!("{isa}, flushing {flush}"));
        }
    });
}

/// Values at and next to every rounding boundary.
fn store_all<E: Target>(from_bits: fn(u16) -> E, to_f32: fn(E) -> f32, narrow: fn(f32) -> E) {
    let mut src = Vec::new();
    for bits in 0..u16::MAX {
        let (a, b) = (to_f32(from_bits(bits)), to_f32(from_bits(bits + 1)));
        let middle = ((f64::from(a) + f64::from(b)) / 2.0) as f32;
        src.extend([a, middle.next_down(), middle, middle.next_up()]);
    }
    src.extend([
        65519.996,
        65520.0,
        65536.0,
        1e38,
        f32::MAX,
        -65520.0,
        f32::from_bits(0x7f80_0001),
        f32::NAN,
    ]);
    let want: Vec<f32> = src.iter().map(|&x| to_f32(narrow(x))).collect();
    for_each_row::<StoreRows<E>>(|isa, run| {
        for flush in [false, !is_qemu()] {
            let mut got: Vec<E> = vec![from_bits(0); src.len()];
            let (d, col_stride) = (src.len(), 1);
            let dst = got.as_mut_ptr();
            let args = store_rows::Args { n: 1, d, src: src.as_ptr(), ld: d, dst, row_stride: 0, col_stride };
            // SAFETY: one row of as many elements.
            flushing(flush, || unsafe { run(&args) });
            let got: Vec<f32> = got.iter().map(|&x| to_f32(x)).collect();
            assert_same(&got, &want, || format!("{isa}, flushing {flush}"));
        }
    });
}

#[test]
fn every_f16() {
    load_all(f16::from_bits, f16::to_f32);
    store_all(f16::from_bits, f16::to_f32, f16::from_f32);
}

#[test]
fn every_bf16() {
    load_all(bf16::from_bits, bf16::to_f32);
    store_all(bf16::from_bits, bf16::to_f32, bf16::from_f32);
}
