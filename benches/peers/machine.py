"""What machine the figures are from, and which CPU to measure on."""

import os
import platform
import time
from pathlib import Path


def read(path):
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def cpu_fields():
    """The first processor's lines of /proc/cpuinfo."""
    first = (read("/proc/cpuinfo") or "").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def describe():
    cpu = cpu_fields()
    flags = cpu.get("flags", "").split()
    governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    siblings = read("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
    return {
        "cpu": cpu.get("model name", platform.processor() or "unknown"),
        "family": cpu.get("cpu family"), "model": cpu.get("model"), "stepping": cpu.get("stepping"),
        "isa": [flag for flag in ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile") if flag in flags],
        "cpus_allowed": sorted(os.sched_getaffinity(0)),
        "thread_siblings_of_cpu0": siblings, "virtual_machine": "hypervisor" in flags,
        "frequency_governor": governor or "not shown by the system",
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "kernel": platform.release(), "architecture": platform.machine(),
    }


def busy_ticks():
    """Ticks that were not idle, by CPU (steal included)."""
    ticks = {}
    for line in (read("/proc/stat") or "").splitlines():
        name, *values = line.split()
        if name.startswith("cpu") and name[3:].isdigit():
            values = [int(value) for value in values[:8]]
            ticks[int(name[3:])] = sum(values) - values[3] - values[4]
    return ticks


def pick_cpus(count, allowed=None, patience=60.0, window=0.5):
    """The CPUs that others use least, as soon as that is under 5 % of the time; after the patience, any way."""
    allowed = allowed or sorted(os.sched_getaffinity(0))
    end = time.monotonic() + patience
    while True:
        before = busy_ticks()
        time.sleep(window)
        after = busy_ticks()
        busy = {cpu: after.get(cpu, 0) - before.get(cpu, 0) for cpu in allowed}
        picked = sorted(allowed, key=lambda cpu: (busy[cpu], -cpu))[:count]
        quiet = max(busy[cpu] for cpu in picked) <= 0.05 * window * os.sysconf("SC_CLK_TCK")
        if quiet or time.monotonic() > end:
            return picked
