//! What a caller chooses once: the instruction-set ceiling and who runs tasks.

use crate::error::{Error, Result};
use crate::parallel::{Runner, Serial};
use crate::simd::Isa;
use std::fmt;
use std::sync::Arc;

/// Choices of a context; the default is the machine's best instruction set, on the calling thread.
#[derive(Clone, std::default::Default)]
pub struct ContextOptions {
    max_isa: Option<Isa>,
    runner: Option<Arc<dyn Runner>>,
}

impl ContextOptions {
    /// The defaults.
    pub fn new() -> ContextOptions {
        ContextOptions::default()
    }

    /// Use nothing stronger than this. `SUBQUAD_MAX_ISA` can only lower it further.
    #[must_use]
    pub fn max_isa(mut self, isa: Isa) -> ContextOptions {
        self.max_isa = Some(isa);
        self
    }

    /// Run tasks with this: a [`crate::ThreadPool`], or the caller's own.
    #[must_use]
    pub fn runner(mut self, runner: Arc<dyn Runner>) -> ContextOptions {
        self.runner = Some(runner);
        self
    }
}

/// Instruction set, runner and cache sizes; immutable, shared by plans, cheap to clone.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    isa: Isa,
    runner: Arc<dyn Runner>,
    max_workers: usize,
    caches: Caches,
}

/// Sizes of the data caches that blocking goes by, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caches {
    /// First level, of one core.
    pub l1: usize,
    /// Second level, of one core.
    pub l2: usize,
}

impl Context {
    /// A context with these choices. Reads `SUBQUAD_MAX_ISA` once, here.
    ///
    /// # Errors
    /// An instruction set this machine does not have, a word in `SUBQUAD_MAX_ISA` that is none, or a runner
    /// without workers or with more than 1024.
    pub fn new(options: ContextOptions) -> Result<Context> {
        let isa = match options.max_isa {
            Some(isa) if isa.available() => isa,
            Some(isa) => {
                return Err(Error::Unsupported {
                    what: format!("instruction set {isa}"),
                    why: "this machine does not have it".into(),
                });
            }
            None => Isa::best(),
        };
        let isa = match std::env::var("SUBQUAD_MAX_ISA") {
            Ok(word) if !word.is_empty() => isa.min(ceiling(&word)?),
            _ => isa,
        };
        let runner = options.runner.unwrap_or_else(|| Arc::new(Serial));
        let max_workers = runner.max_workers();
        if !(1..=1024).contains(&max_workers) {
            let given = max_workers as i64;
            return Err(Error::InvalidArgument { what: "max_workers", given, expected: "1 to 1024" });
        }
        Ok(Context { inner: Arc::new(Inner { isa, runner, max_workers, caches: Caches::detect() }) })
    }

    /// The instruction set that plans of this context use.
    pub fn isa(&self) -> Isa {
        self.inner.isa
    }

    /// Tasks that can run at a time.
    pub fn max_workers(&self) -> usize {
        self.inner.max_workers
    }

    /// Cache sizes that blocking goes by.
    pub fn caches(&self) -> Caches {
        self.inner.caches
    }

    pub(crate) fn runner(&self) -> &dyn Runner {
        &*self.inner.runner
    }
}

/// The strongest available instruction set that `word` allows.
fn ceiling(word: &str) -> Result<Isa> {
    let named = word.parse::<Isa>().map_err(|()| Error::InvalidText {
        what: "SUBQUAD_MAX_ISA",
        given: format!("`{word}`"),
        expected: Isa::ALL.map(Isa::name).join(", "),
    })?;
    let below = crate::simd::available().iter().copied().filter(|&isa| isa <= named);
    Ok(below.max().unwrap_or(Isa::Scalar))
}

impl Caches {
    /// 32 KiB and 512 KiB where the system does not say.
    fn detect() -> Caches {
        let (l1, l2) = system_caches();
        Caches {
            l1: l1.filter(|&n| n >= 16 << 10).unwrap_or(32 << 10),
            l2: l2.filter(|&n| n >= 128 << 10).unwrap_or(512 << 10),
        }
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn system_caches() -> (Option<usize>, Option<usize>) {
    let ask = |name| {
        // SAFETY: `sysconf` only reads; unknown names and values give −1 or 0.
        let bytes = unsafe { libc::sysconf(name) };
        usize::try_from(bytes).ok()
    };
    (ask(libc::_SC_LEVEL1_DCACHE_SIZE), ask(libc::_SC_LEVEL2_CACHE_SIZE))
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn system_caches() -> (Option<usize>, Option<usize>) {
    (None, None)
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("isa", &self.inner.isa)
            .field("max_workers", &self.inner.max_workers)
            .field("caches", &self.inner.caches)
            .finish()
    }
}
