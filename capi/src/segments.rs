//! Segments of sequences
//!
//! A sequence can be split over threads, processes or hosts: each summarises its segment, states are combined in
//! order (a chain of messages, a gather or a scan), and each runs its segment from the state that comes in. The
//! message-passing form of linear-attention sequence parallelism (LASP, arXiv 2404.02882). examples/mpi does it
//! over MPI.

use crate::boundary;
use crate::plan::{self, subquad_plan};
use crate::status::{subquad_error, subquad_status};
use crate::tensor::{subquad_in, subquad_out};
use std::ffi::c_void;

/// Bytes of workspace that subquad_plan_summarise, subquad_plan_combine and subquad_plan_correct need, whatever the
/// lengths.
///
/// Returns NULL_POINTER, UNSUPPORTED (the plan was not made for mode CAUSAL, or the mechanism has no summaries),
/// INTERNAL. Thread-safe. Allocates: no, but for the text of a failure. Since 0.1.0.
///
/// # Safety
/// `plan` is NULL or a live plan; `bytes` and `err` are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_plan_segment_workspace_size(
    plan: *const subquad_plan,
    bytes: *mut usize,
    err: *mut subquad_error,
) -> subquad_status {
    let body = || {
        // SAFETY: null or live, says the caller.
        let plan = &unsafe { boundary::borrow(plan, "plan") }?.plan;
        let bytes = boundary::out(bytes, "bytes")?;
        let size = plan.segment_workspace_size()?;
        // SAFETY: checked, and writable says the caller.
        unsafe { bytes.write(size) };
        Ok(())
    };
    // SAFETY: `err` is null or writable.
    unsafe { boundary::status(err, body) }
}

/// Summary of a segment: its final state from an empty one, and what it does to a state that comes in,
/// `S_out = M S_in + S_local`.
///
/// `in` binds the inputs of mode CAUSAL but Q, any state, and what a norm of the output reads. `out` binds STATE_OUT
/// (and Z_OUT where the mechanism keeps a normaliser) for the local state, and MSG_TRANSITION where M is wanted:
/// `[B, Hs]` where a token has one decay, `[B, Hs, D]` where each channel has its own, `[B, Hs, D, D]` for the delta
/// rule and its relatives; without a decay there is none. Ragged batches and pooled states as in
/// subquad_plan_execute.
///
/// Returns UNSUPPORTED (as subquad_plan_segment_workspace_size), otherwise what subquad_plan_execute returns.
/// Thread-safe with other workspace and outputs. Allocates: no, but for the text of a failure. Since 0.1.0.
///
/// # Safety
/// As for subquad_plan_execute.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_plan_summarise(
    plan: *const subquad_plan,
    r#in: *const subquad_in,
    n_in: usize,
    out: *const subquad_out,
    n_out: usize,
    workspace: *mut c_void,
    workspace_size: usize,
    err: *mut subquad_error,
) -> subquad_status {
    let run = |plan: &subquad::Plan, args: &subquad::Args<'_>, workspace: &mut [u8]| {
        Ok(plan.summarise(args, workspace)?)
    };
    // SAFETY: the caller's contract.
    unsafe { plan::call(plan, (r#in, n_in), (out, n_out), (workspace, workspace_size), err, run) }
}

/// The state that leaves a segment: `S_out = M S_in + S_local`.
///
/// `in` binds STATE_IN, MSG_LOCAL (the STATE_OUT of subquad_plan_summarise) and MSG_TRANSITION (where there is one);
/// `out` binds STATE_OUT. Where the mechanism keeps a normaliser, also Z_IN, MSG_LOCAL_Z and Z_OUT. STATE_OUT may
/// be STATE_IN in place. For gradients, which go from the last segment to the first, bind the gradient of the
/// outgoing state as STATE_IN, that of the incoming state without it (from subquad_plan_backward) as MSG_LOCAL, and
/// a matrix with its last two strides swapped.
///
/// Returns UNSUPPORTED (as subquad_plan_segment_workspace_size), otherwise what subquad_plan_execute returns.
/// Thread-safe with other workspace and outputs. Allocates: no, but for the text of a failure. Since 0.1.0.
///
/// # Safety
/// As for subquad_plan_execute.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_plan_combine(
    plan: *const subquad_plan,
    r#in: *const subquad_in,
    n_in: usize,
    out: *const subquad_out,
    n_out: usize,
    workspace: *mut c_void,
    workspace_size: usize,
    err: *mut subquad_error,
) -> subquad_status {
    let run = |plan: &subquad::Plan, args: &subquad::Args<'_>, workspace: &mut [u8]| {
        Ok(plan.combine(args, workspace)?)
    };
    // SAFETY: the caller's contract.
    unsafe { plan::call(plan, (r#in, n_in), (out, n_out), (workspace, workspace_size), err, run) }
}

/// Adds to the outputs of a segment that ran from an empty state what its incoming state gives them, so that OUT is that
/// of subquad_plan_execute with this STATE_IN, within rounding: a segment runs while its incoming state is on its way.
///
/// `in` binds the inputs of mode CAUSAL but V (and D_SKIP), and STATE_IN; `out` binds OUT, which is read and written.
/// Ragged batches and pooled states as in subquad_plan_execute. Not for outputs that are normalised.
///
/// Returns UNSUPPORTED (as subquad_plan_segment_workspace_size, and with a normaliser), otherwise what
/// subquad_plan_execute returns. Thread-safe with other workspace and outputs. Allocates: no, but for the text of a
/// failure. Since 0.1.0.
///
/// # Safety
/// As for subquad_plan_execute.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_plan_correct(
    plan: *const subquad_plan,
    r#in: *const subquad_in,
    n_in: usize,
    out: *const subquad_out,
    n_out: usize,
    workspace: *mut c_void,
    workspace_size: usize,
    err: *mut subquad_error,
) -> subquad_status {
    let run = |plan: &subquad::Plan, args: &subquad::Args<'_>, workspace: &mut [u8]| {
        Ok(plan.correct(args, workspace)?)
    };
    // SAFETY: the caller's contract.
    unsafe { plan::call(plan, (r#in, n_in), (out, n_out), (workspace, workspace_size), err, run) }
}
