//! In one call

use crate::boundary;
use crate::desc::{self, subquad_desc};
use crate::fault::Result;
use crate::status::{subquad_error, subquad_status};
use crate::tensor::{self, subquad_in, subquad_out};
use std::alloc::{Layout, alloc_zeroed};
use subquad::{Context, ContextOptions, Error, Plan};

/// Plans and executes once, on the calling thread with the machine's best instruction set; for tests and
/// notebooks. Where a plan is used more than once, make it with subquad_plan_create.
///
/// Takes the description of subquad_plan_create, of which `modes` is ignored, and the tensors of
/// subquad_plan_execute.
///
/// Returns what these two return, and OUT_OF_MEMORY if there is no room for the workspace. Thread-safe with
/// other outputs and state. Allocates: yes. Since 0.1.0.
///
/// # Safety
/// As subquad_plan_create says of `desc` and subquad_plan_execute of the tensors; `err` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_run(
    desc: *const subquad_desc,
    mode: u32,
    r#in: *const subquad_in,
    n_in: usize,
    out: *const subquad_out,
    n_out: usize,
    err: *mut subquad_error,
) -> subquad_status {
    let body = || {
        let mode = tensor::mode(mode)?;
        // SAFETY: null or readable with all it points to, says the caller.
        let desc = unsafe { desc::convert(desc) }?.modes(mode);
        // SAFETY: as the caller says of arrays and tensors.
        let args = unsafe { tensor::convert(r#in, n_in, out, n_out) }?;
        let plan = Plan::new(&Context::new(ContextOptions::new())?, &desc)?;
        let mut workspace = zeroed(plan.workspace_size())?;
        Ok(plan.execute(mode, &args, &mut workspace)?)
    };
    // SAFETY: `err` is null or writable.
    unsafe { boundary::status(err, body) }
}

/// Memory that costs nothing until it is used, or a status instead of an abort.
fn zeroed(bytes: usize) -> Result<Box<[u8]>> {
    let layout = Layout::array::<u8>(bytes).map_err(|_| Error::OutOfMemory { bytes })?;
    if bytes == 0 {
        return Ok(Box::default());
    }
    // SAFETY: the layout has a size.
    let memory = unsafe { alloc_zeroed(layout) };
    if memory.is_null() {
        return Err(Error::OutOfMemory { bytes }.into());
    }
    // SAFETY: allocated with the layout that the box frees it with, and every byte is a value.
    Ok(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(memory, bytes)) })
}
