"""Frobenius norms of large tensors in single precision."""

from __future__ import annotations

import torch

from empirical.frobenius import frobenius_norms, norm_by_rows


def test_large_tensors_lose_nothing_in_single_precision() -> None:
    x = torch.randn(20_000, 512, generator=torch.Generator().manual_seed(0))
    exact = float(torch.linalg.vector_norm(x, dtype=torch.float64))
    assert abs(float(frobenius_norms([x])[0]) / exact - 1) < 2e-6
    # The control: all entries one after another.
    assert abs(float(torch.linalg.vector_norm(x, dtype=torch.float32)) / exact - 1) > 1e-5


def test_vectors_and_numbers() -> None:
    assert float(norm_by_rows(torch.tensor([3.0, 4.0]), torch.float32)) == 5
    assert float(norm_by_rows(torch.tensor(-2.0), torch.float32)) == 2
