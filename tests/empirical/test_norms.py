"""Token norms against the measure's means; the norm's Jacobian against Lemma 3 and finite differences."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)

import meanfield as mf
from empirical import measure, norm_jacobian, token_norms
from empirical.setting import KEYS
from meanfield.errors import InputError
from meanfield.ops import Norm
from meanfield.random import stream


def test_token_norms_average_to_the_second_moments() -> None:
    arch = mf.post_ln(width=16, depth=2, heads=2, init="torch")
    options: dict[str, Any] = {"tokens": 3, "batch": 2, "seeds": [4, 9], "dtype": "float64"}
    table = token_norms(arch, **options)
    assert set(KEYS) <= set(table.columns)
    assert len(table) == 2 * 6 * (1 + 2 * 6)
    means = table.groupby(["layer", "module"], sort=False)["q_hat"].mean()
    expected = measure(arch, **options).activations.set_index(["layer", "module"])["q_hat"]
    assert list(means.index) == list(expected.index)
    assert np.allclose(means, expected, rtol=1e-6)
    first = table[(table.seed == 9) & (table.module == "input")]["q_hat"]
    x = stream(9, "input0").standard_normal((6, 16))
    assert list(table[(table.seed == 9) & (table.module == "input")]["token"]) == list(range(6))
    assert np.allclose(first, np.mean(x**2, axis=1), rtol=1e-6)


@pytest.mark.parametrize("width", [3, 64])
def test_layernorm_jacobian_is_lemma_3(width: int) -> None:
    table = norm_jacobian(Norm("norm1", width, eps=0.0), radii=[0.5, 8.0, 1e3], seeds=range(3))
    exact = width**0.5 / table["centred_norm"]
    assert np.allclose(table["spectral_norm"], exact, rtol=1e-9)
    assert not np.allclose(table["spectral_norm"], width**0.5 / table["radius"], rtol=1e-6)  # not centred
    assert not np.allclose(table["spectral_norm"], 1.05 * exact, rtol=1e-2)
    assert (table["centred_norm"] < table["radius"]).all()


def test_jacobian_is_that_of_torch_by_finite_differences() -> None:
    table = norm_jacobian(Norm("norm1", 5, eps=0.1), radii=[1.5], seeds=[2])
    direction = torch.from_numpy(stream(2, "direction").standard_normal(5))
    x, step = 1.5 * direction / direction.norm(), 1e-6
    shifted = [[F.layer_norm(x + sign * step * e, (5,), eps=0.1) for sign in (1, -1)] for e in torch.eye(5)]
    jacobian = torch.stack([(above - below) / (2 * step) for above, below in shifted])
    assert float(torch.linalg.matrix_norm(jacobian, ord=2)) == pytest.approx(table.spectral_norm[0], rel=1e-7)


def test_rmsnorm_is_not_centred() -> None:
    table = norm_jacobian(Norm("norm1", 16, "rmsnorm", eps=0.0), radii=[2.0, 4.0], seeds=range(2))
    assert np.allclose(table["spectral_norm"], 4 / table["radius"], rtol=1e-12)


@pytest.mark.parametrize("mean_share", [0.0, 0.5, 0.9999])
def test_mean_share_is_the_part_that_centring_removes(mean_share: float) -> None:
    options: dict[str, Any] = {"radii": [0.5, 30.0], "mean_share": mean_share, "seeds": range(2)}
    table = norm_jacobian(Norm("norm1", 16, eps=0.0), **options)
    left = (table["centred_norm"] / table["radius"]) ** 2
    assert np.allclose(left, 1 - mean_share, rtol=1e-9)
    assert not np.allclose(left, 0.95 * (1 - mean_share), rtol=1e-2)
    # RMSNorm's Jacobian sees all of ||x||: the mean and the rest add up to the radius.
    assert np.allclose(table["spectral_norm"], 4 / table["radius"] * (1 - mean_share) ** -0.5, rtol=1e-9)
    rms = norm_jacobian(Norm("norm1", 16, "rmsnorm", eps=0.0), **options)
    assert np.allclose(rms["spectral_norm"], 4 / rms["radius"], rtol=1e-9)


def test_bad_input_is_refused() -> None:
    norm = Norm("norm1", 8)
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(InputError, match=rf"mean_share={share} is no share"):
            norm_jacobian(norm, radii=[1], mean_share=share)
    with pytest.raises(InputError, match="needs width 2 or more"):
        norm_jacobian(Norm("norm1", 1), radii=[1], mean_share=0.5)
    with pytest.raises(InputError, match=r"radius=0.0 is not a length"):
        norm_jacobian(norm, radii=[0])
    with pytest.raises(InputError, match=r"dtype='bfloat16' has no singular values"):
        norm_jacobian(norm, radii=[1], dtype="bfloat16")
    with pytest.raises(InputError, match="seeds is empty"):
        token_norms(mf.paper_post_ln(width=8, depth=1), seeds=[])
