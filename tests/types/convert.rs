//! States of other element types and strides.

use crate::common::golden::Array;
use crate::common::problem::Strided;
use crate::common::support::{Rng, seed};
use crate::common::types::{Stored, contiguous, nearest};
use subquad::{DType, Layout, Status, View, ViewMut, convert_state};

const FLOATS: [DType; 3] = [DType::F32, DType::Bf16, DType::F16];

/// Every pair of types, any strides: each element rounded once, nothing beside them written.
#[test]
fn any_types_and_strides() {
    let rng = &mut Rng::new(seed());
    for case in 0..300 {
        let rank = case % 6;
        let shape: Vec<i64> = (0..rank).map(|_| rng.below(if rank == 2 { 70 } else { 8 }) as i64).collect();
        let n = shape.iter().product::<i64>() as usize;
        let (from, to) = (FLOATS[case % 3], FLOATS[case / 3 % 3]);
        let data: Vec<f32> = rng.values(n, 100.0).iter().map(|&x| nearest(x, from)).collect();
        let array = Array { shape: shape.clone(), data };
        let src = Stored::new(Strided::random(rng, &array), from);
        let mut dst = Stored::new(Strided::random(rng, &Array::filled(&shape, -1.0)), to);
        convert_state(&src.view(), &mut dst.view_mut()).unwrap();
        let got = dst.read();
        assert_eq!(got.shape, shape);
        for (got, &x) in got.data.iter().zip(&array.data) {
            assert_eq!(got.to_bits(), nearest(x, to).to_bits(), "{x} from {from} to {to}");
        }
    }
}

/// `[E, D]` to `[D, E]` and back through 16 bits.
#[test]
fn there_and_back() {
    let theirs = Array { shape: vec![3, 20, 33], data: (0..3 * 20 * 33).map(|i| (i % 250) as f32).collect() };
    let mut ours = vec![half::bf16::ZERO; theirs.data.len()];
    let swapped = [20 * 33, 1, 33];
    let src = View::strided(&theirs.data, &[3, 33, 20], &swapped).unwrap();
    convert_state(&src, &mut ViewMut::new(&mut ours, &[3, 33, 20]).unwrap()).unwrap();
    assert_eq!(ours[20 * 33 + 5 * 20 + 7].to_f32(), theirs.data[20 * 33 + 7 * 33 + 5]);
    let mut back = vec![f32::NAN; ours.len()];
    let mut dst = ViewMut::strided(&mut back, &[3, 33, 20], &swapped).unwrap();
    convert_state(&View::new(&ours, &[3, 33, 20]).unwrap(), &mut dst).unwrap();
    assert_eq!(back, theirs.data);
}

#[test]
fn special_values() {
    let given =
        [f32::INFINITY, f32::NEG_INFINITY, -0.0, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1e-40, f32::NAN];
    let mut halves = [half::bf16::ZERO; 7];
    convert_state(&View::new(&given, &[7]).unwrap(), &mut ViewMut::new(&mut halves, &[7]).unwrap()).unwrap();
    // Ties go to the even neighbour.
    let want = [0x7f80, 0xff80, 0x8000, 0x3f80, 0x3f82];
    assert_eq!(halves[..5], want.map(half::bf16::from_bits));
    assert!(halves[6].is_nan());
}

#[test]
fn refused() {
    let src = Stored::new(contiguous(&Array::filled(&[2, 3], 1.0)), DType::F32);
    let mut memory = [7f32; 12];
    let mut refuse = |shape: &[i64], status: Status, words: &[&str]| {
        let mut dst = ViewMut::new(&mut memory[..shape.iter().product::<i64>() as usize], shape).unwrap();
        let error = convert_state(&src.view(), &mut dst).expect_err("the conversion is refused");
        crate::common::refusal::expect(&error, status, words);
        assert_eq!(memory, [7.0; 12], "something was written");
    };
    refuse(&[6], Status::InvalidArgument, &["rank of dst is 1", "src"]);
    refuse(&[2, 3, 1], Status::InvalidArgument, &["rank of dst is 3", "src"]);
    refuse(&[2, 4], Status::InvalidArgument, &["dst.shape[1] is 4", "src"]);
    refuse(&[3, 3], Status::InvalidArgument, &["dst.shape[0] is 3", "src"]);
    let layout = Layout::contiguous(&[2, 3]).unwrap();
    // SAFETY: memory of that many elements; refused before it is touched.
    let (integers, mut written) = unsafe {
        (
            View::from_raw(memory.as_ptr().cast(), DType::I32, layout),
            ViewMut::from_raw(memory.as_mut_ptr().cast(), DType::I32, layout),
        )
    };
    let mut floats = [0f32; 6];
    let error = convert_state(&integers, &mut ViewMut::new(&mut floats, &[2, 3]).unwrap());
    crate::common::refusal::expect(
        &error.unwrap_err(),
        Status::Unsupported,
        &["src of i32", "f32, bf16 or f16"],
    );
    let error = convert_state(&src.view(), &mut written);
    crate::common::refusal::expect(
        &error.unwrap_err(),
        Status::Unsupported,
        &["dst of i32", "f32, bf16 or f16"],
    );
}
