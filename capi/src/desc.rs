//! Describing a problem
//!
//! A description holds everything but the batch and the lengths, which come with each call.

use crate::boundary;
use crate::fault::{Fault, Place, Result};
use crate::sized::{self, Versioned};
use std::ffi::c_char;
use subquad::{DType, Desc, Flags, Modes, Value};

/// Whole sequence; token t reads tokens s <= t.
pub const SUBQUAD_MODE_CAUSAL: u32 = 1;
/// Whole sequence; every token reads every token.
pub const SUBQUAD_MODE_BIDIRECTIONAL: u32 = 2;
/// Queries of one sequence read the keys and values of another.
pub const SUBQUAD_MODE_CROSS: u32 = 4;
/// One new token per sequence, the state carried from call to call.
pub const SUBQUAD_MODE_STEP: u32 = 8;
/// Random draws.
pub const SUBQUAD_MODE_DRAW: u32 = 16;
/// Helpers that are no attention.
pub const SUBQUAD_MODE_TRANSFORM: u32 = 32;

/// Operands of matrix products may be rounded to bf16, whatever the tensors' types; sums and the carried state stay f32.
/// A permission: used where the processor multiplies pairs of bf16, in prefill without gradients, by exact attention and by
/// recurrences with a decay per token or head or none, with or without the delta rule; elsewhere it changes nothing. The
/// plan's info tells by its kernel.
pub const SUBQUAD_FLAG_BF16_DOT: u32 = 1;

/// IEEE single.
pub const SUBQUAD_DTYPE_F32: u32 = 1;
/// The upper half of an IEEE single.
pub const SUBQUAD_DTYPE_BF16: u32 = 2;
/// IEEE half.
pub const SUBQUAD_DTYPE_F16: u32 = 3;
/// 32-bit integer.
pub const SUBQUAD_DTYPE_I32: u32 = 4;

/// The value is in `i64`: an integer; also a truth value (0, 1), and accepted where a real is asked for.
pub const SUBQUAD_PARAM_INT: u32 = 1;
/// The value is in `f64`.
pub const SUBQUAD_PARAM_REAL: u32 = 2;
/// The value is in `word`: one of the catalogue's list.
pub const SUBQUAD_PARAM_WORD: u32 = 3;
/// The values are in `i64s[0 .. n]`; accepted where reals are asked for.
pub const SUBQUAD_PARAM_INTS: u32 = 4;
/// The values are in `f64s[0 .. n]`.
pub const SUBQUAD_PARAM_REALS: u32 = 5;

/// One named parameter. The struct is frozen.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct subquad_param {
    /// Name in the catalogue, NUL-terminated.
    pub name: *const c_char,
    /// SUBQUAD_PARAM_...: which of the fields below holds the value. The others are ignored.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
    /// SUBQUAD_PARAM_INT.
    pub i64: i64,
    /// SUBQUAD_PARAM_REAL.
    pub f64: f64,
    /// SUBQUAD_PARAM_WORD, NUL-terminated.
    pub word: *const c_char,
    /// SUBQUAD_PARAM_INTS.
    pub i64s: *const i64,
    /// SUBQUAD_PARAM_REALS.
    pub f64s: *const f64,
    /// Length of the list.
    pub n: usize,
}

/// What to plan. Filled by subquad_desc_init, then by the caller.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct subquad_desc {
    /// sizeof(subquad_desc).
    pub struct_size: usize,
    /// Name of the mechanism in the catalogue, NUL-terminated. There is no default.
    pub mechanism: *const c_char,
    /// Bits of SUBQUAD_MODE_... to prepare. Default: SUBQUAD_MODE_CAUSAL.
    pub modes: u32,
    /// Bits of SUBQUAD_FLAG_... Default: 0.
    pub flags: u32,
    /// Heads of q. The larger of any two head counts is a multiple of the smaller. Default: 1.
    pub heads_q: i64,
    /// Heads of k. Default: 1.
    pub heads_k: i64,
    /// Heads of v. Default: 1.
    pub heads_v: i64,
    /// Dimension of queries and keys. Default: 64.
    pub dim_qk: i64,
    /// Dimension of values. Default: 64.
    pub dim_v: i64,
    /// Element type of q, k and v: SUBQUAD_DTYPE_F32, _BF16 or _F16. Every other input (gates, weights, values
    /// per head) is F32 or of this type, each as its tensor says. Arithmetic is F32 always. Default: F32.
    pub dtype_qkv: u32,
    /// Element type of out: F32, BF16 or F16, whatever the inputs are; rounded once, to nearest. Default: F32.
    pub dtype_out: u32,
    /// Element type of the state: F32 or BF16, rounded once at the end of each call; normalisers, shifts,
    /// logarithms of sums and counts are F32 (subquad_plan_state_component tells). Mechanisms gate, causal_conv and
    /// lasp, gradients and summaries take F32 in all three. Default: F32.
    pub dtype_state: u32,
    /// Zero.
    pub reserved: u32,
    /// Parameters that are not to have their default; may be NULL if there are none.
    pub params: *const subquad_param,
    /// Number of parameters.
    pub n_params: usize,
}

// SAFETY: `repr(C)`, the size first, then numbers and pointers.
unsafe impl Versioned for subquad_desc {
    const NAME: &'static str = "subquad_desc";
    fn defaults() -> Self {
        subquad_desc {
            struct_size: size_of::<Self>(),
            mechanism: std::ptr::null(),
            modes: SUBQUAD_MODE_CAUSAL,
            flags: 0,
            heads_q: 1,
            heads_k: 1,
            heads_v: 1,
            dim_qk: 64,
            dim_v: 64,
            dtype_qkv: SUBQUAD_DTYPE_F32,
            dtype_out: SUBQUAD_DTYPE_F32,
            dtype_state: SUBQUAD_DTYPE_F32,
            reserved: 0,
            params: std::ptr::null(),
            n_params: 0,
        }
    }
}

/// Sets the defaults: mode causal, one head of dimension 64, f32, no parameters, no mechanism.
///
/// NULL is ignored. Thread-safe. Allocates: no. Since 0.1.0.
///
/// # Safety
/// `desc` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_desc_init(desc: *mut subquad_desc) {
    if !desc.is_null() {
        // SAFETY: writable, says the caller.
        unsafe { desc.write(subquad_desc::defaults()) };
    }
}

/// More than any mechanism has.
const MAX_PARAMS: usize = 256;
/// Longest list that a parameter may be.
const MAX_LIST: usize = 1 << 20;

/// The library's description.
///
/// # Safety
/// `desc` is null or readable for its size, and its strings and lists are readable.
pub(crate) unsafe fn convert(desc: *const subquad_desc) -> Result<Desc> {
    // SAFETY: as the caller says.
    let desc = unsafe { sized::read(desc, "desc") }?;
    let field = |field| Place::field("desc", field);
    if desc.reserved != 0 {
        return Err(Fault::reserved(field("reserved")));
    }
    // SAFETY: null or a string, says the caller.
    let mechanism = unsafe { boundary::string(desc.mechanism, field("mechanism")) }?;
    at_most(desc.n_params, MAX_PARAMS, field("n_params"))?;
    // SAFETY: null or that many parameters, says the caller.
    let params = unsafe { boundary::array(desc.params, desc.n_params, field("params")) }?;
    let mut result = Desc::new(mechanism)
        .modes(Modes::from_bits(desc.modes))
        .flags(Flags::from_bits(desc.flags))
        .heads(desc.heads_q, desc.heads_k, desc.heads_v)
        .dims(desc.dim_qk, desc.dim_v);
    result.dtype_qkv = dtype(desc.dtype_qkv, field("dtype_qkv"))?;
    result.dtype_out = dtype(desc.dtype_out, field("dtype_out"))?;
    result.dtype_state = dtype(desc.dtype_state, field("dtype_state"))?;
    for (index, given) in params.iter().enumerate() {
        // SAFETY: its strings and lists are readable, says the caller.
        result.params.push(unsafe { param(given, index) }?);
    }
    Ok(result)
}

fn at_most(n: usize, max: usize, place: Place) -> Result<()> {
    if n > max { Err(Fault::invalid(place, n as i128, "far fewer")) } else { Ok(()) }
}

pub(crate) fn dtype(number: u32, place: Place) -> Result<DType> {
    let known = DType::ALL.into_iter().find(|&dtype| dtype as u32 == number);
    known.ok_or(Fault::invalid(place, number, "one of SUBQUAD_DTYPE_..."))
}

/// # Safety
/// The strings and the list that `kind` speaks of are readable.
unsafe fn param(given: &subquad_param, index: usize) -> Result<(String, Value)> {
    let field = |field| Place::element("desc.params", index, field);
    if given.reserved != 0 {
        return Err(Fault::reserved(field("reserved")));
    }
    // SAFETY: null or a string, says the caller.
    let name = unsafe { boundary::string(given.name, field("name")) }?;
    let value = match given.kind {
        SUBQUAD_PARAM_INT => Value::Int(given.i64),
        SUBQUAD_PARAM_REAL => Value::Real(given.f64),
        // SAFETY: null or a string, says the caller.
        SUBQUAD_PARAM_WORD => Value::Word(unsafe { boundary::string(given.word, field("word")) }?.to_owned()),
        SUBQUAD_PARAM_INTS => {
            at_most(given.n, MAX_LIST, field("n"))?;
            // SAFETY: null or a list of `n`, says the caller.
            Value::Ints(unsafe { boundary::array(given.i64s, given.n, field("i64s")) }?.to_vec())
        }
        SUBQUAD_PARAM_REALS => {
            at_most(given.n, MAX_LIST, field("n"))?;
            // SAFETY: null or a list of `n`, says the caller.
            Value::Reals(unsafe { boundary::array(given.f64s, given.n, field("f64s")) }?.to_vec())
        }
        other => return Err(Fault::invalid(field("kind"), other, "one of SUBQUAD_PARAM_...")),
    };
    Ok((name.to_owned(), value))
}
