"""The three-number recursion against a T x T one written out in matrices, token by token."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

import meanfield as mf

Matrix = npt.NDArray[np.float64]


def _relu_dual(K: Matrix) -> tuple[Matrix, Matrix]:
    s = np.sqrt(np.diag(K))
    angle = np.arccos(np.clip(K / np.outer(s, s), -1, 1))
    forward = np.outer(s, s) * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    return forward, (np.pi - angle) / (2 * np.pi)


def _dense(placement: str, d: int, depth: int, n: int, batch: int) -> dict[tuple[int, str], float]:
    """W_V, W_1, W_2 and norm gains by explicit matrices; no exchangeability used."""
    total = n * batch
    P = np.kron(np.eye(batch), np.full((n, n), 1 / n))
    Q = np.eye(total)
    saved = []
    for _ in range(depth):
        if placement == "post_ln":
            Q2 = Q + P @ Q @ P
            Q3 = Q2 / np.diag(Q2)[0]
            H, dH = _relu_dual(Q3)
            Q5 = Q3 + H
            saved.append((Q, Q2, Q3, H, dH, Q5))
            Q = Q5 / np.diag(Q5)[0]
        else:
            N1 = Q / np.diag(Q)[0]
            Q2 = Q + P @ N1 @ P
            N2 = Q2 / np.diag(Q2)[0]
            H, dH = _relu_dual(N2)
            saved.append((Q, Q2, N2, H, dH, Q2 + H))
            Q = Q2 + H
    G = np.eye(total) / total**2
    grads: dict[tuple[int, str], float] = {}
    if placement == "pre_ln":
        grads[depth + 1, "final_norm"] = float(np.sum(G * Q / np.diag(Q)[0]))
        G = G / np.diag(Q)[0]
    for layer in range(depth, 0, -1):
        Q0, Q2, N, H, dH, Q5 = saved[layer - 1]
        if placement == "post_ln":
            grads[layer, "norm2"] = float(np.sum(G * Q5 / np.diag(Q5)[0]))
            G = G / np.diag(Q5)[0]
        grads[layer, "ffn.down"] = d * float(np.sum(H * G))
        U = dH * G
        grads[layer, "ffn.up"] = d * float(np.sum(N * U))
        if placement == "post_ln":
            G = G + U
            grads[layer, "norm1"] = float(np.sum(G * N))
            G = G / np.diag(Q2)[0]
            M = P @ G @ P
            grads[layer, "attention.v"] = d * float(np.sum(Q0 * M))
            G = G + M
        else:
            grads[layer, "norm2"] = float(np.sum(U * N))
            G = G + U / np.diag(Q2)[0]
            M = P @ G @ P
            s = np.diag(Q0)[0]
            grads[layer, "attention.v"] = d * float(np.sum(Q0 / s * M))
            grads[layer, "norm1"] = float(np.sum(M * Q0 / s))
            G = G + M / s
    return grads


@pytest.mark.parametrize("placement", ["post_ln", "pre_ln"])
@pytest.mark.parametrize(("n", "batch"), [(1, 1), (1, 4), (5, 1), (4, 3)])
def test_three_numbers_equal_the_matrices(placement: str, n: int, batch: int) -> None:
    arch = getattr(mf, f"paper_{placement}")(width=24, depth=5)
    df = mf.predict(arch, tokens=n, batch=batch).df
    weights = df[df.parameter == "weight"]
    theory = dict(zip(zip(weights.layer, weights.module, strict=True), weights.grad_sq, strict=True))
    dense = _dense(placement, 24, 5, n, batch)
    assert theory.keys() == dense.keys()
    for key, value in dense.items():
        assert math.isclose(theory[key], value, rel_tol=1e-12), key
    wrong = {key: 1.05 * value for key, value in dense.items()}
    assert not any(math.isclose(theory[key], value, rel_tol=1e-3) for key, value in wrong.items())


def test_swapped_placements_differ() -> None:
    assert _dense("post_ln", 8, 3, 4, 1)[1, "ffn.down"] != pytest.approx(
        _dense("pre_ln", 8, 3, 4, 1)[1, "ffn.down"], rel=0.05
    )
