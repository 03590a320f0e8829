"""Problem strings, inputs, timing and the float64 token loop that the Python drivers share.

A problem is the string that `subquad bench` takes, for example
mechanism=gated_delta_rule,mode=causal,B=1,H=16,D=128,E=128,T=2048,threads=1
"""

import argparse
import json
import time
from dataclasses import dataclass

import numpy as np

# mechanism -> (gate: None, "token" or "channel"; has the delta rule's correction)
MECHANISMS = {
    "linear": (None, False),
    "simple_gla": ("token", False),
    "gla": ("channel", False),
    "delta_rule": (None, True),
    "gated_delta_rule": ("token", True),
    "kda": ("channel", True),
    "softmax": (None, False),
}


class Unsupported(Exception):
    """The peer has no operator for this problem."""


@dataclass(frozen=True)
class Problem:
    text: str
    mechanism: str
    mode: str
    B: int
    H: int
    D: int
    E: int
    T: int
    threads: int
    dtype: str = "f32"

    @property
    def gate(self):
        return MECHANISMS[self.mechanism][0]

    @property
    def delta(self):
        return MECHANISMS[self.mechanism][1]

    @property
    def scale(self):
        return self.D ** -0.5


def parse(text):
    """Reads a problem string; raises Unsupported with the offending field."""
    fields = {"mode": "causal", "B": "1", "threads": "1", "dtype": "f32"}
    for item in text.split(","):
        key, separator, value = item.partition("=")
        if not separator:
            raise Unsupported(f"not key=value: {item!r}")
        fields[key.strip()] = value.strip()
    for key in ("mechanism", "H", "D"):
        if key not in fields:
            raise Unsupported(f"{key} is missing")
    fields.setdefault("E", fields["D"])
    step = fields["mode"] == "step"
    fields.setdefault("T", "1" if step else "2048")
    if fields["mechanism"] not in MECHANISMS:
        raise Unsupported(f"no operator or form of {fields['mechanism']} here")
    exact = fields["mechanism"] == "softmax"
    modes = ("causal", "bidirectional") if exact else ("causal", "step")
    if fields["mode"] not in modes or (step and fields["T"] != "1"):
        raise Unsupported(f"mode={fields['mode']},T={fields['T']}: only {' and '.join(modes)}, a step with T=1")
    dtypes = ("f32", "bf16") if exact else ("f32",)
    if fields["dtype"] not in dtypes or fields.get("Hk", fields["H"]) != fields["H"]:
        raise Unsupported(f"only dtype={' or '.join(dtypes)} and Hk=H")
    if fields.get("grad", "0") != "0":
        raise Unsupported("only the forward pass")
    numbers = {key: int(fields[key]) for key in ("B", "H", "D", "E", "T", "threads")}
    if min(numbers.values()) < 1:
        raise Unsupported("every size must be at least 1")
    return Problem(text, fields["mechanism"], fields["mode"], **numbers, dtype=fields["dtype"])


def inputs(problem, seed=0):
    """float32 arrays: unit keys, log decays -0.1|N(0,1)|, beta = sigmoid(N(0,1)), a small state.

    Speed depends on the values only through denormals, which these do not reach.
    """
    p, rng = problem, np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    x = {"q": normal(p.B, p.H, p.T, p.D), "k": normal(p.B, p.H, p.T, p.D), "v": normal(p.B, p.H, p.T, p.E)}
    x["k"] /= np.linalg.norm(x["k"], axis=-1, keepdims=True)
    if p.gate == "token":
        x["g"] = -0.1 * np.abs(normal(p.B, p.H, p.T))
    elif p.gate == "channel":
        x["g"] = -0.1 * np.abs(normal(p.B, p.H, p.T, p.D))
    if p.delta:
        x["beta"] = 1 / (1 + np.exp(-normal(p.B, p.H, p.T)))
    x["state"] = 0.1 * normal(p.B, p.H, p.D, p.E)
    return x


def token_loop(problem, x):
    """The definition, one token after the other in float64; returns the output and the last state."""
    p = problem
    x = {name: array.astype(np.float64) for name, array in x.items()}
    state, out = x["state"].copy(), np.empty((p.B, p.H, p.T, p.E))
    for t in range(p.T):
        if p.gate:
            decay = np.exp(x["g"][:, :, t])
            state *= decay[..., None] if p.gate == "channel" else decay[..., None, None]
        k, v = x["k"][:, :, t], x["v"][:, :, t]
        if p.delta:
            v = x["beta"][:, :, t, None] * (v - np.einsum("bhd,bhde->bhe", k, state))
        state += k[..., :, None] * v[..., None, :]
        out[:, :, t] = p.scale * np.einsum("bhd,bhde->bhe", x["q"][:, :, t], state)
    return out, state


def attention(problem, x):
    """Exact softmax attention in float64."""
    p = problem
    q, k, v = (x[name].astype(np.float64) for name in "qkv")
    scores = p.scale * q @ k.swapaxes(2, 3)
    if p.mode == "causal":
        scores = np.where(np.tril(np.ones((p.T, p.T), bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights @ v / weights.sum(-1, keepdims=True)


def assert_close(what, results, bound):
    """Of pairs (got, wanted): the worst difference, relative to the largest magnitude, is within the bound."""
    error = max(np.abs(got - want).max() / np.abs(want).max() for got, want in results)
    assert error <= bound, f"{what}: relative error {error:.2e}, allowed {bound:.0e}"
    print(f"{what}: relative error {error:.1e}, allowed {bound:.0e}", flush=True)


@dataclass(frozen=True)
class Timing:
    samples: list  # seconds per call
    cpu_share: float  # part of the time that the calling thread really had the CPU


def measure(call, seconds):
    """Samples of at least 0.2 ms each until the time is up, five at least."""
    start = time.perf_counter()
    call()
    once = time.perf_counter() - start
    warm_until = time.perf_counter() + min(0.1 * seconds, 0.2)
    while time.perf_counter() < warm_until:
        start = time.perf_counter()
        call()
        once = min(once, time.perf_counter() - start)
    calls = max(1, round(2e-4 / max(once, 1e-9)))
    samples, begin, cpu = [], time.perf_counter(), time.thread_time()
    while len(samples) < 5 or time.perf_counter() < begin + seconds:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        samples.append((time.perf_counter() - start) / calls)
    return Timing(samples, (time.thread_time() - cpu) / (time.perf_counter() - begin))


def report(peer, version, op, problem, timing):
    """Prints the record of one measurement; the spread is the interquartile range over the median."""
    low, median, high = np.quantile(timing.samples, (0.25, 0.5, 0.75))
    tokens = problem.B * problem.T
    print(json.dumps({
        "peer": peer, "version": version, "op": op, "problem": problem.text, "threads": problem.threads,
        "ns_per_token_head": round(1e9 * median / (tokens * problem.H), 2),
        "tokens_per_s": round(tokens / median, 1),
        "reps": len(timing.samples), "spread": round((high - low) / median, 4),
        # With several threads the calling one waits for the others, which says nothing of the machine.
        "cpu_share": round(timing.cpu_share, 4) if problem.threads == 1 else None,
    }), flush=True)


def main(description, peer, check, bench):
    """The command line of a driver: `--check`, or problems to time with `bench(problem, seconds)`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each problem")
    parser.add_argument("--check", action="store_true", help="compare with the token loop, then stop")
    parser.add_argument("problems", nargs="*", metavar="PROBLEM")
    args = parser.parse_args()
    if args.check:
        check()
    for text in args.problems:
        try:
            bench(parse(text), args.seconds)
        except Unsupported as reason:
            print(json.dumps({"peer": peer, "problem": text, "unsupported": str(reason)}), flush=True)
