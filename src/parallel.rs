//! Tasks: who runs them, and the rules that make the result independent of it.
//!
//! An engine cuts a problem into tasks; a *runner* calls each task once, from any thread, with a worker
//! number below its maximum that no two running tasks share. Results never depend on the runner: tasks write
//! disjoint memory and combine nothing.
//!
//! The built-in pool is written here rather than taken from a library because `execute` may neither
//! allocate nor spin: work-stealing pools allocate for jobs that come from outside and spin before sleeping.

use crate::error::{Error, Result};
use crate::simd::DenormalGuard;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Calls tasks, perhaps from several threads.
///
/// `run` must call `task(index, worker)` exactly once for every `index < n_tasks`, with
/// `worker < max_workers()`, never with one worker number from two threads at a time, and return when all
/// calls have returned. The order is free.
pub trait Runner: Send + Sync {
    /// One more than the largest worker number.
    fn max_workers(&self) -> usize;
    /// Runs the tasks.
    fn run(&self, n_tasks: usize, task: &(dyn Fn(usize, usize) + Sync));
}

/// Everything on the calling thread.
#[derive(Clone, Copy, Debug, std::default::Default)]
pub struct Serial;

impl Runner for Serial {
    fn max_workers(&self) -> usize {
        1
    }
    fn run(&self, n_tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        (0..n_tasks).for_each(|index| task(index, 0));
    }
}

/// Runs `task` for every index and reports a panic, or a runner that broke its promise, as an error.
pub(crate) fn run(runner: &dyn Runner, n_tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) -> Result<()> {
    if n_tasks == 0 {
        return Ok(());
    }
    let workers = runner.max_workers();
    let (done, panicked) = (AtomicUsize::new(0), AtomicBool::new(false));
    let guarded = |index: usize, worker: usize| {
        if index >= n_tasks || worker >= workers {
            return;
        }
        let _mode = DenormalGuard::flush_to_zero();
        if catch_unwind(AssertUnwindSafe(|| task(index, worker))).is_err() {
            panicked.store(true, SeqCst);
        }
        done.fetch_add(1, SeqCst);
    };
    if n_tasks == 1 {
        guarded(0, 0)
    } else {
        runner.run(n_tasks, &guarded)
    }
    match (panicked.load(SeqCst), done.load(SeqCst) == n_tasks) {
        (true, _) => Err(Error::Internal("a task panicked")),
        (_, false) => Err(Error::Internal("the runner did not run every task once, with a valid worker")),
        _ => Ok(()),
    }
}

/// The built-in pool: threads that sleep between calls.
///
/// Calls from several threads take turns. A call made from inside one of its own tasks would deadlock;
/// the library never does that.
pub struct ThreadPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    turn: Mutex<()>,
}

struct Shared {
    job: Mutex<Job>,
    start: Condvar,
    finish: Condvar,
    next: AtomicUsize,
}

/// A borrowed task with its lifetime erased; valid while `run` waits.
#[derive(Clone, Copy)]
struct Erased(*const (dyn Fn(usize, usize) + Sync));

// SAFETY: the pointee is `Sync`, and `ThreadPool::run` outlives every use of the pointer.
unsafe impl Send for Erased {}

struct Job {
    generation: u64,
    task: Option<Erased>,
    n_tasks: usize,
    running: usize,
    quit: bool,
}

/// A poisoned lock is taken all the same: no user code runs while one is held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ThreadPool {
    /// A pool of `n_threads` workers; the calling thread is one of them.
    ///
    /// # Errors
    /// `n_threads` is 0 or above 1024, or a thread cannot be started.
    pub fn new(n_threads: usize) -> Result<ThreadPool> {
        if !(1..=1024).contains(&n_threads) {
            let given = n_threads as i64;
            return Err(Error::InvalidArgument { what: "n_threads", given, expected: "1 to 1024" });
        }
        let job = Job { generation: 0, task: None, n_tasks: 0, running: 0, quit: false };
        let shared = Arc::new(Shared {
            job: Mutex::new(job),
            start: Condvar::new(),
            finish: Condvar::new(),
            next: AtomicUsize::new(0),
        });
        let mut pool = ThreadPool { shared, threads: Vec::new(), turn: Mutex::new(()) };
        for worker in 1..n_threads {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new()
                .name(format!("subquad-{worker}"))
                .spawn(move || shared.work(worker))
                .map_err(|_| Error::OutOfMemory { bytes: 0 })?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }
}

impl Shared {
    fn work(&self, worker: usize) {
        let mut seen = 0;
        loop {
            let mut job = lock(&self.job);
            while job.generation == seen && !job.quit {
                job = self.start.wait(job).unwrap_or_else(PoisonError::into_inner);
            }
            if job.quit {
                return;
            }
            seen = job.generation;
            let Some(task) = job.task else { continue };
            let n_tasks = job.n_tasks;
            job.running += 1;
            drop(job);
            // SAFETY: `running` was raised under the lock while the task was set, so `run` still waits.
            self.drain(unsafe { &*task.0 }, n_tasks, worker);
            let mut job = lock(&self.job);
            job.running -= 1;
            if job.running == 0 {
                self.finish.notify_one();
            }
        }
    }

    fn drain(&self, task: &(dyn Fn(usize, usize) + Sync), n_tasks: usize, worker: usize) {
        loop {
            let index = self.next.fetch_add(1, SeqCst);
            if index >= n_tasks {
                return;
            }
            task(index, worker);
        }
    }
}

impl Runner for ThreadPool {
    fn max_workers(&self) -> usize {
        self.threads.len() + 1
    }

    fn run(&self, n_tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        let _turn = lock(&self.turn);
        let erased: *const (dyn Fn(usize, usize) + Sync + '_) = task;
        // SAFETY: only the lifetime changes; `task` is cleared and every worker done before this returns.
        let erased = Erased(unsafe {
            std::mem::transmute::<
                *const (dyn Fn(usize, usize) + Sync + '_),
                *const (dyn Fn(usize, usize) + Sync + 'static),
            >(erased)
        });
        {
            let mut job = lock(&self.shared.job);
            self.shared.next.store(0, SeqCst);
            job.task = Some(erased);
            job.n_tasks = n_tasks;
            job.generation += 1;
        }
        self.shared.start.notify_all();
        self.shared.drain(task, n_tasks, 0);
        let mut job = lock(&self.shared.job);
        job.task = None;
        while job.running > 0 {
            job = self.shared.finish.wait(job).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        lock(&self.shared.job).quit = true;
        self.shared.start.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
