//! Gradients
//!
//! Backward maps the gradient of the output to those of the inputs. The role of a gradient is the role of its
//! tensor with the bit SUBQUAD_ROLE_GRAD: SUBQUAD_ROLE_Q | SUBQUAD_ROLE_GRAD is "dq". A gradient has the shape of
//! its tensor; subquad_mechanism_role says which tensors have one, subquad_plan_info in which modes.

use crate::boundary;
use crate::fault::{Fault, Place, Result};
use crate::plan::{self, subquad_plan};
use crate::status::{subquad_error, subquad_status};
use crate::tensor::{self, subquad_in, subquad_out};
use std::ffi::c_void;

/// Bytes of workspace that subquad_plan_backward needs for so many sequences (the batch, or the packed ones of
/// CU_SEQLENS) with so many queries and keys in each; of sequences that differ, the longest counts.
///
/// Unlike subquad_plan_workspace_size it grows with the length: each worker of the context keeps the state of a
/// head at every 256th token, and with 16-bit q, k and v there is room for gradients of rows that several heads share,
/// as f32. In fam_block the rows of the memory count among the keys, unless parameter F says how many they are.
///
/// Returns NULL_POINTER, INVALID_ARGUMENT (a negative number), UNSUPPORTED (the plan has no gradient, or so much
/// can't be), INTERNAL. Thread-safe. Allocates: no, but for the text of a failure. Since 0.1.0.
///
/// # Safety
/// `plan` is NULL or a live plan; `bytes` and `err` are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_plan_backward_workspace_size(
    plan: *const subquad_plan,
    sequences: i64,
    n_q: i64,
    n_k: i64,
    bytes: *mut usize,
    err: *mut subquad_error,
) -> subquad_status {
    let body = || {
        // SAFETY: null or live, says the caller.
        let plan = &unsafe { boundary::borrow(plan, "plan") }?.plan;
        let bytes = boundary::out(bytes, "bytes")?;
        let [sequences, n_q, n_k] = [("sequences", sequences), ("n_q", n_q), ("n_k", n_k)].map(count);
        let size = plan.backward_workspace_size(sequences?, n_q?, n_k?)?;
        // SAFETY: checked, and writable says the caller.
        unsafe { bytes.write(size) };
        Ok(())
    };
    // SAFETY: `err` is null or writable.
    unsafe { boundary::status(err, body) }
}

fn count((name, given): (&'static str, i64)) -> Result<usize> {
    usize::try_from(given).map_err(|_| Fault::invalid(Place::argument(name), given, "0 or more"))
}

/// Computes gradients of the inputs from gradients of the outputs.
///
/// `in` binds the inputs of subquad_plan_execute as they were, STATE_IN included, and the gradient of OUT; with
/// it, if what was carried out has a gradient, that of STATE_OUT and the other parts of the state (absent: zero).
/// `out` binds the gradients that are wanted, of any inputs that are bound and of STATE_IN. OUT and STATE_OUT
/// themselves are not bound: what is needed of the forward pass is computed anew. Only softmax, focal, fox, bswa and
/// integral take OUT and LSE of subquad_plan_execute in `in`, both or none, and do without that work; hard_retrieval
/// takes INDEX, -1 or a key that the query sees, in place of that of the best key.
///
/// Gradients are written, not added to. Those of shared heads, and of what all sequences share, are sums over
/// those who share. Those of a state are addressed by STATE_INDEX where states are. A long sequence can be
/// differentiated in pieces, last one first: the gradient of a piece's STATE_IN is that of STATE_OUT for the piece
/// before. Where SHIFT_IN is bound, gradients of states are in the scale of SHIFT_IN and of the SHIFT_OUT of forward, at
/// fixed shifts; else of states in plain scale. No output may share memory with another tensor. `workspace` has at
/// least subquad_plan_backward_workspace_size bytes for the sequences of the call. Results have the same bits for any
/// number of threads, and whatever else is wanted.
///
/// Element types: inputs have those of subquad_plan_execute. A gradient is f32, or has the type of its tensor: those of Q,
/// K and V desc.dtype_qkv, that of OUT desc.dtype_out, those of states desc.dtype_state, others the type that the tensor
/// has in this call. Types may be mixed. The gradient of BIAS is always f32, and so are those of Z_IN and Z_OUT, and
/// MSG_GRAD. Arithmetic is f32 and each gradient is rounded once, to nearest, ties to even: its bits are those that f32
/// tensors of the same values give, rounded.
///
/// After a failure the plan is usable as before; all but INTERNAL leave outputs untouched.
///
/// Returns UNSUPPORTED (the plan was not made for the mode, or the mechanism has no gradient in it: modes STEP,
/// DRAW and TRANSFORM have none), otherwise what subquad_plan_execute returns. Thread-safe with other workspace
/// and outputs. Allocates: no, but for the text of a failure. Since 0.1.0.
///
/// # Safety
/// As for subquad_plan_execute.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_plan_backward(
    plan: *const subquad_plan,
    mode: u32,
    r#in: *const subquad_in,
    n_in: usize,
    out: *const subquad_out,
    n_out: usize,
    workspace: *mut c_void,
    workspace_size: usize,
    err: *mut subquad_error,
) -> subquad_status {
    let run = |plan: &subquad::Plan, args: &subquad::Args<'_>, workspace: &mut [u8]| {
        Ok(plan.backward(tensor::mode(mode)?, args, workspace)?)
    };
    // SAFETY: the caller's contract.
    unsafe { plan::call(plan, (r#in, n_in), (out, n_out), (workspace, workspace_size), err, run) }
}
