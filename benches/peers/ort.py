#!/usr/bin/env python3
"""ONNX Runtime's `LinearAttention` (domain com.microsoft, CPU): update rules linear, gated, delta, gated_delta.

Inputs and outputs are bound once, so a call copies nothing but what the operator itself copies (the past
state into the present one). In step mode two bindings take turns: one call's present state is the next one's
past state.
"""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

import problem as pr

RULES = {
    "linear": "linear", "simple_gla": "gated", "gla": "gated",
    "delta_rule": "delta", "gated_delta_rule": "gated_delta", "kda": "gated_delta",
}


def model(p):
    """A graph of the one operator; tensors are packed [B, T, H * dim]."""
    if p.mechanism not in RULES:
        raise pr.Unsupported(f"no operator of {p.mechanism} here")
    shapes = {
        "query": [p.B, p.T, p.H * p.D], "key": [p.B, p.T, p.H * p.D], "value": [p.B, p.T, p.H * p.E],
        "past_state": [p.B, p.H, p.D, p.E],
    }
    if p.gate:
        shapes["decay"] = [p.B, p.T, p.H * (p.D if p.gate == "channel" else 1)]
    if p.delta:
        shapes["beta"] = [p.B, p.T, p.H]
    slots = ["query", "key", "value", "past_state", "decay" if p.gate else "", "beta" if p.delta else ""]
    node = helper.make_node(
        "LinearAttention", slots, ["output", "present_state"], domain="com.microsoft",
        q_num_heads=p.H, kv_num_heads=p.H, update_rule=RULES[p.mechanism])

    def info(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [node], "peer", [info(*item) for item in shapes.items()],
        [info("output", [p.B, p.T, p.H * p.E]), info("present_state", shapes["past_state"])])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def packed(array):
    """[B, H, T, ...] to [B, T, H * ...]."""
    b, h, t = array.shape[:3]
    return np.ascontiguousarray(np.moveaxis(array, 1, 2)).reshape(b, t, -1)


class Operator:
    """A session with its tensors bound; `run` is one call."""

    def __init__(self, p, x):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = p.threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            model(p).SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = {"query": "q", "key": "k", "value": "v", "decay": "g", "beta": "beta"}
        fixed = {name: packed(x[short]) for name, short in names.items() if short in x}
        self.states = [x["state"].copy(), np.zeros_like(x["state"])]
        self.output = np.zeros((p.B, p.T, p.H * p.E), np.float32)
        self.values = []  # the bindings hold no reference of their own to the arrays
        self.bindings = [self._bind(fixed, 0, 1), self._bind(fixed, 1, 0)]
        self.calls, self.carry, self.shape = 0, p.mode == "step", (p.B, p.T, p.H, p.E)

    def _bind(self, fixed, past, present):
        binding = self.session.io_binding()
        bound = [(binding.bind_ortvalue_input, name, array) for name, array in fixed.items()]
        bound += [(binding.bind_ortvalue_input, "past_state", self.states[past]),
                  (binding.bind_ortvalue_output, "output", self.output),
                  (binding.bind_ortvalue_output, "present_state", self.states[present])]
        for bind, name, array in bound:
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            assert value.data_ptr() == array.ctypes.data, "ONNX Runtime copied a tensor that it should share"
            bind(name, value)
            self.values.append((value, array))
        return binding

    def run(self):
        self.session.run_with_iobinding(self.bindings[self.calls % 2 if self.carry else 0])
        self.calls += 1

    def result(self):
        """Output as [B, H, T, E], and the state that the last call left."""
        state = self.states[self.calls % 2] if self.carry else self.states[1]
        return np.moveaxis(self.output.reshape(self.shape), 2, 1), state


def check():
    for mechanism in RULES:
        p = pr.parse(f"mechanism={mechanism},B=2,H=3,D=64,E=64,T=70")
        x = pr.inputs(p, seed=1)
        operator = Operator(p, x)
        operator.run()
        pr.assert_close(f"ort {mechanism} causal", zip(operator.result(), pr.token_loop(p, x)), 2e-5)
    for mechanism in RULES:
        p = pr.parse(f"mechanism={mechanism},mode=step,H=2,D=128")
        x = pr.inputs(p, seed=2)
        operator = Operator(p, x)
        for _ in range(3):
            operator.run()
            want = pr.token_loop(p, x)
            x["state"] = want[1]
        pr.assert_close(f"ort {mechanism} three steps", zip(operator.result(), want), 2e-5)


def bench(p, seconds):
    operator = Operator(p, pr.inputs(p))
    timing = pr.measure(operator.run, seconds)
    pr.report("ort", f"onnxruntime {onnxruntime.__version__} (onnx {onnx.__version__})",
              f"LinearAttention {RULES[p.mechanism]}", p, timing)


if __name__ == "__main__":
    pr.main(__doc__, "ort", check, bench)
