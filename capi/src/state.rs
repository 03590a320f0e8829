//! State
//!
//! The state of a sequence is the caller's memory. It is plain numbers: the tensors that
//! subquad_plan_state_component lists, row-major, each at its offset. A pool of n sequences is n such pieces
//! one after the other; bind a component of all of them as a tensor whose first stride is
//! subquad_plan_state_size / 4. Any other strided tensors of the same extents will do as well, so that the
//! transposed states of other engines can be used in place, with strides.

use crate::boundary;
use crate::desc;
use crate::fault::{Fault, Place, Result};
use crate::plan::subquad_plan;
use crate::sized::{self, Versioned};
use crate::status::{subquad_error, subquad_status};
use std::ffi::c_void;
use subquad::{DType, Layout, Status, View, ViewMut};

/// One tensor of a plan's state.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct subquad_state_component {
    /// sizeof(subquad_state_component), set by the caller.
    pub struct_size: usize,
    /// Role that reads it.
    pub role_in: u32,
    /// Role that writes it.
    pub role_out: u32,
    /// Element type (SUBQUAD_DTYPE_...).
    pub dtype: u32,
    /// Number of axes without the batch, 2 or 3.
    pub rank: u32,
    /// Extents without the batch, [heads, features, dim_v] or [heads, features]; 1 past `rank`.
    pub shape: [i64; 3],
    /// Where it begins in the memory of one sequence, row-major from there on.
    pub offset_bytes: u64,
    /// Value of every element before the first token.
    pub initial: f32,
    /// Zero.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, the size first, then numbers.
unsafe impl Versioned for subquad_state_component {
    const NAME: &'static str = "subquad_state_component";
    fn defaults() -> Self {
        subquad_state_component {
            struct_size: size_of::<Self>(),
            role_in: 0,
            role_out: 0,
            dtype: 0,
            rank: 0,
            shape: [1; 3],
            offset_bytes: 0,
            initial: 0.0,
            reserved: 0,
        }
    }
}

/// Describes one of the tensors that make up the state; `index` is below n_state of subquad_plan_info.
///
/// The caller sets out->struct_size first. Returns NULL_POINTER, INVALID_ARGUMENT (`index`), WRONG_STRUCT,
/// INTERNAL. Thread-safe. Allocates: no. Since 0.1.0.
///
/// # Safety
/// `plan` is NULL or a live plan; `out` is NULL or writable for its struct_size; `err` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_plan_state_component(
    plan: *const subquad_plan,
    index: u32,
    out: *mut subquad_state_component,
    err: *mut subquad_error,
) -> subquad_status {
    let body = || {
        // SAFETY: null or live, says the caller.
        let plan = unsafe { boundary::borrow(plan, "plan") }?;
        let Some(known) = plan.plan.state_layout().components.get(index as usize) else {
            return Err(Fault::invalid(
                Place::argument("index"),
                index,
                "less than n_state of the plan's info",
            ));
        };
        let value = subquad_state_component {
            role_in: known.role_in.id(),
            role_out: known.role_out.id(),
            dtype: known.dtype as u32,
            rank: known.rank as u32,
            shape: known.shape,
            offset_bytes: known.offset_bytes as u64,
            initial: known.initial,
            ..subquad_state_component::defaults()
        };
        // SAFETY: null or writable for its size, says the caller.
        unsafe { sized::write(out, "out", value) }
    };
    // SAFETY: `err` is null or writable.
    unsafe { boundary::status(err, body) }
}

/// Fills the states of `n_sequences` sequences, one after the other, with what they are before the first
/// token: mostly zero, but a running maximum starts at minus infinity.
///
/// `size` is that of `state` in bytes, at least n_sequences times subquad_plan_state_size; what lies behind
/// is not touched. `state` is aligned to 4 bytes.
///
/// Returns NULL_POINTER, INVALID_ARGUMENT (`size`), MISALIGNED, INTERNAL. Thread-safe for different states.
/// Allocates: no. Since 0.1.0.
///
/// # Safety
/// `plan` is NULL or a live plan; `state` is NULL or writable for `size` bytes; `err` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_state_init(
    plan: *const subquad_plan,
    state: *mut c_void,
    size: usize,
    n_sequences: usize,
    err: *mut subquad_error,
) -> subquad_status {
    let body = || {
        // SAFETY: null or live, says the caller.
        let layout = unsafe { boundary::borrow(plan, "plan") }?.plan.state_layout();
        let needed = layout.size_bytes.checked_mul(n_sequences).filter(|&needed| needed <= size);
        let Some(needed) = needed else {
            let expected = "n_sequences * subquad_plan_state_size";
            return Err(Fault::invalid(Place::argument("size"), size as i128, expected));
        };
        if needed == 0 {
            return Ok(());
        }
        let state = boundary::out(state.cast::<u8>(), "state")?;
        aligned(state.cast(), 4, "state")?;
        for sequence in 0..n_sequences {
            // SAFETY: `needed` bytes are writable, says the caller, and this is the piece of one sequence.
            let piece = unsafe { state.add(sequence * layout.size_bytes) };
            // SAFETY: as above.
            unsafe { piece.write_bytes(0, layout.size_bytes) };
            for part in layout.components.iter().filter(|part| part.initial != 0.0) {
                let len = part.shape.iter().product::<i64>() as usize;
                // SAFETY: the layout's parts lie in its size, and offsets are multiples of 64. Only shifts do not
                // begin at zero, and they are f32 in every plan.
                unsafe {
                    let values = piece.add(part.offset_bytes).cast::<f32>();
                    (0..len).for_each(|i| values.add(i).write(part.initial));
                }
            }
        }
        Ok(())
    };
    // SAFETY: `err` is null or writable.
    unsafe { boundary::status(err, body) }
}

/// Converts n_matrices row-major matrices [rows, cols] without gaps to another element type, and transposes them if
/// `transpose` is 1: dst[h][c][r] = src[h][r][c], else dst[h][r][c] = src[h][r][c].
///
/// For states of other engines: one that is kept [heads, dim_v, dim_qk] becomes ours with rows = dim_v, cols = dim_qk and
/// transpose = 1, ours becomes theirs with the two exchanged. (Binding their memory with strides works too, without
/// a copy; converting once is faster where it is stepped often.) Element types are SUBQUAD_DTYPE_F32, _BF16 and _F16;
/// to 16 bits values are rounded to nearest, ties to even. `src_size` and `dst_size` are the bytes there are, at least
/// n_matrices * rows * cols * bytes of an element; what lies behind is not touched. The two must not overlap.
///
/// Returns NULL_POINTER, INVALID_ARGUMENT (a negative extent, `src_size`, `dst_size`, an unknown element type,
/// `transpose`), UNSUPPORTED (SUBQUAD_DTYPE_I32), MISALIGNED, OVERLAP, INTERNAL. Thread-safe for different memory.
/// Allocates: no, but for the text of a failure. Since 0.1.0.
///
/// # Safety
/// `src` is NULL or readable for `src_size` bytes, `dst` is NULL or writable for `dst_size` bytes; `err` is
/// NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_state_convert(
    src: *const c_void,
    src_dtype: u32,
    src_size: usize,
    dst: *mut c_void,
    dst_dtype: u32,
    dst_size: usize,
    n_matrices: i64,
    rows: i64,
    cols: i64,
    transpose: u32,
    err: *mut subquad_error,
) -> subquad_status {
    let body = || {
        for (given, name) in [(n_matrices, "n_matrices"), (rows, "rows"), (cols, "cols")] {
            if given < 0 {
                return Err(Fault::invalid(Place::argument(name), given, "0 or more"));
            }
        }
        if transpose > 1 {
            return Err(Fault::invalid(Place::argument("transpose"), transpose, "0 or 1"));
        }
        let src_dtype = desc::dtype(src_dtype, Place::argument("src_dtype"))?;
        let dst_dtype = desc::dtype(dst_dtype, Place::argument("dst_dtype"))?;
        let len = [rows, cols].iter().try_fold(n_matrices, |product, &x| product.checked_mul(x));
        let bytes = |dtype: DType| usize::try_from(len?).ok()?.checked_mul(dtype.size());
        for (dtype, size, name) in [(src_dtype, src_size, "src_size"), (dst_dtype, dst_size, "dst_size")] {
            if bytes(dtype).is_none_or(|needed| needed > size || needed > isize::MAX as usize) {
                let expected = "at least n_matrices * rows * cols * the bytes of an element";
                return Err(Fault::invalid(Place::argument(name), size as i128, expected));
            }
        }
        if len == Some(0) {
            return Ok(());
        }
        if src.is_null() {
            return Err(Fault::Null(Place::argument("src")));
        }
        let dst = boundary::out(dst, "dst")?;
        aligned(src, src_dtype.size(), "src")?;
        aligned(dst, dst_dtype.size(), "dst")?;
        let end = |start: usize, dtype| start + bytes(dtype).unwrap_or(0);
        if src.addr() < end(dst.addr(), dst_dtype) && dst.addr() < end(src.addr(), src_dtype) {
            let place = Place::argument("dst");
            return Err(Fault::Words { status: Status::Overlap, place, what: "overlaps src" });
        }
        let from = Layout::contiguous(&[n_matrices, rows, cols])?;
        let across = if transpose == 1 { [rows * cols, 1, rows] } else { [rows * cols, cols, 1] };
        let to = Layout::strided(&[n_matrices, rows, cols], &across)?;
        // SAFETY: aligned, as many elements as the sizes that the caller vouches for, and disjoint.
        let (src, mut dst) = unsafe {
            (View::from_raw(src.cast(), src_dtype, from), ViewMut::from_raw(dst.cast(), dst_dtype, to))
        };
        Ok(subquad::convert_state(&src, &mut dst)?)
    };
    // SAFETY: `err` is null or writable.
    unsafe { boundary::status(err, body) }
}

fn aligned(pointer: *const c_void, to: usize, name: &'static str) -> Result<()> {
    if pointer.addr().is_multiple_of(to) {
        return Ok(());
    }
    let what = if to == 4 { "is not aligned to 4 bytes" } else { "is not aligned to 2 bytes" };
    Err(Fault::Words { status: Status::Misaligned, place: Place::argument(name), what })
}
