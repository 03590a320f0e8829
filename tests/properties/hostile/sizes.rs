//! Sizes around every block and vector.

use super::*;

const LENGTHS: [i64; 11] = [0, 1, 15, 16, 17, 31, 32, 33, 255, 256, 257];
const WIDTHS: [i64; 12] = [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65];

#[test]
fn lengths_around_blocks() {
    for mechanism in mechanisms() {
        for t in LENGTHS {
            let (_, p) = filled(mechanism, [2, 2, 2], (5, 3), t);
            compare(&p, "length");
        }
        // Several panels: chunks are prepared in blocks.
        for t in [255, 256, 257] {
            let (_, p) = filled(mechanism, [1, 1, 1], (80, 150), t);
            let p = p.batch(&[0]);
            let got = p.run(&context());
            oracle::check(&got, &oracle::expect(&p), || format!("{p}"));
        }
    }
}

#[test]
fn widths_around_vectors() {
    for mechanism in mechanisms() {
        for (i, d) in WIDTHS.into_iter().enumerate() {
            for e in [1, WIDTHS[(i * 5 + 3) % 12], WIDTHS[(i * 7 + 1) % 12], 130] {
                let (_, p) = filled(mechanism, [2, 2, 2], (d, e), 19);
                compare(&p, "width");
            }
        }
    }
}
