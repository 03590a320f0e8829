"""Interleaved rounds: in each, the peak, then every subject on the same problem, then the peak again."""

import json
import os
import shutil
import subprocess
import sys

PEAK_DRIFT = 0.05  # how far the peak may move in a round
CPU_SHARE = 0.95   # the least part of its time that a subject must really have had the CPU
TIMEOUT = 300      # seconds for one subject in one round
# Set by some environments; they would hold the peers to other kernels than a user gets, or to other threads.
CLEARED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY",
           "ONEDNN_MAX_CPU_ISA", "SUBQUAD_MAX_ISA", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")


class Failed(Exception):
    pass


def threads_of(problem):
    fields = dict(item.partition("=")[::2] for item in problem.split(","))
    return int(fields.get("threads", 1))


def run_json(command, cpus, threads=1):
    """The JSON objects that a command prints, run on the given CPUs."""
    environment = {name: value for name, value in os.environ.items() if name not in CLEARED}
    # Memory that was freed stays with the process: page faults are no part of an operator's time.
    environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads),
                    "MALLOC_TRIM_THRESHOLD_": str(2 << 30), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
    if cpus and shutil.which("taskset"):
        command = ["taskset", "-c", ",".join(map(str, cpus)), *command]
    try:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise Failed(f"no answer within {TIMEOUT} s") from None
    except OSError as error:
        raise Failed(str(error)) from None
    if done.returncode:
        tail = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise Failed(f"exit status {done.returncode}: {tail[:300]}")
    found = []
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise Failed(f"not JSON ({error}): {line[:80]}") from None
    return found


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
            found = run_json(self.command(problem, seconds), cpus, threads_of(problem))
            records = [record for record in found if "ns_per_token_head" in record]
            if not records:
                reasons = [record["unsupported"] for record in found if "unsupported" in record]
                raise Failed(reasons[0] if reasons else "printed no measurement")
            return records[0]
        except Failed as reason:
            self.unsupported[problem] = str(reason)
            return None


def peak(command, seconds, cpus):
    """{"avx512": GFLOP/s, "avx2": ...}; empty where it cannot be measured."""
    try:
        return (run_json([*command, str(seconds)], cpus) or [{}])[0]
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
    reasons = [f"the peak moved by {moved:.0%}"] if moved > PEAK_DRIFT else []
    reasons += [f"{name} found the peak unsteady" for name, record in records.items() if record.get("void")]
    shares = {name: record["cpu_share"] for name, record in records.items() if record.get("cpu_share")}
    if low := [name for name, share in shares.items() if share < CPU_SHARE]:
        reasons.append(f"the CPU was shared: {', '.join(low)} had {min(shares.values()):.0%} of it or more")
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
