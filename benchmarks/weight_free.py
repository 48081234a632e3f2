"""The weight-free sampler against dense weights: is it one law, and what does a seed cost?

Dense Gaussian weights, batched over seeds and differentiated by torch, written apart from `empirical` and
from the sampler. For every parameter: the ratio of the two means, and Kolmogorov and Smirnov's p; beside them
the same for two dense samples. Exits with 1 where the sampler is rejected at level 0.001 over all
comparisons. Then the processor time of one seed at width 512, beside that of its random numbers alone. About
4 minutes on one core.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from scipy import stats

import meanfield as mf
from meanfield.ops import ParameterKey
from meanfield.weight_free import Backend, sample

WIDTH, HEADS, D_FF, DEPTH, TOKENS = 32, 4, 48, 2, 6
LEVEL = 1e-3
CASES = {
    "post_ln": (mf.post_ln, {"activation": "gelu"}),
    "pre_ln, causal, gated": (mf.pre_ln, {"activation": "swiglu", "causal": True}),
}
Sample = dict[ParameterKey, np.ndarray]


class Dense:
    """A stack of Transformer layers with weights of its own for every seed of a block."""

    def __init__(self, seeds: int, generator: torch.Generator, causal: bool, gated: bool) -> None:
        self.seeds, self.generator, self.causal, self.gated = seeds, generator, causal, gated
        self.parameters: dict[ParameterKey, torch.Tensor] = {}

    def linear(self, layer: int, module: str, x: torch.Tensor, d_out: int) -> torch.Tensor:
        """Apply a fresh map of variance 2/(d_in + d_out), with a bias of zeros."""
        weight = torch.randn(self.seeds, x.shape[-1], d_out, generator=self.generator)
        weight *= math.sqrt(2 / (x.shape[-1] + d_out))
        bias = torch.zeros(self.seeds, 1, d_out)
        self.parameters[ParameterKey(layer, module, "weight")] = weight.requires_grad_()
        self.parameters[ParameterKey(layer, module, "bias")] = bias.requires_grad_()
        return x @ weight + bias

    def norm(self, layer: int, module: str, x: torch.Tensor) -> torch.Tensor:
        """LayerNorm with gain 1 and shift 0."""
        gain, shift = torch.ones(self.seeds, 1, WIDTH), torch.zeros(self.seeds, 1, WIDTH)
        self.parameters[ParameterKey(layer, module, "weight")] = gain.requires_grad_()
        self.parameters[ParameterKey(layer, module, "bias")] = shift.requires_grad_()
        return F.layer_norm(x, (WIDTH,)) * gain + shift

    def attention(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """Multi-head softmax attention."""
        q, k, v = (
            self
            .linear(layer, f"attention.{name}", x, WIDTH)
            .reshape(self.seeds, TOKENS, HEADS, -1)
            .transpose(1, 2)
            for name in ("q", "k", "v")
        )  # each (seeds, heads, tokens, head size)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.linear(layer, "attention.o", y.transpose(1, 2).flatten(2), WIDTH)

    def feed_forward(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """GELU network, or SwiGLU."""
        up = self.linear(layer, "ffn.up", x, D_FF)
        y = F.silu(self.linear(layer, "ffn.gate", x, D_FF)) * up if self.gated else F.gelu(up)
        return self.linear(layer, "ffn.down", y, WIDTH)

    def squares(self, pre: bool) -> Iterator[tuple[ParameterKey, np.ndarray]]:
        """Yield ||dL/dtheta||^2 of every parameter, one per seed."""
        x = torch.randn(self.seeds, TOKENS, WIDTH, generator=self.generator)
        for layer in range(1, DEPTH + 1):
            for k, branch in enumerate((self.attention, self.feed_forward), start=1):
                if pre:
                    x = x + branch(layer, self.norm(layer, f"norm{k}", x))
                else:
                    x = self.norm(layer, f"norm{k}", x + branch(layer, x))
        x = self.norm(DEPTH + 1, "final_norm", x) if pre else x
        probe = torch.randn(x.shape, generator=self.generator) / math.sqrt(WIDTH)
        gradients = torch.autograd.grad((x * probe).sum() / TOKENS, list(self.parameters.values()))
        for key, g in zip(self.parameters, gradients, strict=True):
            yield key, g.double().square().sum((1, 2)).numpy()


def dense(name: str, seeds: int, first: int) -> Sample:
    """Sample with dense weights."""
    preset, options = CASES[name]
    generator = torch.Generator().manual_seed(first)
    blocks = [
        dict(
            Dense(
                min(512, seeds - start), generator, "causal" in options, options["activation"] == "swiglu"
            ).squares(preset is mf.pre_ln)
        )
        for start in range(0, seeds, 512)
    ]
    return {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}


def compared(a: Sample, b: Sample) -> dict[ParameterKey, tuple[float, float, float]]:
    """For every parameter: ratio of means, its distance from 1 in standard errors, p of the laws."""
    found = {}
    largest = max(values.mean() for values in b.values())
    for key, values in b.items():
        if values.max() > 1e-9 * largest:  # the gradient of a key's bias is zero but for rounding
            z = (a[key].mean() - values.mean()) / math.hypot(stats.sem(a[key]), stats.sem(values))
            p = float(stats.ks_2samp(a[key], values).pvalue)
            found[key] = (float(a[key].mean() / values.mean()), float(z), p)
    return found


def rejected(found: dict[ParameterKey, tuple[float, float, float]]) -> list[ParameterKey]:
    """Parameters that differ at the level, shared out over all comparisons."""
    level = LEVEL / (2 * len(found))
    return [key for key, (_, z, p) in found.items() if abs(z) > stats.norm.isf(level / 2) or p < level]


def law(name: str, seeds: int) -> list[ParameterKey]:
    """Print the comparison of one case; return what is rejected."""
    preset, options = CASES[name]
    arch: Any = preset(width=WIDTH, depth=DEPTH, heads=HEADS, d_ff=D_FF, init="xavier_normal", **options)
    truth = dense(name, seeds, 1)
    ours = compared(sample(arch, tokens=TOKENS, seeds=range(seeds)), truth)
    control = compared(dense(name, seeds, 2), truth)
    wrong = compared({key: 1.05 * values for key, values in dense(name, seeds, 3).items()}, truth)
    print(f"\n{name}: {seeds} seeds, {len(ours)} parameters")
    print("| | mean ratio - 1, largest | standard errors, largest | p of KS, smallest | median | rejected |")
    print("|---|---|---|---|---|---|")
    for title, found in (("weight-free", ours), ("dense again", control), ("5 % wrong", wrong)):
        ratio, z, p = np.array(list(found.values())).T
        print(
            f"| {title} | {np.abs(ratio - 1).max():.2%} | {np.abs(z).max():.1f} | {p.min():.1e} | "
            f"{np.median(p):.2f} | {len(rejected(found))} |",
            flush=True,
        )
    assert rejected(wrong), "the comparison does not see a sample that is 5 % wrong"
    return rejected(ours)


def _fastest(call: Callable[[int], Any], times: int = 9) -> float:
    spent = []
    for seed in range(times):
        start = time.process_time()
        call(seed)
        spent.append(time.process_time() - start)
    return min(spent[1:])


def _draw(backend: Backend, numbers: int, seed: int) -> None:
    backend.normal(backend.streams([seed]), (numbers,))


def speed() -> None:
    """Print the time of one seed at width 512, 6 layers, 8 heads, 64 tokens, and of its random numbers."""
    arch = mf.pre_ln(width=512, depth=6, heads=8, d_ff=2048)
    numbers = 6 * 64 * (3 * 512 + 512 + 2048 + 512 + 3 * 512 + 2048)
    print("\n| dtype | ms per seed | random numbers alone | ratio |\n|---|---|---|---|")
    for dtype in ("float32", "float64"):
        backend = Backend(dtype)
        alone = _fastest(partial(_draw, backend, numbers))
        whole = _fastest(lambda seed, b=backend: sample(arch, tokens=64, seeds=[seed], backend=b))
        print(f"| {dtype} | {1e3 * whole:.0f} | {1e3 * alone:.0f} | {whole / alone:.1f} |")


def main() -> None:
    """Compare, then time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=24_576, help="seeds of every sample")
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    wrong = {name: law(name, seeds) for name in CASES}
    speed()
    if any(wrong.values()):
        sys.exit(f"rejected: {wrong}")


if __name__ == "__main__":
    main()
