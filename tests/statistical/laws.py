"""What the statistical tests share: one measurement per configuration, and bounds fixed beforehand.

The allowance for finite width was calibrated once on other seeds and by other code
(``benchmarks/finite_width.py``, docs/finite_width.md): the relative bias of a mean square gradient in layer l
is c/width, with c between -2 and 2 per layer from l to the output, whatever the width. It is granted in full.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

import empirical
import meanfield as mf
from tests.strategies import PAPER

# Two-sided 1e-6 for a normal statistic: thousands of rows are compared in one run of the suite.
STANDARD_ERRORS = 4.9
SEEDS = 64


def allowance(width: int, layers_above: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Relative O(1/width) bias granted to the theory, ``layers_above`` counting the layer itself."""
    return (1.0 + 2.0 * np.asarray(layers_above, dtype=np.float64)) / width


@lru_cache(maxsize=64)
def measured(
    placement: str, width: int, depth: int, tokens: int, first_seed: int, seeds: int = SEEDS
) -> empirical.Measurement:
    """Measure the paper's setting once per configuration, on one thread: small products gain nothing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        arch = PAPER[placement](width=width, depth=depth)
        return empirical.measure(arch, tokens=tokens, seeds=range(first_seed, first_seed + seeds))
    finally:
        torch.set_num_threads(threads)


def compared(
    theory: mf.Transformer,
    placement: str,
    width: int,
    depth: int,
    tokens: int,
    first_seed: int,
    seeds: int = SEEDS,
) -> pd.DataFrame:
    """Join a theory's parameters by layer, module and parameter with a measurement of ``placement``."""
    rows = ["layer", "module", "parameter"]
    predicted = mf.predict(theory, tokens=tokens).df[[*rows, "grad_sq"]]
    found = measured(placement, width, depth, tokens, first_seed, seeds).df
    return predicted.merge(found[[*rows, "grad_sq_hat", "grad_sq_hat_se"]], on=rows, validate="one_to_one")


def disagreeing(table: pd.DataFrame, width: int, depth: int, factor: float = 1.0) -> pd.DataFrame:
    """Rows in which ``factor`` times the theory misses the measurement by more than errors plus allowance."""
    above = np.clip(depth - table["layer"] + 1, 1, None)
    theory = factor * table["grad_sq"]
    bound = STANDARD_ERRORS * table["grad_sq_hat_se"] + allowance(width, above) * theory
    return table[(table["grad_sq_hat"] - theory).abs() > bound]
