"""Interleaved rounds: in each, the peak, then every subject on the same problem, then the peak again."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading

VOID_ABOVE = 0.05  # how far the peak may move in a round, and what share of the time others may hold the CPU
TIMEOUT = 300      # seconds for one subject in one round
# Set by some environments; they would hold the peers to other kernels than a user gets, or to other threads.
CLEARED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY",
           "ONEDNN_MAX_CPU_ISA", "SUBQUAD_MAX_ISA", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")


class Failed(Exception):
    pass


def threads_of(problem):
    fields = dict(item.partition("=")[::2] for item in problem.split(","))
    return int(fields.get("threads", 1))


def times_of(pid):
    """Nanoseconds that a process's first thread ran, and that it waited for a CPU; None if the system won't tell."""
    try:
        run, wait, _ = open(f"/proc/{pid}/schedstat").read().split()
        return int(run), int(wait)
    except (OSError, ValueError):
        return None


def run(command, environment, seconds):
    """Output, errors, exit status and the share of time that others held the CPU while the process wanted it."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=errors)
        late = threading.Timer(seconds, process.kill)
        late.start()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, its figures still there
        times = times_of(process.pid)
        late.cancel()
        status = process.wait()
        out.seek(0)
        errors.seek(0)
        waited = times[1] / max(sum(times), 1) if times else None
        return out.read(), errors.read(), status, waited


def run_json(command, cpus, threads=1):
    """The JSON objects that a command prints, run on the given CPUs, and the share of time it waited for one."""
    environment = {name: value for name, value in os.environ.items() if name not in CLEARED}
    # Memory that was freed stays with the process: page faults are no part of an operator's time.
    environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads),
                    "MALLOC_TRIM_THRESHOLD_": str(2 << 30), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
    if cpus and shutil.which("taskset"):
        command = ["taskset", "-c", ",".join(map(str, cpus)), *command]
    try:
        output, errors, status, waited = run(command, environment, TIMEOUT)
    except OSError as error:
        raise Failed(str(error)) from None
    if status:
        tail = (errors.strip() or output.strip() or "no output").splitlines()[-1]
        raise Failed(f"exit status {status}: {tail}" if status > 0 else f"ended by signal {-status}: {tail}")
    found = []
    for line in output.splitlines():
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise Failed(f"not JSON ({error}): {line[:80]}") from None
    return found, waited


class Subject:
    """Something that is timed: ours, ours held to AVX2, or a peer."""

    def __init__(self, name, command):
        self.name, self.command = name, command
        self.unsupported = {}

    def measure(self, problem, seconds, cpus):
        """The record of one measurement, or None when it was refused (the reason is kept)."""
        if problem in self.unsupported:
            return None
        try:
            found, waited = run_json(self.command(problem, seconds), cpus, threads_of(problem))
            records = [record for record in found if "ns_per_token_head" in record]
            if not records:
                reasons = [record["unsupported"] for record in found if "unsupported" in record]
                raise Failed(reasons[0] if reasons else "printed no measurement")
            return records[0] | {"waited_for_cpu": None if waited is None else round(waited, 4)}
        except Failed as reason:
            self.unsupported[problem] = str(reason)
            return None


def peak(command, seconds, cpus):
    """{"avx512": GFLOP/s, "avx2": ...}; empty where it cannot be measured."""
    try:
        return (run_json([*command, str(seconds)], cpus)[0] or [{}])[0]
    except Failed:
        return {}


def drift(before, after):
    """The largest relative change of a peak."""
    both = [(before[isa], after[isa]) for isa in before if after.get(isa)]
    return max((abs(b / a - 1) for a, b in both), default=0.0)


def one_round(problem, subjects, options):
    """Figures of one round: peaks, the records by subject, whether the round is void."""
    cpus = options.pick_cpus()
    before = peak(options.peak_command, options.peak_seconds, cpus)
    records = {}
    for subject in subjects:
        record = subject.measure(problem, options.seconds, cpus)
        if record:
            records[subject.name] = record
    after = peak(options.peak_command, options.peak_seconds, cpus)
    moved = drift(before, after)
    waited = max((record["waited_for_cpu"] or 0 for record in records.values()), default=0)
    reasons = [f"the peak moved by {moved:.0%}"] if moved > VOID_ABOVE else []
    reasons += [f"others held the CPU for {waited:.0%} of the time"] if waited > VOID_ABOVE else []
    mean = {isa: (before[isa] + after[isa]) / 2 for isa in before if isa in after}
    return {"cpus": cpus, "peak_before": before, "peak_after": after, "peak": mean, "peak_moved": round(moved, 4),
            "void": bool(reasons), "reasons": reasons, "records": records}


def measure_problem(problem, subjects, options):
    """All rounds of a problem; void ones are repeated, as often again as there are rounds at most."""
    rounds, valid = [], 0
    while valid < options.rounds and len(rounds) < 2 * options.rounds:
        rounds.append(one_round(problem, subjects, options))
        valid += not rounds[-1]["void"]
        note = f": void, {'; '.join(rounds[-1]['reasons'])}" if rounds[-1]["void"] else ""
        print(f"{problem}: round {len(rounds)}{note}", file=sys.stderr, flush=True)
    return rounds
