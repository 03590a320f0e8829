//! The C ABI, called as a C program would, behind types that free what they hold.

use std::ffi::{CStr, CString, c_void};
use std::fmt;
use std::ptr;
use subquad::{DType, Isa};
use subquad_capi as c;

/// A call that failed.
pub struct Fault {
    /// SUBQUAD_ERROR_….
    pub status: i32,
    text: String,
}

impl Fault {
    /// What is wrong, without the status.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it says that something known is not in this version.
    pub fn is_unsupported(&self) -> bool {
        [c::SUBQUAD_ERROR_UNSUPPORTED, c::SUBQUAD_ERROR_UNKNOWN_MECHANISM].contains(&self.status)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: the function returns a static string for any number.
        let name = unsafe { CStr::from_ptr(c::subquad_status_string(self.status)) };
        write!(f, "{} ({})", self.text, name.to_string_lossy())
    }
}

fn check(status: i32, error: &c::subquad_error) -> Result<(), Fault> {
    if status == c::SUBQUAD_OK {
        return Ok(());
    }
    Err(Fault { status, text: error.text() })
}

/// A context, and the pool that it runs on.
pub struct Engine {
    context: *mut c::subquad_context,
    pool: *mut c::subquad_threadpool,
}

impl Engine {
    /// A context with this ceiling and number of workers.
    pub fn new(isa: Option<Isa>, threads: u32) -> Result<Engine, Fault> {
        let mut error = c::subquad_error::default();
        let mut engine = Engine { context: ptr::null_mut(), pool: ptr::null_mut() };
        let mut options = std::mem::MaybeUninit::uninit();
        // SAFETY: `init` fills in the struct that it is given.
        let mut options = unsafe {
            c::subquad_context_options_init(options.as_mut_ptr());
            options.assume_init()
        };
        options.max_isa = isa.map_or(0, |isa| isa as u32);
        if threads > 1 {
            // SAFETY: places to write to; the pool is live when its runner is asked for.
            unsafe {
                check(c::subquad_threadpool_create(threads, &mut engine.pool, &mut error), &error)?;
                check(
                    c::subquad_threadpool_parallel(engine.pool, &mut options.parallel, &mut error),
                    &error,
                )?;
            }
        }
        // SAFETY: options that were initialised, and places to write to.
        let status = unsafe { c::subquad_context_create(&options, &mut engine.context, &mut error) };
        check(status, &error)?;
        Ok(engine)
    }

    /// The instruction set that its plans use.
    pub fn isa(&self) -> Isa {
        // SAFETY: the context is live.
        let number = unsafe { c::subquad_context_isa(self.context) };
        Isa::ALL.into_iter().find(|&isa| isa as u32 == number).unwrap_or(Isa::Scalar)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // SAFETY: both are null or ours, and freed once.
        unsafe {
            c::subquad_context_destroy(self.context);
            c::subquad_threadpool_destroy(self.pool);
        }
    }
}

/// Value of a parameter.
pub enum Value {
    /// SUBQUAD_PARAM_INT.
    Int(i64),
    /// SUBQUAD_PARAM_REAL.
    Real(f64),
    /// SUBQUAD_PARAM_WORD.
    Word(CString),
    /// SUBQUAD_PARAM_INTS.
    Ints(Vec<i64>),
    /// SUBQUAD_PARAM_REALS.
    Reals(Vec<f64>),
}

/// A parameter by name.
pub struct Param {
    /// The name.
    pub name: CString,
    /// The value.
    pub value: Value,
}

impl Param {
    /// The struct of the interface; it points into this one.
    fn raw(&self) -> c::subquad_param {
        let mut raw = c::subquad_param {
            name: self.name.as_ptr(),
            kind: 0,
            reserved: 0,
            i64: 0,
            f64: 0.0,
            word: ptr::null(),
            i64s: ptr::null(),
            f64s: ptr::null(),
            n: 0,
        };
        match &self.value {
            Value::Int(x) => (raw.kind, raw.i64) = (c::SUBQUAD_PARAM_INT, *x),
            Value::Real(x) => (raw.kind, raw.f64) = (c::SUBQUAD_PARAM_REAL, *x),
            Value::Word(x) => (raw.kind, raw.word) = (c::SUBQUAD_PARAM_WORD, x.as_ptr()),
            Value::Ints(x) => (raw.kind, raw.i64s, raw.n) = (c::SUBQUAD_PARAM_INTS, x.as_ptr(), x.len()),
            Value::Reals(x) => (raw.kind, raw.f64s, raw.n) = (c::SUBQUAD_PARAM_REALS, x.as_ptr(), x.len()),
        }
        raw
    }
}

/// What to plan.
pub struct Problem {
    /// Name of the mechanism.
    pub mechanism: CString,
    /// Number of the mode.
    pub mode: u32,
    /// Heads of q, k and v.
    pub heads: [i64; 3],
    /// Dimensions of q and k, and of v.
    pub dims: [i64; 2],
    /// Element type of q, k, v and the output.
    pub dtype: DType,
    /// Element type of the state.
    pub dtype_state: DType,
    /// Bits of SUBQUAD_FLAG_….
    pub flags: u32,
    /// Parameters that are not left to their default.
    pub params: Vec<Param>,
}

/// One tensor of the state.
pub struct Component {
    /// Name of the role that reads it.
    pub role_in: String,
    /// Name of the role that writes it.
    pub role_out: String,
    /// Element type.
    pub dtype: DType,
    /// Extents without the batch.
    pub shape: Vec<i64>,
    /// Value before the first token.
    pub initial: f32,
}

/// A plan.
pub struct Plan {
    plan: *mut c::subquad_plan,
    workspace: Vec<u8>,
}

impl Plan {
    /// Plans a problem.
    pub fn new(engine: &Engine, problem: &Problem) -> Result<Plan, Fault> {
        let mut error = c::subquad_error::default();
        let params: Vec<_> = problem.params.iter().map(Param::raw).collect();
        let mut desc = std::mem::MaybeUninit::uninit();
        // SAFETY: `init` fills in the struct that it is given.
        let mut desc = unsafe {
            c::subquad_desc_init(desc.as_mut_ptr());
            desc.assume_init()
        };
        desc.mechanism = problem.mechanism.as_ptr();
        (desc.modes, desc.flags) = (problem.mode, problem.flags);
        [desc.heads_q, desc.heads_k, desc.heads_v] = problem.heads;
        [desc.dim_qk, desc.dim_v] = problem.dims;
        (desc.dtype_qkv, desc.dtype_out) = (problem.dtype as u32, problem.dtype as u32);
        desc.dtype_state = problem.dtype_state as u32;
        (desc.params, desc.n_params) = (params.as_ptr(), params.len());
        let mut plan = Plan { plan: ptr::null_mut(), workspace: Vec::new() };
        // SAFETY: the context is live; the description's pointers go into `problem` and `params`.
        let status = unsafe { c::subquad_plan_create(engine.context, &desc, &mut plan.plan, &mut error) };
        check(status, &error)?;
        let mut bytes = 0;
        // SAFETY: the plan is live.
        let status =
            unsafe { c::subquad_plan_workspace_size(plan.plan, problem.mode, &mut bytes, &mut error) };
        check(status, &error)?;
        plan.workspace = vec![0; bytes];
        Ok(plan)
    }

    /// The tensors that make up the state.
    pub fn components(&self) -> Result<Vec<Component>, Fault> {
        (0..self.info()?.n_state).map(|index| self.component(index)).collect()
    }

    /// The engine and its tile.
    pub fn kernel(&self) -> Result<String, Fault> {
        let kernel = self.info()?.kernel;
        // SAFETY: the library terminates it.
        Ok(unsafe { CStr::from_ptr(kernel.as_ptr()) }.to_string_lossy().into_owned())
    }

    fn info(&self) -> Result<c::subquad_plan_info, Fault> {
        let mut error = c::subquad_error::default();
        // SAFETY: a struct of numbers; all zero is one of its values.
        let mut info: c::subquad_plan_info = unsafe { std::mem::zeroed() };
        info.struct_size = size_of::<c::subquad_plan_info>();
        // SAFETY: the plan is live, and the struct says its size.
        check(unsafe { c::subquad_plan_info(self.plan, &mut info, &mut error) }, &error)?;
        Ok(info)
    }

    fn component(&self, index: u32) -> Result<Component, Fault> {
        let mut error = c::subquad_error::default();
        // SAFETY: a struct of numbers; all zero is one of its values.
        let mut part: c::subquad_state_component = unsafe { std::mem::zeroed() };
        part.struct_size = size_of::<c::subquad_state_component>();
        // SAFETY: the plan is live, and the struct says its size.
        let status = unsafe { c::subquad_plan_state_component(self.plan, index, &mut part, &mut error) };
        check(status, &error)?;
        Ok(Component {
            role_in: role_name(part.role_in),
            role_out: role_name(part.role_out),
            dtype: DType::ALL.into_iter().find(|&d| d as u32 == part.dtype).unwrap_or(DType::F32),
            shape: part.shape[..part.rank as usize].to_vec(),
            initial: part.initial,
        })
    }

    /// One call.
    ///
    /// # Safety
    /// Every tensor describes memory that is live, of its type, and, for `outputs`, not borrowed.
    pub unsafe fn execute(
        &mut self,
        mode: u32,
        inputs: &[c::subquad_in],
        outputs: &[c::subquad_out],
    ) -> Result<(), Fault> {
        let mut error = c::subquad_error::default();
        let memory: *mut c_void = self.workspace.as_mut_ptr().cast();
        // SAFETY: the plan and the workspace are ours; the caller vouches for the tensors.
        let status = unsafe {
            c::subquad_plan_execute(
                self.plan,
                mode,
                inputs.as_ptr(),
                inputs.len(),
                outputs.as_ptr(),
                outputs.len(),
                memory,
                self.workspace.len(),
                &mut error,
            )
        };
        check(status, &error)
    }

    /// One backward call on so many sequences with so many queries and keys in each.
    ///
    /// # Safety
    /// As for [`Plan::execute`].
    pub unsafe fn backward(
        &mut self,
        mode: u32,
        [sequences, n_q, n_k]: [i64; 3],
        inputs: &[c::subquad_in],
        outputs: &[c::subquad_out],
    ) -> Result<(), Fault> {
        let mut error = c::subquad_error::default();
        let mut bytes = 0;
        // SAFETY: the plan is live, the rest are places to write to.
        let status = unsafe {
            c::subquad_plan_backward_workspace_size(self.plan, sequences, n_q, n_k, &mut bytes, &mut error)
        };
        check(status, &error)?;
        let mut workspace = vec![0u8; bytes];
        // SAFETY: the plan and the workspace are ours; the caller vouches for the tensors.
        let status = unsafe {
            c::subquad_plan_backward(
                self.plan,
                mode,
                inputs.as_ptr(),
                inputs.len(),
                outputs.as_ptr(),
                outputs.len(),
                workspace.as_mut_ptr().cast(),
                workspace.len(),
                &mut error,
            )
        };
        check(status, &error)
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: null or ours, and freed once.
        unsafe { c::subquad_plan_destroy(self.plan) };
    }
}

/// Number of the role of that name; 0 if there is none.
pub fn role_id(name: &str) -> u32 {
    let Ok(name) = CString::new(name) else { return 0 };
    // SAFETY: a terminated string.
    unsafe { c::subquad_role_id(name.as_ptr()) }
}

fn role_name(role: u32) -> String {
    let name = c::subquad_role_name(role);
    if name.is_null() {
        return format!("role {role}");
    }
    // SAFETY: not null, so a static string.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}
