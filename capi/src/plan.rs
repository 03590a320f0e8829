//! Plans
//!
//! A plan is a problem made ready to run: heads, dimensions, parameters and kernels are fixed; batch and
//! lengths come with each call. It is immutable and can be executed from several threads at a time, each
//! with its own workspace, outputs and state.

use crate::boundary;
use crate::context::subquad_context;
use crate::desc::{self, subquad_desc};
use crate::fault::{Fault, Place, Result};
use crate::sized::{self, Versioned};
use crate::status::{subquad_error, subquad_status};
use crate::tensor::{self, subquad_in, subquad_out};
use std::ffi::{c_char, c_void};
use subquad::{Args, Error, Plan};

/// A problem made ready to run; made by subquad_plan_create.
pub struct subquad_plan {
    pub(crate) plan: Plan,
}

/// What a plan will run.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct subquad_plan_info {
    /// sizeof(subquad_plan_info), set by the caller.
    pub struct_size: usize,
    /// Instruction set of its kernels (SUBQUAD_ISA_...).
    pub isa: u32,
    /// Tokens of a chunk.
    pub chunk: u32,
    /// Value columns of the part of the state that stays in the first-level cache.
    pub panel: u32,
    /// Number of tensors that make up the state: indices of subquad_plan_state_component.
    pub n_state: u32,
    /// Bytes of one sequence's state.
    pub state_bytes: usize,
    /// Bytes of workspace that suffice for every call of subquad_plan_execute.
    pub workspace_bytes: usize,
    /// Name of the mechanism.
    pub mechanism: [c_char; 32],
    /// The engine and the tile that does the bulk of the work, as "engine:tile".
    pub kernel: [c_char; 64],
    /// Modes of the plan in which subquad_plan_backward has gradients: bits of SUBQUAD_MODE_....
    pub gradient_modes: u32,
    /// Zero.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, the size first, then numbers.
unsafe impl Versioned for subquad_plan_info {
    const NAME: &'static str = "subquad_plan_info";
    fn defaults() -> Self {
        subquad_plan_info {
            struct_size: size_of::<Self>(),
            isa: 0,
            chunk: 0,
            panel: 0,
            n_state: 0,
            state_bytes: 0,
            workspace_bytes: 0,
            mechanism: [0; 32],
            kernel: [0; 64],
            gradient_modes: 0,
            reserved: 0,
        }
    }
}

/// Plans a description for the instruction set and runner of a context.
///
/// Neither `context` nor `desc` is needed afterwards. The caller destroys `*out` with subquad_plan_destroy.
/// Takes microseconds.
///
/// Returns NULL_POINTER, INVALID_ARGUMENT (names the field), UNKNOWN_MECHANISM, UNSUPPORTED (mechanism, mode,
/// type or size, and why), UNKNOWN_PARAMETER, PARAMETER_RANGE, WRONG_STRUCT, INTERNAL. Thread-safe.
/// Allocates: yes. Since 0.1.0.
///
/// # Safety
/// `context` is NULL or a live context; `desc` is NULL or readable for its struct_size, its strings are
/// NUL-terminated and its lists as long as they say; `out` and `err` are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_plan_create(
    context: *const subquad_context,
    desc: *const subquad_desc,
    out: *mut *mut subquad_plan,
    err: *mut subquad_error,
) -> subquad_status {
    let body = || {
        let out = boundary::out(out, "out")?;
        // SAFETY: null or live, says the caller.
        let context = unsafe { boundary::borrow(context, "context") }?;
        // SAFETY: null or readable with all it points to, says the caller.
        let plan = Plan::new(&context.context, &unsafe { desc::convert(desc) }?)?;
        // SAFETY: checked, and writable says the caller.
        unsafe { out.write(Box::into_raw(Box::new(subquad_plan { plan }))) };
        Ok(())
    };
    // SAFETY: `err` is null or writable.
    unsafe { boundary::status(err, body) }
}

/// Frees a plan; NULL is fine.
///
/// Thread-safe, once per plan and not while it is executed. Allocates: no. Since 0.1.0.
///
/// # Safety
/// `plan` is NULL or came from subquad_plan_create and was not destroyed before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_plan_destroy(plan: *mut subquad_plan) {
    boundary::value((), || {
        if !plan.is_null() {
            // SAFETY: `create` leaked this box, and the caller gives it back once.
            drop(unsafe { Box::from_raw(plan) });
        }
    });
}

/// Says what a plan will run.
///
/// The caller sets info->struct_size first. Returns NULL_POINTER, WRONG_STRUCT, INTERNAL. Thread-safe.
/// Allocates: no. Since 0.1.0.
///
/// # Safety
/// `plan` is NULL or a live plan; `info` is NULL or writable for its struct_size; `err` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_plan_get_info(
    plan: *const subquad_plan,
    info: *mut subquad_plan_info,
    err: *mut subquad_error,
) -> subquad_status {
    let body = || {
        // SAFETY: null or live, says the caller.
        let plan = unsafe { boundary::borrow(plan, "plan") }?;
        let known = plan.plan.info();
        let mut value = subquad_plan_info {
            isa: known.isa as u32,
            chunk: known.chunk as u32,
            panel: known.panel as u32,
            n_state: plan.plan.state_layout().components.len() as u32,
            state_bytes: known.state_bytes,
            workspace_bytes: known.workspace_bytes,
            gradient_modes: known.gradient_modes.bits(),
            ..subquad_plan_info::defaults()
        };
        put(&mut value.mechanism, known.mechanism);
        put(&mut value.kernel, known.kernel);
        // SAFETY: null or writable for its size, says the caller.
        unsafe { sized::write(info, "info", value) }
    };
    // SAFETY: `err` is null or writable.
    unsafe { boundary::status(err, body) }
}

/// Copies a text into a field that is zero and stays terminated.
fn put(field: &mut [c_char], text: &str) {
    let n = text.floor_char_boundary(field.len() - 1);
    for (to, &from) in field.iter_mut().zip(&text.as_bytes()[..n]) {
        *to = from as c_char;
    }
}

/// Bytes of workspace that subquad_plan_execute needs in one mode (SUBQUAD_MODE_...), whatever batch and
/// lengths; mode 0 asks for what suffices in every mode of the plan.
///
/// Returns NULL_POINTER, INVALID_ARGUMENT (no such mode), UNSUPPORTED (the plan was not made for it),
/// INTERNAL. Thread-safe. Allocates: no. Since 0.1.0.
///
/// # Safety
/// `plan` is NULL or a live plan; `bytes` and `err` are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_plan_workspace_size(
    plan: *const subquad_plan,
    mode: u32,
    bytes: *mut usize,
    err: *mut subquad_error,
) -> subquad_status {
    let body = || {
        // SAFETY: null or live, says the caller.
        let plan = &unsafe { boundary::borrow(plan, "plan") }?.plan;
        let bytes = boundary::out(bytes, "bytes")?;
        if mode != 0 {
            let mode = tensor::mode(mode)?;
            if !plan.modes().contains(mode) {
                let what = format!("mode {mode} in this plan");
                return Err(Error::Unsupported { what, why: "it is not among desc.modes".into() }.into());
            }
        }
        // SAFETY: checked, and writable says the caller.
        unsafe { bytes.write(plan.workspace_size()) };
        Ok(())
    };
    // SAFETY: `err` is null or writable.
    unsafe { boundary::status(err, body) }
}

/// Bytes of one sequence's state in the layout of subquad_plan_state_component; 0 for mechanisms without.
///
/// Returns NULL_POINTER, INTERNAL. Thread-safe. Allocates: no. Since 0.1.0.
///
/// # Safety
/// `plan` is NULL or a live plan; `bytes` and `err` are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_plan_state_size(
    plan: *const subquad_plan,
    bytes: *mut usize,
    err: *mut subquad_error,
) -> subquad_status {
    let body = || {
        // SAFETY: null or live, says the caller.
        let plan = unsafe { boundary::borrow(plan, "plan") }?;
        // SAFETY: checked, and writable says the caller.
        unsafe { boundary::out(bytes, "bytes")?.write(plan.plan.state_layout().size_bytes) };
        Ok(())
    };
    // SAFETY: `err` is null or writable.
    unsafe { boundary::status(err, body) }
}

/// Runs a plan on tensors of any batch and length.
///
/// `in` and `out` bind tensors to the roles of the mechanism, in any order; subquad_mechanism_role lists them
/// with their shapes. `mode` is one of those of the description. A state is carried in place by giving the
/// same pointer, shape and strides as STATE_IN in `in` and as STATE_OUT in `out`; otherwise no output may
/// share memory with another tensor. `workspace` has at least subquad_plan_workspace_size bytes; 64-byte
/// alignment is best, none is required; its contents mean nothing before and after, and it belongs to this
/// call alone. Lengths of 0 are fine.
///
/// Snapshots: a call of mode causal also stores the state as it is after some of its tokens, so that an engine that
/// speculates can go back to one of them, or keep prefixes. SNAPSHOT_AT in `in`, i32 [n_sequences, N], says after how
/// many tokens of each sequence (0 to its length, ascending, -1 for none); for each component of the state `out` binds
/// role_out | SUBQUAD_ROLE_SNAPSHOT, of the component's type, [n_sequences, N, shape of the component]. n_sequences is
/// the batch, or the sequences of CU_SEQLENS, whatever STATE_INDEX says; nothing is written for -1 and for skipped
/// sequences. A shift may be left out, as in STATE_OUT. A snapshot is what a call of that many tokens alone would carry
/// out. A sequence is cut where one is taken: at multiples of the plan's chunk that changes no bit, elsewhere it rounds
/// differently.
///
/// Caches: in modes step and causal, softmax attention (mechanisms with KEY_LEN, but dnas) finds key s of sequence b, 0
/// the oldest, in row s % page of page PAGE_TABLE[b, s / page], i32 [B, n], where `k` and `v` are pools of pages, [P, Hk,
/// page, D] and [P, Hk, page, E]; or in row (KEY_START[b] + s) % S, i32 [B], where they are rings, [B, Hk, S, D] and [B,
/// Hk, S, E]. A sequence has KEY_LEN[b] keys, of which the queries are the last; pages need KEY_LEN, rings are full
/// without. Sequences may share pages. Entries of PAGE_TABLE that no key needs are not looked at. BIAS and G go by s; with
/// pages their S is n * page. The result has the bits that it has with the keys one after the other. Not with CU_SEQLENS.
///
/// Queries in pieces: srformer with parameter gen_len takes queries of a sequence from number QUERY_START[b] on, i32 [B],
/// in modes step and cross. STATE_OUT and MEMORY_OUT of a call are STATE_IN and MEMORY_IN of the one that follows; so are
/// TOTAL_OUT and Z_OUT, which spare the work on all keys, where they are bound. Nothing of a state is read where QUERY_START
/// is 0. The result has the bits of the call with all queries.
///
/// After a failure the plan is usable as before; all but INTERNAL leave outputs and state untouched. Values
/// are not checked: NaN stays in the rows that read it.
///
/// Returns NULL_POINTER (names the argument or the role), INVALID_ARGUMENT (mode, more than
/// SUBQUAD_MAX_TENSORS tensors, values of an index tensor), UNSUPPORTED (the plan was not made for the mode),
/// WRONG_ROLE, MISSING_ROLE, WRONG_DTYPE, WRONG_SHAPE, WRONG_STRIDE, MISALIGNED, OVERLAP, WORKSPACE,
/// WRONG_STRUCT (a reserved field is not zero), INTERNAL. Thread-safe with other workspace, outputs and state.
/// Allocates: no, but for the text of a failure. Since 0.1.0.
///
/// # Safety
/// `plan` is NULL or a live plan; `in` and `out` are NULL or have that many elements; every element of the
/// tensors they describe is readable or writable and, until the call returns, used by nobody else;
/// `workspace` is NULL or writable for that size, and no tensor lies in it; `err` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_plan_execute(
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
    let run = |plan: &Plan, args: &Args<'_>, workspace: &mut [u8]| {
        Ok(plan.execute(tensor::mode(mode)?, args, workspace)?)
    };
    // SAFETY: the caller's contract.
    unsafe { call(plan, (r#in, n_in), (out, n_out), (workspace, workspace_size), err, run) }
}

/// A call of a plan on tensors, inside the boundary.
///
/// # Safety
/// As for subquad_plan_execute.
pub(crate) unsafe fn call(
    plan: *const subquad_plan,
    (inputs, n_in): (*const subquad_in, usize),
    (outputs, n_out): (*const subquad_out, usize),
    (workspace, size): (*mut c_void, usize),
    err: *mut subquad_error,
    run: impl FnOnce(&Plan, &Args<'_>, &mut [u8]) -> Result<()>,
) -> subquad_status {
    let body = || {
        // SAFETY: null or live, says the caller.
        let plan = &unsafe { boundary::borrow(plan, "plan") }?.plan;
        // SAFETY: as the caller says of arrays and tensors.
        let args = unsafe { tensor::convert(inputs, n_in, outputs, n_out) }?;
        // SAFETY: writable for that size, says the caller.
        let workspace = unsafe { memory(workspace, size) }?;
        run(plan, &args, workspace)
    };
    // SAFETY: `err` is null or writable.
    unsafe { boundary::status(err, body) }
}

/// The workspace.
///
/// # Safety
/// `pointer` is null or writable for `size` bytes, used by nobody else for `'a`.
unsafe fn memory<'a>(pointer: *mut c_void, size: usize) -> Result<&'a mut [u8]> {
    if pointer.is_null() {
        return Err(Fault::Null(Place::argument("workspace")));
    }
    // SAFETY: as the caller says; no memory is larger than `isize::MAX`. The bytes may never have been written: any
    // value of a byte is one, and the engines write before they read.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer.cast(), size.min(isize::MAX as usize)) })
}
