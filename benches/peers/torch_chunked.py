#!/usr/bin/env python3
"""The best chunked forms that PyTorch's operators allow: gated_delta_rule, simple_gla and gla; and its own exact attention.

Batch and heads are one batch of matrix products; the chunks of a sequence follow one another, so the working
set of a chunk stays in cache. That was faster here than forming everything for all chunks first, as GPU codes
do, and so was correcting the right-hand side (I + B)^-1 (beta V - beta P K S) rather than the pair W, U (fewer
FLOPs). solve_triangular is slow on wide right-hand sides, hence the C x C inverse from it and a product. The
chunk length is tuned before the measurement (CHUNKS). Decays inside a chunk are exponentials of differences of
cumulative log decays; gla uses the factored form exp(G_i) exp(-G_j): the fastest, but it holds only while a
chunk's decays sum to more than -88.
"""

import time

import torch

import problem as pr

CHUNKS = (32, 64)  # 16 and 128 were slower for every mechanism
torch.set_grad_enabled(False)
torch.set_flush_denormal(True)


def chunk_decays(g, chunk):
    """Of log decays [H, T] (T a multiple of the chunk): pairwise [N, H, C, C], prefix, suffix, whole."""
    heads, tokens = g.shape
    total = g.view(heads, tokens // chunk, chunk).cumsum(-1).transpose(0, 1).contiguous()
    pairwise = (total.unsqueeze(-1) - total.unsqueeze(-2)).tril_().exp_().tril_()
    prefix = total.exp().unsqueeze(-1)
    suffix = (total[..., -1:] - total).exp_().unsqueeze(-1)
    return pairwise, prefix, suffix, prefix[:, :, -1:]


def unit_inverse(lower):
    """(I + stril(lower))^-1, batched."""
    identity = torch.eye(lower.shape[-1], dtype=lower.dtype).expand_as(lower)
    return torch.linalg.solve_triangular(lower, identity, upper=False, unitriangular=True)


def gated_delta_rule(q, k, v, g, beta, state, out, chunk):
    """[H, T, D] and [H, T, E] tensors; updates the state [H, D, E] and fills `out`."""
    scale, heads = q.shape[-1] ** -0.5, q.shape[0]
    pairwise, prefix, suffix, whole = chunk_decays(g, chunk)
    beta = beta.view(heads, -1, chunk).transpose(0, 1).contiguous().unsqueeze(-1)
    beta_prefix, prefix = prefix * beta, prefix * scale
    rows, values, u = (torch.empty_like(v[:, :chunk]) for _ in range(3))
    a, b = (torch.empty(heads, chunk, chunk, dtype=v.dtype) for _ in range(2))
    for n in range(q.shape[1] // chunk):
        tokens = slice(n * chunk, (n + 1) * chunk)
        qn, kn = q[:, tokens], k[:, tokens]
        kt = kn.transpose(1, 2)
        torch.bmm(kn, kt, out=b)
        inverse = unit_inverse(b.mul_(pairwise[n]).mul_(beta[n]))
        torch.bmm(kn, state, out=rows)
        torch.mul(v[:, tokens], beta[n], out=values)
        torch.bmm(inverse, values.sub_(rows.mul_(beta_prefix[n])), out=u)
        torch.bmm(qn, kt, out=a)
        a.mul_(pairwise[n]).mul_(scale)
        torch.bmm(qn, state, out=rows)
        torch.baddbmm(rows.mul_(prefix[n]), a, u, out=out[:, tokens])
        state.mul_(whole[n]).baddbmm_(kt, u.mul_(suffix[n]))


def simple_gla(q, k, v, g, state, out, chunk):
    scale, heads = q.shape[-1] ** -0.5, q.shape[0]
    pairwise, prefix, suffix, whole = chunk_decays(g, chunk)
    pairwise *= scale
    prefix = prefix * scale
    rows = torch.empty_like(v[:, :chunk])
    a = torch.empty(heads, chunk, chunk, dtype=v.dtype)
    for n in range(q.shape[1] // chunk):
        tokens = slice(n * chunk, (n + 1) * chunk)
        qn, kt, vn = q[:, tokens], k[:, tokens].transpose(1, 2), v[:, tokens]
        torch.bmm(qn, kt, out=a)
        torch.bmm(qn, state, out=rows)
        torch.baddbmm(rows.mul_(prefix[n]), a.mul_(pairwise[n]), vn, out=out[:, tokens])
        state.mul_(whole[n]).baddbmm_(kt, torch.mul(vn, suffix[n], out=rows))


def gla(q, k, v, g, state, out, chunk):
    scale, heads = q.shape[-1] ** -0.5, q.shape[0]
    rows = torch.empty_like(v[:, :chunk])
    a = torch.empty(heads, chunk, chunk, dtype=v.dtype)
    for n in range(q.shape[1] // chunk):
        tokens = slice(n * chunk, (n + 1) * chunk)
        total = g[:, tokens].cumsum(1)
        prefix = total.exp()
        qn = (prefix * q[:, tokens]).mul_(scale)
        kt = total.neg_().exp_().mul_(k[:, tokens]).transpose(1, 2)
        vn = v[:, tokens]
        torch.bmm(qn, kt, out=a)
        torch.bmm(qn, state, out=rows)
        torch.baddbmm(rows, a.tril_(), vn, out=out[:, tokens])
        state.baddbmm_(kt, vn).mul_(prefix[:, -1].unsqueeze(-1))


def step(q, k, v, g, beta, state, out):
    """One token; the output follows from the old state, so two passes over it do."""
    decay = g.exp()
    decay = decay.unsqueeze(-1) if decay.dim() == 2 else decay.transpose(1, 2)
    read = torch.cat([q, k], 1)
    if g.dim() == 3:
        read *= g.exp()
    read = read @ state
    if g.dim() == 2:
        read *= decay
    w = v if beta is None else (v - read[:, 1:]).mul_(beta.unsqueeze(-1))
    score = (q * k).sum(-1, keepdim=True)
    torch.addcmul(read[:, :1], score, w, out=out).mul_(q.shape[-1] ** -0.5)
    state.mul_(decay).addcmul_(k.transpose(1, 2), w)


FORMS = {"gated_delta_rule": gated_delta_rule, "simple_gla": simple_gla, "gla": gla}


class Operator:
    """A problem's tensors, batch and heads merged; `run` is one call. A step carries the state."""

    def __init__(self, p, x, dtype=torch.float32):
        if p.mechanism not in FORMS:
            raise pr.Unsupported(f"no PyTorch form of {p.mechanism} here")
        self.chunks = [chunk for chunk in CHUNKS if p.T % chunk == 0] if p.mode == "causal" else [1]
        if not self.chunks:
            raise pr.Unsupported(f"T={p.T} is not a multiple of {min(CHUNKS)}")
        self.p, self.form = p, FORMS[p.mechanism]
        merged = {name: torch.from_numpy(array).to(dtype).flatten(0, 1) for name, array in x.items()}
        self.first = merged.pop("state")
        self.tensors = [merged[name] for name in ("q", "k", "v", "g", "beta") if name in merged]
        self.state, self.out = self.first.clone(), torch.empty_like(merged["v"])
        self.chunk = self.chunks[0]

    def run(self):
        if self.p.mode == "step":
            tensors = self.tensors if self.p.delta else [*self.tensors, None]
            step(*tensors, self.state, self.out)
        else:
            self.state.copy_(self.first)
            self.form(*self.tensors, self.state, self.out, self.chunk)

    def tune(self, rounds=4):
        """Takes the chunk length whose best time is least, the candidates timed in turn."""
        best = dict.fromkeys(self.chunks, float("inf"))
        for _ in range(rounds):
            for self.chunk in self.chunks:
                start = time.perf_counter()
                self.run()
                best[self.chunk] = min(best[self.chunk], time.perf_counter() - start)
        self.chunk = min(best, key=best.get)

    def result(self):
        p = self.p
        return self.out.view(p.B, p.H, p.T, p.E), self.state.view(p.B, p.H, p.D, p.E)


class Attention:
    """PyTorch's operator for exact attention; on a CPU its flash kernel."""

    def __init__(self, p, x, dtype=None):
        dtype = dtype or {"f32": torch.float32, "bf16": torch.bfloat16}[p.dtype]
        self.causal = p.mode == "causal"
        self.tensors = [torch.from_numpy(x[name]).to(dtype) for name in "qkv"]
        self.out = None

    def run(self):
        self.out = torch.nn.functional.scaled_dot_product_attention(*self.tensors, is_causal=self.causal)


def check():
    for mode in ("causal", "bidirectional"):
        for dtype, bound in ((torch.float32, 2e-5), (torch.bfloat16, 2e-2)):
            p = pr.parse(f"mechanism=softmax,mode={mode},B=2,H=2,D=32,E=32,T=100")
            x = pr.inputs(p, seed=1)
            operator = Attention(p, x, dtype)
            operator.run()
            results = [(operator.out.float().numpy(), pr.attention(p, x))]
            pr.assert_close(f"torch softmax {mode} {dtype}", results, bound)
    for mechanism in FORMS:
        for mode, tokens in (("causal", 256), ("step", 1)):
            p = pr.parse(f"mechanism={mechanism},mode={mode},B=2,H=2,D=32,E=48,T={tokens}")
            x = pr.inputs(p, seed=1)
            want = pr.token_loop(p, x)
            for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
                results = []
                operator = Operator(p, x, dtype)
                for operator.chunk in operator.chunks:
                    operator.state.copy_(operator.first)
                    operator.run()
                    results += [(got.clone().numpy(), right) for got, right in zip(operator.result(), want)]
                pr.assert_close(f"torch {mechanism} {mode} {dtype}", results, bound)


def bench(p, seconds):
    torch.set_num_threads(p.threads)
    if p.mechanism == "softmax":
        operator = Attention(p, pr.inputs(p))
        op = f"scaled_dot_product_attention {p.dtype}"
        pr.report("torch", f"torch {torch.__version__}", op, p, pr.measure(operator.run, seconds))
        return
    operator = Operator(p, pr.inputs(p))
    op = "step"
    if p.mode == "causal":
        operator.tune()
        op = f"chunked C={operator.chunk}"
    pr.report("torch", f"torch {torch.__version__}", op, p, pr.measure(operator.run, seconds))


if __name__ == "__main__":
    torch.set_num_threads(1)
    pr.main(__doc__, "torch", check, bench)
