//! Threads
//!
//! Results are the same bits for any runner and any number of workers. A context without a runner computes
//! on the calling thread.

use crate::boundary;
use crate::fault::{Fault, Place, Result};

use crate::status::{subquad_error, subquad_status};
use std::ffi::c_void;
use std::sync::Arc;
use subquad::{Runner, ThreadPool};

/// One task of a call: a runner calls it with the `arg` it was given, the task's number, and the number of
/// the worker that it runs on. It never throws or longjmps.
pub type subquad_task = Option<unsafe extern "C" fn(arg: *mut c_void, task: u32, worker: u32)>;

/// Who runs the tasks of a call. All zero: the calling thread, one task after the other.
///
/// The struct is part of subquad_context_options and will not grow.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct subquad_parallel {
    /// sizeof(subquad_parallel), or 0 if all else is zero.
    pub struct_size: usize,
    /// One more than the largest worker number: 1 to 1024. The workspace grows with it.
    pub max_workers: u32,
    /// Zero.
    pub reserved: u32,
    /// Handed to `run` as it is.
    pub user: *mut c_void,
    /// Must call `task(arg, i, worker)` exactly once for each i from 0 to n_tasks - 1, in any order and on
    /// any threads, with worker < max_workers and never one worker number on two threads at a time, and
    /// return when all these calls have returned. May be called from several threads at a time if plans of
    /// the context are executed from several threads. Must not throw or longjmp.
    pub run:
        Option<unsafe extern "C" fn(user: *mut c_void, n_tasks: u32, task: subquad_task, arg: *mut c_void)>,
}

impl subquad_parallel {
    pub(crate) const SERIAL: subquad_parallel = subquad_parallel {
        struct_size: 0,
        max_workers: 0,
        reserved: 0,
        user: std::ptr::null_mut(),
        run: None,
    };

    /// The runner it stands for; `None` is serial.
    ///
    /// # Safety
    /// If `run` is that of a built-in pool, `user` is that pool, alive. Otherwise `run` and `user` keep the
    /// promises of the field's text for as long as the context and its plans live.
    pub(crate) unsafe fn runner(&self) -> Result<Option<Arc<dyn Runner>>> {
        let name = "options.parallel";
        let known = size_of::<subquad_parallel>();
        let Some(run) = self.run else {
            let zero = self.max_workers == 0 && self.reserved == 0 && self.user.is_null();
            if zero && (self.struct_size == 0 || self.struct_size == known) {
                return Ok(None);
            }
            return Err(Fault::Null(Place::field(name, "run")));
        };
        if self.struct_size != known {
            let place = Place::field(name, "struct_size");
            return Err(Fault::StructSize {
                place,
                given: self.struct_size,
                known,
                name: "subquad_parallel",
            });
        }
        if self.reserved != 0 {
            return Err(Fault::reserved(Place::field(name, "reserved")));
        }
        if std::ptr::fn_addr_eq(run, POOL_RUN) {
            // SAFETY: the pool's own `run` comes with the pool, says the caller.
            let pool = unsafe { boundary::borrow(self.user.cast::<subquad_threadpool>(), name) }?;
            return Ok(Some(Arc::clone(&pool.pool) as Arc<dyn Runner>));
        }
        if !(1..=1024).contains(&self.max_workers) {
            return Err(Fault::invalid(Place::field(name, "max_workers"), self.max_workers, "1 to 1024"));
        }
        Ok(Some(Arc::new(Caller { max_workers: self.max_workers as usize, user: self.user, run })))
    }
}

/// The address that says "built-in pool". Read in both places, so that it is one address.
static POOL_RUN: Run = pool_run;

type Run = unsafe extern "C" fn(user: *mut c_void, n_tasks: u32, task: subquad_task, arg: *mut c_void);

/// The caller's own runner.
struct Caller {
    max_workers: usize,
    user: *mut c_void,
    run: Run,
}

// SAFETY: the field's text asks for a `run` that can be called from any thread.
unsafe impl Send for Caller {}
// SAFETY: as above.
unsafe impl Sync for Caller {}

/// What `arg` points to while the caller's `run` is under way.
struct Job<'a> {
    task: &'a (dyn Fn(usize, usize) + Sync),
    first: usize,
}

unsafe extern "C" fn run_task(arg: *mut c_void, task: u32, worker: u32) {
    // SAFETY: `arg` is the `Job` of the `run` that is under way; the runner passes it on unchanged.
    let job = unsafe { &*arg.cast::<Job<'_>>() };
    // Does not panic: the library guards its tasks.
    (job.task)(job.first + task as usize, worker as usize);
}

impl Runner for Caller {
    fn max_workers(&self) -> usize {
        self.max_workers
    }

    fn run(&self, n_tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        for first in (0..n_tasks).step_by(u32::MAX as usize) {
            let mut job = Job { task, first };
            let n = (n_tasks - first).min(u32::MAX as usize) as u32;
            // SAFETY: `run` and `user` are the caller's pair; `job` lives until `run` returns, and by then
            // every call of the task has returned.
            unsafe { (self.run)(self.user, n, Some(run_task), (&raw mut job).cast()) };
        }
    }
}

/// A pool of threads that sleep between calls.
pub struct subquad_threadpool {
    pool: Arc<ThreadPool>,
}

/// Foreign pointer that the pool's threads may all use.
#[derive(Clone, Copy)]
struct Shared(*mut c_void);
// SAFETY: tasks of one call may run at the same time, so their argument is made to be shared.
unsafe impl Sync for Shared {}

impl Shared {
    fn get(&self) -> *mut c_void {
        self.0
    }
}

/// Runs tasks on a pool, for whoever calls the struct of [`subquad_threadpool_parallel`] himself.
unsafe extern "C" fn pool_run(user: *mut c_void, n_tasks: u32, task: subquad_task, arg: *mut c_void) {
    boundary::value((), || {
        // SAFETY: `user` is the pool that filled in the struct.
        let pool = unsafe { user.cast::<subquad_threadpool>().as_ref() };
        let (Some(pool), Some(task)) = (pool, task) else { return };
        let arg = Shared(arg);
        pool.pool.run(n_tasks as usize, &|index, worker| {
            // SAFETY: the task and its argument belong together, says whoever called us.
            unsafe { task(arg.get(), index as u32, worker as u32) }
        });
    });
}

/// Makes a pool of `n_threads` workers, 1 to 1024; the thread that executes a plan is one of them.
///
/// The caller destroys `*out` with subquad_threadpool_destroy. Its threads sleep between calls. Calls from
/// several threads on one pool take turns.
///
/// Returns NULL_POINTER (`out`), INVALID_ARGUMENT (`n_threads`), OUT_OF_MEMORY (a thread could not be
/// started), INTERNAL. Thread-safe. Allocates: yes. Since 0.1.0.
///
/// # Safety
/// `out` is NULL or writable; `err` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_threadpool_create(
    n_threads: u32,
    out: *mut *mut subquad_threadpool,
    err: *mut subquad_error,
) -> subquad_status {
    let body = || {
        let out = boundary::out(out, "out")?;
        let pool = Arc::new(ThreadPool::new(n_threads as usize)?);
        // SAFETY: checked, and writable says the caller.
        unsafe { out.write(Box::into_raw(Box::new(subquad_threadpool { pool }))) };
        Ok(())
    };
    // SAFETY: `err` is null or writable.
    unsafe { boundary::status(err, body) }
}

/// Frees a pool; NULL is fine. Contexts that were made with it keep its threads until they and their plans
/// are destroyed, so the order does not matter.
///
/// Thread-safe, once per pool. Allocates: no. Since 0.1.0.
///
/// # Safety
/// `pool` is NULL or came from subquad_threadpool_create and was not destroyed before. A subquad_parallel
/// that names it must not make another context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_threadpool_destroy(pool: *mut subquad_threadpool) {
    boundary::value((), || {
        if !pool.is_null() {
            // SAFETY: `create` leaked this box, and the caller gives it back once.
            drop(unsafe { Box::from_raw(pool) });
        }
    });
}

/// Fills in the runner of a pool, to be copied into subquad_context_options.
///
/// `out` need not be initialised. Returns NULL_POINTER (`pool`, `out`), INTERNAL. Thread-safe.
/// Allocates: no. Since 0.1.0.
///
/// # Safety
/// `pool` is NULL or a live pool; `out` and `err` are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn subquad_threadpool_parallel(
    pool: *mut subquad_threadpool,
    out: *mut subquad_parallel,
    err: *mut subquad_error,
) -> subquad_status {
    let body = || {
        // SAFETY: null or a live pool.
        let max_workers = unsafe { boundary::borrow(pool, "pool") }?.pool.max_workers() as u32;
        let parallel = subquad_parallel {
            struct_size: size_of::<subquad_parallel>(),
            max_workers,
            reserved: 0,
            user: pool.cast(),
            run: Some(POOL_RUN),
        };
        // SAFETY: checked, and writable says the caller.
        unsafe { boundary::out(out, "out")?.write(parallel) };
        Ok(())
    };
    // SAFETY: `err` is null or writable.
    unsafe { boundary::status(err, body) }
}
