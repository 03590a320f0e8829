//! In one call

use crate::boundary;
use crate::desc::{self, subquad_desc};
use crate::status::{subquad_error, subquad_status};
use crate::tensor::{self, subquad_in, subquad_out};
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
        let bytes = plan.workspace_size();
        let mut workspace = Vec::new();
        workspace.try_reserve_exact(bytes).map_err(|_| Error::OutOfMemory { bytes })?;
        workspace.resize(bytes, 0u8);
        Ok(plan.execute(mode, &args, &mut workspace)?)
    };
    // SAFETY: `err` is null or writable.
    unsafe { boundary::status(err, body) }
}
