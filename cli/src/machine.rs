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

/// Bytes of the third cache level, where the system tells.
pub fn l3_cache() -> Option<usize> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: `sysconf` only reads; it gives 0 or −1 where it does not know.
        let bytes = unsafe { libc::sysconf(libc::_SC_LEVEL3_CACHE_SIZE) };
        usize::try_from(bytes).ok().filter(|&n| n > 0)
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    None
}
