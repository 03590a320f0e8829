//! `subquad_plan_execute` and `subquad_plan_backward` allocate nothing when they succeed, and neither do the
//! calls that ask a plan.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use subquad_capi::*;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// Counts the allocations of each thread.
struct Counting;

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller says.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(body: impl FnOnce()) -> usize {
    let before = COUNT.get();
    body();
    COUNT.get() - before
}

const H: usize = 3;
const T: usize = 50;
const D: usize = 32;

fn tensor(role: u32, data: *const f32, shape: &[usize]) -> subquad_in {
    let (mut extents, mut strides, mut step) = ([0i64; 5], [0i64; 5], 1);
    for (axis, &extent) in shape.iter().enumerate().rev() {
        (extents[axis], strides[axis]) = (extent as i64, step);
        step *= extent as i64;
    }
    subquad_in {
        role,
        dtype: SUBQUAD_DTYPE_F32,
        rank: shape.len() as u32,
        reserved0: 0,
        data: data.cast(),
        shape: extents,
        stride: strides,
        reserved: [0; 2],
    }
}

fn target(role: u32, data: *mut f32, shape: &[usize]) -> subquad_out {
    let subquad_in { role, dtype, rank, reserved0, shape, stride, reserved, .. } =
        tensor(role, null(), shape);
    subquad_out { role, dtype, rank, reserved0, data: data.cast(), shape, stride, reserved }
}

#[test]
fn calls_allocate_nothing() {
    let mut err = subquad_error::default();
    // SAFETY: every pointer is to memory of this function, as large as its struct says.
    unsafe {
        let (mut context, mut plan) = (null_mut(), null_mut());
        assert_eq!(subquad_context_create(null(), &mut context, &mut err), SUBQUAD_OK);
        let mut desc: subquad_desc = std::mem::zeroed();
        subquad_desc_init(&mut desc);
        desc.mechanism = c"gated_delta_rule".as_ptr();
        desc.modes = SUBQUAD_MODE_CAUSAL | SUBQUAD_MODE_STEP;
        (desc.heads_q, desc.heads_k, desc.heads_v) = (H as i64, H as i64, H as i64);
        (desc.dim_qk, desc.dim_v) = (D as i64, D as i64);
        assert_eq!(subquad_plan_create(context, &desc, &mut plan, &mut err), SUBQUAD_OK, "{}", err.text());

        let mut size = 0;
        assert_eq!(subquad_plan_workspace_size(plan, 0, &mut size, &mut err), SUBQUAD_OK);
        let mut workspace = vec![0u8; size];
        let (rows, gates) = (vec![0.1f32; H * T * D], vec![-0.1f32; H * T]);
        let mut dk = vec![0f32; H * T * D];
        let (mut out, mut state) = (vec![0f32; H * T * D], vec![0f32; H * D * D]);
        let mut call = |mode: u32, t: usize| {
            let r#in = [
                tensor(SUBQUAD_ROLE_Q, rows.as_ptr(), &[1, H, t, D]),
                tensor(SUBQUAD_ROLE_K, rows.as_ptr(), &[1, H, t, D]),
                tensor(SUBQUAD_ROLE_V, rows.as_ptr(), &[1, H, t, D]),
                tensor(SUBQUAD_ROLE_G, gates.as_ptr(), &[1, H, t]),
                tensor(SUBQUAD_ROLE_BETA, gates.as_ptr(), &[1, H, t]),
                tensor(SUBQUAD_ROLE_STATE_IN, state.as_ptr(), &[1, H, D, D]),
            ];
            let out = [
                target(SUBQUAD_ROLE_OUT, out.as_mut_ptr(), &[1, H, t, D]),
                target(SUBQUAD_ROLE_STATE_OUT, state.as_mut_ptr(), &[1, H, D, D]),
            ];
            let memory = workspace.as_mut_ptr().cast::<c_void>();
            let mut status = -99;
            let allocations = count(|| {
                status = subquad_plan_execute(
                    plan,
                    mode,
                    r#in.as_ptr(),
                    6,
                    out.as_ptr(),
                    2,
                    memory,
                    size,
                    &mut err,
                );
            });
            (status, allocations)
        };
        for _ in 0..3 {
            assert_eq!(call(SUBQUAD_MODE_CAUSAL, T), (SUBQUAD_OK, 0));
            assert_eq!(call(SUBQUAD_MODE_STEP, 1), (SUBQUAD_OK, 0));
        }
        // A fault found by the checks costs none either: its text goes straight into the caller's buffer.
        assert_eq!(call(SUBQUAD_MODE_STEP, 2), (SUBQUAD_ERROR_WRONG_SHAPE, 0));
        assert_eq!(err.text(), "q.shape[2] is 2, the tokens of a step is 1");

        let mut bytes = 0;
        let size = subquad_plan_backward_workspace_size(plan, 1, T as i64, T as i64, &mut bytes, &mut err);
        assert_eq!(size, SUBQUAD_OK, "{}", err.text());
        let mut workspace = vec![0u8; bytes];
        let mut backward = |n_in: usize| {
            let r#in = [
                tensor(SUBQUAD_ROLE_Q, rows.as_ptr(), &[1, H, T, D]),
                tensor(SUBQUAD_ROLE_K, rows.as_ptr(), &[1, H, T, D]),
                tensor(SUBQUAD_ROLE_V, rows.as_ptr(), &[1, H, T, D]),
                tensor(SUBQUAD_ROLE_G, gates.as_ptr(), &[1, H, T]),
                tensor(SUBQUAD_ROLE_BETA, gates.as_ptr(), &[1, H, T]),
                tensor(SUBQUAD_ROLE_OUT | SUBQUAD_ROLE_GRAD, rows.as_ptr(), &[1, H, T, D]),
            ];
            let out = [target(SUBQUAD_ROLE_K | SUBQUAD_ROLE_GRAD, dk.as_mut_ptr(), &[1, H, T, D])];
            let (memory, mut status) = (workspace.as_mut_ptr().cast::<c_void>(), -99);
            let allocations = count(|| {
                status = subquad_plan_backward(
                    plan,
                    SUBQUAD_MODE_CAUSAL,
                    r#in.as_ptr(),
                    n_in,
                    out.as_ptr(),
                    1,
                    memory,
                    bytes,
                    &mut err,
                );
            });
            (status, allocations)
        };
        assert_eq!(backward(6), (SUBQUAD_OK, 0));
        assert_eq!(backward(5), (SUBQUAD_ERROR_MISSING_ROLE, 0));

        let mut info: subquad_plan_info = std::mem::zeroed();
        info.struct_size = size_of_val(&info);
        assert_eq!(count(|| assert_eq!(subquad_plan_get_info(plan, &mut info, &mut err), SUBQUAD_OK)), 0);
        subquad_plan_destroy(plan);
        subquad_context_destroy(context);
    }
}
