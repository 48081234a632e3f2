"""Random numbers: the right law, a stream for every tensor, and no dependence on threads."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

import meanfield as mf
from empirical import build, draws
from empirical.draws import NamedParameter, draw
from empirical.names import named_parameters
from meanfield.ops import Draw, Law, ParameterKey

N = 200 * 300


def drawn(law: Draw, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    tensor = torch.empty(200, 300, dtype=dtype)
    draw([NamedParameter(ParameterKey(1, "ffn.up", "weight"), tensor, law)], seed)
    return tensor


def variance_fits(sample: torch.Tensor, law: Draw, variance: float) -> bool:
    """Whether the mean square lies inside the central 99.9 % of its law under the given variance."""
    mean_square = float(((sample.double() - float(law.mean)) ** 2).mean())
    if law.law == "normal":
        low, high = stats.chi2.interval(0.999, N) / np.array(N)
    else:  # the square of a uniform number has variance 4/5 of its mean squared
        low, high = stats.norm.interval(0.999, 1, (0.8 / N) ** 0.5)
    return bool(low < mean_square / variance < high)


@pytest.mark.statistical
@pytest.mark.parametrize("law", ["normal", "uniform"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_variance_is_that_of_the_law(law: Law, dtype: torch.dtype) -> None:
    wanted = Draw(Fraction(1, 300), law, mean=1)
    if dtype == torch.bfloat16:  # around a mean of 1 its grid is too coarse for the spread
        wanted = Draw(Fraction(1, 300), law)
    sample = drawn(wanted, dtype=dtype)
    assert variance_fits(sample, wanted, 1 / 300)
    assert not variance_fits(sample, wanted, 1.05 / 300)
    mean_error = abs(float(sample.double().mean()) - float(wanted.mean))
    assert mean_error < 4 * (1 / 300 / N) ** 0.5
    if law == "uniform":
        rounding = torch.finfo(dtype).eps * (1 + float(wanted.mean))
        assert float((sample - float(wanted.mean)).abs().max()) <= (3 / 300) ** 0.5 + rounding
        return
    assert stats.kurtosis(sample.double().numpy().ravel()) == pytest.approx(0, abs=4 * (24 / N) ** 0.5)


def test_variance_zero_is_constant() -> None:
    assert torch.equal(drawn(Draw(0, mean=Fraction(1, 2))), torch.full((200, 300), 0.5, dtype=torch.float64))


def test_every_tensor_and_seed_has_its_own_stream() -> None:
    model = build(mf.post_ln(width=16, depth=2, heads=2, d_ff=16), seed=3)
    square = [p.tensor.flatten() for p in named_parameters(model) if p.tensor.shape == (16, 16)]
    assert len(square) == 12
    correlation = np.corrcoef(torch.stack(square).detach().numpy()) - np.eye(12)
    assert np.abs(correlation).max() < 5 / 16  # five standard deviations of 256 independent pairs
    law = Draw(1)
    assert not torch.equal(drawn(law, seed=0), drawn(law, seed=1))
    assert torch.equal(drawn(law, seed=1), drawn(law, seed=1))


def test_draws_depend_neither_on_threads_nor_on_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    arch = mf.pre_ln(width=64, depth=2, heads=2, init="torch", vocab=7)
    assert any(p.numel() >= draws.WORTH_A_THREAD for p in build(arch).parameters())
    once = build(arch, seed=5)
    monkeypatch.setattr(draws, "THREADS", 1)
    again = build(arch, seed=6)
    draw(reversed(named_parameters(again)), 5)
    for ours, theirs in zip(once.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_bfloat16_rounds_the_float32_draw_and_float64_draws_its_own() -> None:
    law = Draw(1)
    single = drawn(law, dtype=torch.float32)
    assert torch.equal(drawn(law, dtype=torch.bfloat16), single.bfloat16())
    assert not torch.allclose(drawn(law).float(), single)
