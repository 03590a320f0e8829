//! States between the layouts and element types of engines.

use super::{DType, MAX_RANK, Tensor, View, ViewMut};
use crate::error::{Error, Result};
use crate::kernel::load_rows::Source;
use crate::kernel::store_rows::Target;
use half::{bf16, f16};

/// Copies a state, or any tensor, into one of the same extents with other strides and another element type: `f32`,
/// `bf16` or `f16`. A state `[H, E, D]` of another engine is a view `[H, D, E]` of that memory with its last two strides
/// exchanged, so this converts from and to either.
///
/// To 16 bits, values are rounded to nearest, ties to even; `bf16` to `f32` is exact, and there and back gives the same
/// bits. (Binding the other engine's memory with strides works too, without a copy; converting once is faster where the
/// state is stepped often.) Elements of `dst` must not share memory with each other or with `src`.
///
/// ```
/// use subquad::{View, ViewMut, convert_state};
/// let theirs = [1f32, 2.0, 3.0, 4.0, 5.0, 6.0]; // [H, E, D] = [1, 2, 3]
/// let mut ours = [half::bf16::ZERO; 6]; // [H, D, E]
/// let src = View::strided(&theirs, &[1, 3, 2], &[6, 1, 3])?;
/// convert_state(&src, &mut ViewMut::new(&mut ours, &[1, 3, 2])?)?;
/// assert_eq!(ours.map(f32::from), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
/// # Ok::<(), subquad::Error>(())
/// ```
///
/// *Cost*: one pass over both. *Allocates*: no. Since 0.1.0.
///
/// # Errors
/// Ranks or extents that differ, an element type that is no float; nothing is written then.
pub fn convert_state(src: &View<'_>, dst: &mut ViewMut<'_>) -> Result<()> {
    const SHAPE: [&str; MAX_RANK] =
        ["dst.shape[0]", "dst.shape[1]", "dst.shape[2]", "dst.shape[3]", "dst.shape[4]"];
    if dst.layout.rank != src.layout.rank {
        let given = dst.layout.rank as i64;
        return Err(Error::InvalidArgument { what: "the rank of dst", given, expected: "that of src" });
    }
    for (axis, what) in SHAPE.into_iter().enumerate() {
        let given = dst.layout.shape[axis];
        if given != src.layout.shape[axis] {
            return Err(Error::InvalidArgument { what, given, expected: "that of src" });
        }
    }
    for (name, dtype) in [("src", src.dtype), ("dst", dst.dtype)] {
        if dtype == DType::I32 {
            let what = format!("{name} of {dtype}");
            return Err(Error::Unsupported { what, why: "expected f32, bf16 or f16".into() });
        }
    }
    if src.layout.shape.contains(&0) {
        return Ok(());
    }
    let from = Tensor { data: src.data.cast_mut(), dtype: src.dtype, layout: src.layout };
    let to = Tensor { data: dst.data, dtype: dst.dtype, layout: dst.layout };
    match from.dtype {
        DType::Bf16 => convert_from::<bf16>(&from, &to),
        DType::F16 => convert_from::<f16>(&from, &to),
        _ => convert_from::<f32>(&from, &to),
    }
    Ok(())
}

fn convert_from<S: Source>(from: &Tensor, to: &Tensor) {
    match to.dtype {
        DType::Bf16 => convert::<S, bf16>(from, to),
        DType::F16 => convert::<S, f16>(from, to),
        _ => convert::<S, f32>(from, to),
    }
}

/// Matrix by matrix of the last two axes, in squares of a cache line a side, so that neither side is read or written line
/// by line in vain.
fn convert<S: Source, D: Target>(from: &Tensor, to: &Tensor) {
    const SIDE: usize = 16;
    let rank = from.layout.rank;
    // Axes that a tensor lacks have one entry.
    let (rows, columns) = (rank.checked_sub(2).unwrap_or(MAX_RANK - 1), rank.saturating_sub(1));
    let (n_rows, n_columns) = (from.extent(rows), from.extent(columns));
    let outer = &from.layout.shape[..rank.saturating_sub(2)];
    for matrix in 0..outer.iter().product::<i64>() as usize {
        let mut index = [0; MAX_RANK];
        let mut rest = matrix;
        for (axis, &extent) in outer.iter().enumerate().rev() {
            (index[axis], rest) = (rest % extent as usize, rest / extent as usize);
        }
        let (src, dst) = (from.address::<S>(&index), to.address::<D>(&index));
        for r0 in (0..n_rows).step_by(SIDE) {
            for c0 in (0..n_columns).step_by(SIDE) {
                for r in r0..n_rows.min(r0 + SIDE) {
                    for c in c0..n_columns.min(c0 + SIDE) {
                        let at = |tensor: &Tensor| {
                            r as isize * tensor.stride(rows) + c as isize * tensor.stride(columns)
                        };
                        // SAFETY: the element lies in both tensors, for whose memory the makers of the views vouched; that
                        // memory need not be aligned.
                        unsafe {
                            let x = src.wrapping_offset(at(from)).read_unaligned().widen();
                            dst.wrapping_offset(at(to)).write_unaligned(D::narrow(x));
                        }
                    }
                }
            }
        }
    }
}
