"""A tiny preset, and everything that the command makes of it, once for all tests."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from figures.__main__ import main
from figures.presets import PRESETS, Sizes
from meanfield import paper_encoder_decoder
from meanfield.claims import derive

TINY = Sizes(
    tokens=4,
    width=16,
    depths=(2, 3),
    seeds=6,
    sweep_width=16,
    sweep_depths=(2, 3, 16),
    widths=(8, 16),
    sweep_seeds=5,
    tail_seeds=4,
    norm_width=8,
    norm_seeds=2,
    model_seeds=2,
    model_batch=2,
    model_minibatches=2,
)


class Run(NamedTuple):
    """What one run of the command left."""

    out: Path
    status: int
    report: dict[str, Any]
    stderr: str


@pytest.fixture(scope="session")
def tiny() -> Iterator[None]:
    """Make ``--preset tiny`` known, with a small encoder-decoder, and derive every claim only once."""
    small = functools.partial(paper_encoder_decoder, width=16, depth=2, d_ff=32, vocab=50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", TINY)
        patch.setattr("figures.presets.paper_encoder_decoder", small)
        patch.setattr("figures.verdicts.derive", functools.cache(derive))
        yield


@pytest.fixture(scope="session")
def tiny_run(tiny: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run everything at the tiny preset."""
    out = tmp_path_factory.mktemp("figures")
    stdout, stderr = StringIO(), StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        status = main(["--preset", "tiny", "--device", "cpu", "--out", str(out), "--json"])
    return Run(out, status, json.loads(stdout.getvalue()), stderr.getvalue())
