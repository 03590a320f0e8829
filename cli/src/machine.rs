//! What the operating system says of this machine.

use std::fs;

/// The CPU's name, as the system gives it.
pub fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let model = field("model name").or_else(|| field("CPU part").map(|part| format!("CPU part {part}")));
    model.unwrap_or_else(|| format!("unknown {}", std::env::consts::ARCH))
}

/// Family and model numbers, where x86 has them: the name of a virtual machine's CPU often says too little.
pub fn cpu_signature() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let field = |name: &str| {
        let mut fields = text.lines().filter_map(|line| line.split_once(':'));
        Some(fields.find(|(key, _)| key.trim() == name)?.1.trim().to_owned())
    };
    Some(format!(
        "family {}, model {}, stepping {}",
        field("cpu family")?,
        field("model")?,
        field("stepping")?
    ))
}

/// Processors that this process may use.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Bytes of memory, all of it and what is free for a new program.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// All of it.
    pub total: usize,
    /// What can be had without swapping.
    pub available: usize,
}

/// The machine's memory, where the system tells.
pub fn memory() -> Option<Memory> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        let kib: usize = line.split_whitespace().nth(1)?.parse().ok()?;
        kib.checked_mul(1024)
    };
    Some(Memory { total: field("MemTotal:")?, available: field("MemAvailable:")? })
}

/// Bytes of the third cache level that this processor shares with its neighbours, where the system tells.
/// (`sysconf` adds up all of a socket, which on a virtual machine is the host's.)
pub fn l3_cache() -> Option<usize> {
    let text = fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index3/size").ok()?;
    let kib: usize = text.trim().strip_suffix('K')?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Seconds of CPU that the calling thread has used; less than the clock's if others took the processor.
pub fn thread_cpu_seconds() -> Option<f64> {
    #[cfg(unix)]
    {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call writes the struct that it is given.
        let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
        (status == 0).then_some(time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64)
    }
    #[cfg(not(unix))]
    None
}

/// `subquad list | head` ends as other commands do, not with a panic about a broken pipe.
pub fn end_quietly_when_the_pipe_closes() {
    #[cfg(unix)]
    // SAFETY: the default action of a signal, set before there are other threads.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}
