"""How far finite width moves the mean square gradients: c = width * (measured/theory - 1), by width.

Dense Gaussian weights, batched over seeds, written apart from `empirical` so that the two check each other.
If c does not depend on the width the correction is O(1/width). Prints a table in Markdown; about 6 minutes on
one core.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import torch

import meanfield as mf

SEEDS = {32: 8000, 64: 4000, 128: 1500}
MODULES = ["attention.v", "ffn.up", "ffn.down"]


def _norm(x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / centred.square().mean(-1, keepdim=True).sqrt()


def squares(placement: str, width: int, depth: int, tokens: int, seeds: int) -> np.ndarray:
    """Return ||dL/dW||^2 of W_V, W_1, W_2 of every layer, one row per seed."""
    generator = torch.Generator().manual_seed(1)
    rows, done, block = [], 0, max(1, 20_000_000 // (3 * depth * width**2))
    while done < seeds:
        size = min(block, seeds - done)
        done += size
        weights = [
            (torch.randn(size, width, width, generator=generator) / math.sqrt(width)).requires_grad_()
            for _ in range(3 * depth)
        ]
        x = torch.randn(size, tokens, width, generator=generator)  # (seeds, tokens, width)
        r = torch.randn(size, tokens, width, generator=generator) / math.sqrt(width)
        for layer in range(depth):
            v, up, down = weights[3 * layer : 3 * layer + 3]
            if placement == "post_ln":
                x = _norm(x + (x @ v).mean(1, keepdim=True))
                x = _norm(x + (x @ up).relu() @ down)
            else:
                x = x + (_norm(x) @ v).mean(1, keepdim=True)
                x = x + (_norm(x) @ up).relu() @ down
        out = _norm(x) if placement == "pre_ln" else x
        ((out * r).sum() / tokens).backward()
        rows.append(
            torch.stack([w.grad.square().sum((1, 2)) for w in weights if w.grad is not None], 1).double()
        )
    return torch.cat(rows).numpy()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds-factor", type=float, default=1.0, help="scale every sample size")
    factor = parser.parse_args().seeds_factor
    torch.set_num_threads(1)
    widths = sorted(SEEDS)
    print("| placement | L | n | " + " | ".join(f"layer 1, d = {d}" for d in widths), end="")
    print(" | " + " | ".join(f"layer L, d = {d}" for d in widths) + " |")
    print("|---" * (3 + 2 * len(widths)) + "|")
    for placement, preset in (("post_ln", mf.paper_post_ln), ("pre_ln", mf.paper_pre_ln)):
        for depth in (1, 3, 6, 12):
            for tokens in (1, 4, 16):
                first, last = [], []
                for width in widths:
                    seeds = max(2, int(factor * SEEDS[width] / (2 if depth == 12 else 1)))
                    found = squares(placement, width, depth, tokens, seeds)
                    df = mf.predict(preset(width=width, depth=depth), tokens=tokens).df
                    theory = df[(df.parameter == "weight") & df.module.isin(MODULES)].grad_sq.to_numpy()
                    c = width * (found.mean(axis=0) / theory - 1)
                    se = width * found.std(axis=0, ddof=1) / math.sqrt(seeds) / theory
                    first.append(f"{c[0]:.1f}, {c[1]:.1f}, {c[2]:.1f} (± {se[:3].max():.1f})")
                    last.append(f"{c[-3]:.1f}, {c[-2]:.1f}, {c[-1]:.1f} (± {se[-3:].max():.1f})")
                print(f"| {placement} | {depth} | {tokens} | " + " | ".join(first + last) + " |", flush=True)


if __name__ == "__main__":
    main()
