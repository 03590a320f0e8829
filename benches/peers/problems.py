"""What is compared, and what we aim for.

`aims` are ratios of tokens per second, ours to the peer's; `avx2_aims` the same with our kernels held to AVX2.
`bound` counts the FLOPs per token and head that no algorithm here avoids, in units of D x E; `bound_aim` is our
time against that bound at the core's measured peak.
"""

SHAPE = "B=1,H=16,D=128,E=128"


def entry(mechanism, mode, aims=None, avx2_aims=None, bound=None, bound_aim=None, shape=SHAPE, tokens=2048):
    tokens = 1 if mode == "step" else tokens
    return {
        "problem": f"mechanism={mechanism},mode={mode},{shape},T={tokens},threads=1",
        "aims": aims or {}, "avx2_aims": avx2_aims or {}, "bound": bound, "bound_aim": bound_aim,
    }


def softmax(mode, aim, d=128, dtype="f32"):
    return entry("softmax", mode, {"torch": aim}, shape=f"B=1,H=16,D={d},E={d},dtype={dtype}", tokens=4096)


def rwkv7(mode, d, aim=None):
    """Heads of 64 channels are those of the published models."""
    return entry("rwkv7", mode, {"ggml": aim} if aim else {}, bound=8 if mode == "causal" else None,
                 shape=f"B=1,H=16,D={d},E={d}")


PROBLEMS = [
    entry("gated_delta_rule", "causal", {"ort": 2.5, "ggml": 6.0}, {"ort": 1.3}, 6, 1.5),
    entry("simple_gla", "causal", {"ggml": 6.0}, bound=4, bound_aim=1.35),
    entry("gla", "causal", {"ggml": 5.0}, bound=4),
    rwkv7("causal", 64, 5.0),
    rwkv7("causal", 128, 5.0),
    entry("gated_delta_rule", "step", {"ort": 1.0}),
    entry("simple_gla", "step"),
    entry("gla", "step"),
    rwkv7("step", 64),
    softmax("causal", 2.5),
    softmax("causal", 4.0, dtype="bf16"),
    # PyTorch rounds the weights to bf16 as this flag lets us.
    softmax("causal", 4.0, dtype="bf16,bf16_dot=1"),
    softmax("bidirectional", 2.0),
    softmax("causal", 2.0, d=64),
]
