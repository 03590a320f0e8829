//! Softmax and norms of rows. Model: roundings (2⁻²⁴) relative to the result, as the kernels' pages count them.

use crate::guarded::Guarded;
use crate::support::{EPS, Rng, TINY, assert_close, cases};
use subquad::kernel::Kernel;
use subquad::kernel::row_l2norm::{self, Mode, RowL2Norm};
use subquad::kernel::row_rms::{self, Activation, RowRms};
use subquad::kernel::row_softmax::{self, RowSoftmax};

/// Rows of every temper: ordinary, all huge, all tiny, zero, with or without hostile values.
fn rows(rng: &mut Rng, n: usize, ld: usize) -> Vec<f32> {
    let mut x = Vec::with_capacity(n * ld);
    for _ in 0..n {
        match rng.below(8) {
            0 => x.extend((0..ld).map(|_| rng.signed() * 3e38)),
            1 => x.extend((0..ld).map(|_| rng.signed() * 1e-25)),
            2 => x.extend((0..ld).map(|_| rng.signed() * 1e-39)),
            3 => x.extend((0..ld).map(|_| 0.0)),
            _ => x.extend(rng.mixed(ld)),
        }
    }
    x
}

/// Compares the `d` first elements of each row by `tolerance(row, element, wanted)`, those of the padding bit by bit.
#[track_caller]
fn compare(got: &[f32], want: &[f32], d: usize, ld: usize, tolerance: impl Fn(usize, usize, f32) -> f64) {
    for (at, (&g, &w)) in got.iter().zip(want).enumerate() {
        let (i, j) = (at / ld, at % ld);
        if j < d {
            assert_close(g, w, tolerance(i, j, w), || format!("row {i}, element {j} of {d}"));
        } else {
            assert_eq!(g.to_bits(), w.to_bits(), "padding, row {i}, element {j} of {d}");
        }
    }
}

#[test]
fn row_softmax() {
    cases::<RowSoftmax>(600, |rng, run| {
        let (n, d) = (rng.below(6), rng.len());
        let ld = (d + rng.below(10)).max(1);
        let mut values = rows(rng, n, ld);
        for row in values.chunks_mut(ld) {
            if rng.one_in(6) {
                row.fill(f32::NEG_INFINITY);
            }
            if rng.one_in(4) {
                for _ in 0..1 + d / 2 {
                    row[rng.below(ld)] = f32::NEG_INFINITY;
                }
            }
        }
        let mut want = Guarded::new(rng, &values);
        let mut got = Guarded::new(rng, &values);
        // SAFETY: n rows of d ≤ ld elements.
        unsafe {
            RowSoftmax::reference(&row_softmax::Args { n, d, x: want.as_mut_ptr(), ld });
            run(&row_softmax::Args { n, d, x: got.as_mut_ptr(), ld });
        }
        got.check();
        let max: Vec<f64> = values
            .chunks(ld)
            .map(|r| r[..d].iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x.into())))
            .collect();
        compare(&got, &want, d, ld, |i, j, w| {
            let difference = (f64::from(values[i * ld + j]) - max[i]).abs();
            f64::from(w) * EPS * (difference + d as f64 / 8.0 + 8.0) + TINY
        });
    });
}

#[test]
fn row_l2norm() {
    cases::<RowL2Norm>(800, |rng, run| {
        let (n, d) = (rng.below(6), rng.len());
        let ld = (d + rng.below(10)).max(1);
        let values = rows(rng, n, ld);
        let mut want = Guarded::new(rng, &values);
        let mut got = Guarded::new(rng, &values);
        let args = row_l2norm::Args {
            n,
            d,
            x: want.as_mut_ptr(),
            ld,
            mode: rng.pick(&[Mode::SquareAdd, Mode::Floor, Mode::Add]),
            eps: rng.pick(&[0.0, 1e-6, 1e-12, 1e-30]),
            scale: rng.pick(&[1.0, 0.125]),
        };
        // SAFETY: n rows of d ≤ ld elements.
        unsafe {
            RowL2Norm::reference(&args);
            run(&row_l2norm::Args { x: got.as_mut_ptr(), ..args });
        }
        got.check();
        compare(&got, &want, d, ld, |_, _, w| f64::from(w).abs() * EPS * (d as f64 / 32.0 + 8.0) + TINY);
    });
}

#[test]
fn row_rms() {
    cases::<RowRms>(800, |rng, run| {
        let n = rng.below(5);
        let (n_pieces, piece_len) =
            if rng.one_in(2) { (1, rng.len()) } else { (rng.below(5), rng.below(71)) };
        // Rows of pieces, or pieces of rows; gaps between them.
        let layout = |rng: &mut Rng| {
            let inner = piece_len + rng.below(6);
            if rng.one_in(2) {
                (n_pieces * inner + rng.below(6), inner)
            } else {
                (inner, n * inner + rng.below(6))
            }
        };
        let (ld, piece_stride) = layout(rng);
        let (gate_ld, gate_piece_stride) = layout(rng);
        let extent = |ld: usize, stride: usize| n * ld + n_pieces * stride + piece_len;
        let mut values = rows(rng, 1, extent(ld, piece_stride));
        if rng.one_in(2) {
            values = rng.values(values.len(), 2.0);
        }
        let weight = rng.values(n_pieces * piece_len, 2.0);
        let gate = rng.mixed(extent(gate_ld, gate_piece_stride));
        let (weight, gate) = (Guarded::new(rng, &weight), Guarded::new(rng, &gate));
        let mut want = Guarded::new(rng, &values);
        let mut got = Guarded::new(rng, &values);
        let args = row_rms::Args {
            n,
            n_pieces,
            piece_len,
            y: want.as_mut_ptr(),
            ld: ld as isize,
            piece_stride: piece_stride as isize,
            eps: rng.pick(&[0.0, 1e-6, 1e-5, 1e-30]),
            weight: if rng.one_in(2) { weight.as_ptr() } else { std::ptr::null() },
            gate: if rng.one_in(2) { gate.as_ptr() } else { std::ptr::null() },
            gate_ld: gate_ld as isize,
            gate_piece_stride: gate_piece_stride as isize,
            activation: rng.pick(&[Activation::Silu, Activation::Sigmoid]),
        };
        // SAFETY: `extent` elements, and a weight for each of a row.
        unsafe {
            RowRms::reference(&args);
            run(&row_rms::Args { y: got.as_mut_ptr(), ..args });
        }
        got.check();
        let roundings = n_pieces as f64 * (piece_len as f64 / 32.0 + 2.0) + 12.0;
        // What gaps may differ by; what elements may differ by is put in their places.
        let mut tolerance = vec![0f64; values.len()];
        for (i, p, e) in (0..n * n_pieces * piece_len)
            .map(|k| (k / (n_pieces * piece_len), k / piece_len % n_pieces, k % piece_len))
        {
            let at = i * ld + p * piece_stride + e;
            let w = if args.weight.is_null() { 1.0 } else { f64::from(weight[p * piece_len + e]) };
            let g = if args.gate.is_null() {
                1.0
            } else {
                f64::from(gate[i * gate_ld + p * gate_piece_stride + e])
            };
            // The normalised value, at most √len, times a flushed gate; or a flushed one times the gate.
            let flushed = 2.7e-37 * ((n_pieces * piece_len) as f64).sqrt() * 2.0 + TINY * (w * g).abs();
            tolerance[at] = f64::from(want[at]).abs() * EPS * roundings + flushed;
            if g.is_infinite() {
                // inf, or NaN if the value was flushed.
                got[at] = if got[at].is_nan() { want[at] } else { got[at] };
            }
        }
        for (at, (&g, &w)) in got.iter().zip(&*want).enumerate() {
            assert_close(g, w, tolerance[at], || format!("element {at} of {args:?}"));
        }
    });
}
