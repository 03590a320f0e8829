//! Contexts
//!
//! A context holds what a caller chooses once: the instruction set and who runs tasks. It is immutable and
//! can be used from any number of threads.

use crate::boundary;
use crate::fault::{Fault, Place, Result};
use crate::sized::{self, Versioned};
use crate::status::{subquad_error, subquad_status};
use crate::threads::subquad_parallel;
use subquad::{Context, ContextOptions, Isa};

/// Choices of a context. Filled by subquad_context_options_init, then by the caller.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct subquad_context_options {
    /// sizeof(subquad_context_options).
    pub struct_size: usize,
    /// Nothing stronger than this instruction set (SUBQUAD_ISA_...); 0: the machine's best.
    pub max_isa: u32,
    /// Zero.
    pub reserved: u32,
    /// Who runs tasks; all zero: the calling thread.
    pub parallel: subquad_parallel,
}

// SAFETY: `repr(C)`, the size first, then numbers and pointers.
unsafe impl Versioned for subquad_context_options {
    const NAME: &'static str = "subquad_context_options";
    fn defaults() -> Self {
        subquad_context_options {
            struct_size: size_of::<Self>(),
            max_isa: 0,
            reserved: 0,
            parallel: subquad_parallel::SERIAL,
        }
    }
}

/// What a caller chose once; made by subquad_context_create.
pub struct subquad_context {
    pub(crate) context: Context,
}

/// Sets the defaults: the machine's best instruction set, everything on the calling thread.
///
/// NULL is ignored. Thread-safe. Allocates: no. Since 0.1.0.
///
/// # Safety
/// `options` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_context_options_init(options: *mut subquad_context_options) {
    if !options.is_null() {
        // SAFETY: writable, says the caller.
        unsafe { options.write(subquad_context_options::defaults()) };
    }
}

/// Makes a context.
///
/// `options` may be NULL for the defaults, and is not needed afterwards; what its `parallel` points to must
/// outlive the context and its plans (a built-in pool need not). Reads the environment variable
/// SUBQUAD_MAX_ISA (scalar, neon, avx2, avx512), which can lower the instruction set further. The caller
/// destroys `*out` with subquad_context_destroy.
///
/// Returns NULL_POINTER (`out`, a runner without `run`), INVALID_ARGUMENT (unknown instruction set or word
/// in SUBQUAD_MAX_ISA, max_workers), UNSUPPORTED (the machine lacks the instruction set), WRONG_STRUCT,
/// INTERNAL. Thread-safe. Allocates: yes. Since 0.1.0.
///
/// # Safety
/// `options` is NULL or readable for its struct_size; its runner keeps its promises; `out` and `err` are
/// NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_context_create(
    options: *const subquad_context_options,
    out: *mut *mut subquad_context,
    err: *mut subquad_error,
) -> subquad_status {
    let body = || {
        let out = boundary::out(out, "out")?;
        let choices = if options.is_null() {
            subquad_context_options::defaults()
        } else {
            // SAFETY: readable for its size, says the caller.
            unsafe { sized::read(options, "options") }?
        };
        // SAFETY: the runner keeps its promises, says the caller.
        let context = Context::new(unsafe { convert(&choices) }?)?;
        // SAFETY: checked, and writable says the caller.
        unsafe { out.write(Box::into_raw(Box::new(subquad_context { context }))) };
        Ok(())
    };
    // SAFETY: `err` is null or writable.
    unsafe { boundary::status(err, body) }
}

/// # Safety
/// As [`subquad_parallel::runner`].
unsafe fn convert(choices: &subquad_context_options) -> Result<ContextOptions> {
    let name = "options";
    if choices.reserved != 0 {
        return Err(Fault::reserved(Place::field(name, "reserved")));
    }
    let mut options = ContextOptions::new();
    if choices.max_isa != 0 {
        let isa = Isa::ALL.into_iter().find(|&isa| isa as u32 == choices.max_isa).ok_or(Fault::invalid(
            Place::field(name, "max_isa"),
            choices.max_isa,
            "0 or one of SUBQUAD_ISA_...",
        ))?;
        options = options.max_isa(isa);
    }
    // SAFETY: as the caller says.
    if let Some(runner) = unsafe { choices.parallel.runner() }? {
        options = options.runner(runner);
    }
    Ok(options)
}

/// Frees a context; NULL is fine. Its plans stay usable.
///
/// Thread-safe, once per context. Allocates: no. Since 0.1.0.
///
/// # Safety
/// `context` is NULL or came from subquad_context_create and was not destroyed before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_context_destroy(context: *mut subquad_context) {
    boundary::value((), || {
        if !context.is_null() {
            // SAFETY: `create` leaked this box, and the caller gives it back once.
            drop(unsafe { Box::from_raw(context) });
        }
    });
}

/// The instruction set (SUBQUAD_ISA_...) that plans of this context use; 0 for NULL.
///
/// Thread-safe. Allocates: no. Since 0.1.0.
///
/// # Safety
/// `context` is NULL or a live context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_context_isa(context: *const subquad_context) -> u32 {
    // SAFETY: null or a live context.
    boundary::value(0, || unsafe { context.as_ref() }.map_or(0, |context| context.context.isa() as u32))
}
