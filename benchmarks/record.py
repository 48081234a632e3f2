"""What `empirical.record` costs: training steps of GPT-2's shape with and without it, in turn.

Two models of equal weights see the same batches in one process; one of them is recorded, and logged as lines
of JSON. The losses are asserted to be equal bit for bit before anything is said about time. Then the median
over pairs of steps of the ratio of their processor times. Exits with an AssertionError where it is 1.05 or
more. About three minutes on one core:

    OMP_NUM_THREADS=1 python benchmarks/record.py
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import nn

from empirical.recording import JsonLines, Logger, record

WIDTH, DEPTH, HEADS, BATCH, TOKENS = 512, 6, 8, 8, 64
VOCAB = 1024  # GPT-2's own 50,257 words would hide the cost of recording behind the head
LIMIT = 1.05
WARM = 2  # the first recorded step finds out which parts are points


class Model(nn.Module):
    """GPT-2's shape of torch's own layers, where transformers is not installed."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, 0.1, "gelu", batch_first=True, norm_first=True
        )
        self.stack = nn.TransformerEncoder(layer, DEPTH, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(TOKENS))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits of a tied head."""
        return self.stack(self.embedding(ids), self.mask, is_causal=True) @ self.embedding.weight.T


class HuggingFace(nn.Module):
    """GPT-2 of transformers."""

    def __init__(self) -> None:
        from transformers import GPT2Config, GPT2LMHeadModel  # an extra

        super().__init__()
        sizes = {"n_embd": WIDTH, "n_layer": DEPTH, "n_head": HEADS, "n_positions": TOKENS}
        ends = {"bos_token_id": None, "eos_token_id": None}
        self.model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, **sizes, **ends))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits of a tied head."""
        return self.model(ids).logits


def built() -> nn.Module:
    """Build the model, the same each time."""
    torch.manual_seed(0)
    try:
        return HuggingFace()
    except ImportError:
        return Model()


def steps(model: nn.Module) -> Callable[[int], tuple[float, torch.Tensor]]:
    """Make a training step that is timed: forward, backward, clipping, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step(number: int) -> tuple[float, torch.Tensor]:
        torch.manual_seed(number)  # the same batch and the same dropout for both
        ids = torch.randint(0, VOCAB, (BATCH, TOKENS))
        start = time.process_time()
        optimizer.zero_grad()
        logits = model(ids)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return time.process_time() - start, loss.detach()

    return step


def compared(pairs: int, logger: Logger, parameters: bool) -> tuple[list[float], list[float], int]:
    """Time steps without and with recording, in turn; assert that the losses are equal."""
    plain_model, recorded_model = built(), built()
    plain, recorded = steps(plain_model), steps(recorded_model)
    times: tuple[list[float], list[float]] = ([], [])
    with record(recorded_model, logger=logger, parameters=parameters) as recorder:
        for number in range(WARM + pairs):
            order = (plain, recorded) if number % 2 else (recorded, plain)  # neither is always first
            found = {step: step(number) for step in order}
            assert torch.equal(found[plain][1], found[recorded][1]), f"losses differ at step {number}"
            if number >= WARM:
                times[0].append(found[plain][0])
                times[1].append(found[recorded][0])
        points = len(recorder.points)
    for p, q in zip(plain_model.parameters(), recorded_model.parameters(), strict=True):
        assert torch.equal(p, q), "recording changed a parameter"
    return *times, points


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=30, help="pairs of steps")
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    print(f"{type(built()).__name__}: d = {WIDTH}, {DEPTH} layers, {BATCH} x {TOKENS} tokens, {pairs} pairs")
    print("| recorded | points | ms per step, median | with recording | median ratio | ratio of minima |")
    print("|---|---|---|---|---|---|")
    ratios = []
    for parameters in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            plain, recorded, points = compared(pairs, JsonLines(Path(folder) / "run.jsonl"), parameters)
        before, after = statistics.median(plain), statistics.median(recorded)
        ratios.append(statistics.median(b / a for a, b in zip(plain, recorded, strict=True)))
        what = "points and parameters" if parameters else "points"
        print(
            f"| {what} | {points} | {1e3 * before:.0f} | {1e3 * after:.0f} | {ratios[-1]:.3f} | "
            f"{min(recorded) / min(plain):.3f} |",
            flush=True,
        )
    assert max(ratios) < LIMIT, f"recording costs {max(ratios) - 1:.1%} of a step: {LIMIT - 1:.0%} is allowed"


if __name__ == "__main__":
    main()
