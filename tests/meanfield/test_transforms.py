"""Numbers made of random bits, against their formulas in double precision."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from meanfield import transforms
from meanfield.errors import InputError
from meanfield.random import BLOCK, SCRATCH, Bits, fill_normal, fill_uniform, stream
from meanfield.transforms import box_muller, odd_integers

ROUNDING = 1e-6  # eight units of the last place, of the radius


def exact(words: NDArray[np.uint32], numbers: int, block: int, turned: float = 0.0) -> NDArray[np.float64]:
    """The normals of one row, and their radii, of the same rounded x = (j + 1/2) / 2^32."""
    normals, radii = [], []
    for start in range(0, len(words), block):
        j, k = np.split(words[start : start + block], 2)
        x = j.astype(np.float32) * np.float32(2**-32) + np.float32(2**-33)
        radius = np.sqrt(-2 * np.log(x.astype(np.float64)))
        angle = 2 * np.pi * (k / 2**32 + turned)
        normals += [radius * np.cos(angle), radius * np.sin(angle)]
        radii += [radius, radius]
    return np.stack([np.concatenate(normals), np.concatenate(radii)])[:, :numbers]


def worst(found: NDArray[np.float32], expected: NDArray[np.float64]) -> float:
    normals, radii = expected
    return float((np.abs(found - normals) / np.maximum(radii, 1e-12)).max())


@pytest.mark.parametrize("numbers", [2, 7, 64, 129, 1000])
def test_box_muller_is_its_formula(numbers: int) -> None:
    words = np.random.default_rng(numbers).integers(2**32, size=(3, numbers + numbers % 2), dtype=np.uint32)
    out = np.full((3, numbers), np.nan, np.float32)
    box_muller(words, out, 1.0, block=64)
    for row, found in zip(words, out, strict=True):
        assert worst(found, exact(row, numbers, 64)) < ROUNDING
        assert worst(found, exact(row, numbers, 64, turned=1e-6)) > ROUNDING
    scaled = np.empty_like(out)
    box_muller(words, scaled, 3.0, block=64)
    assert np.allclose(scaled, 3 * out, rtol=1e-6)


def test_box_muller_at_the_ends_of_its_ranges() -> None:
    octants = np.arange(8, dtype=np.int64) * 2**29
    angles = np.concatenate([octants - 1, octants, octants + 1]) % 2**32
    root = 2**32 * 0.5**0.5  # where the exponent that is split off changes
    radii = [0, 1, 2**31 - 1, 2**31, int(root) - 200, int(root) + 200, 2**32 - 300, 2**32 - 1]
    pairs = np.array([(j, k) for j in radii for k in angles], np.uint32)
    words = pairs.T.reshape(1, -1).copy()
    out = np.empty(words.shape, np.float32)
    box_muller(words, out, 1.0, block=words.size)
    assert np.isfinite(out).all()
    assert worst(out[0], exact(words[0], words.size, words.size)) < ROUNDING


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("numbers", [1 << 10, BLOCK + 6, 2 * SCRATCH + BLOCK + 2])
def test_rows_of_normals_are_those_of_their_streams_in_any_company(rows: int, numbers: int) -> None:
    out = np.empty((rows, numbers), np.float32)
    fill_normal([stream(seed, "w") for seed in range(rows)], out)
    for seed, row in enumerate(out):
        words = np.empty((numbers + 1) // 2, np.uint64)
        Bits(seed, "w").fill(words)
        assert worst(row, exact(words.view(np.uint32), numbers, BLOCK)) < ROUNDING


@pytest.mark.parametrize("numbers", [1, 6, 100, 4 * SCRATCH + 10])
def test_rows_of_uniform_numbers_are_those_of_their_bits(numbers: int) -> None:
    out = np.empty((3, numbers), np.float32)
    fill_uniform([4, 0, 7], "w", out, deviation=2.0)
    for seed, row in zip([4, 0, 7], out, strict=True):
        words = np.empty((numbers + 3) // 4, np.uint64)
        Bits(seed, "w").fill(words)
        integers = words.view(np.int16)[:numbers].astype(np.int64)
        odd = 2 * (integers // 2) + 1  # from 1 - 2^15 to 2^15 - 1
        assert np.allclose(row, 2 * odd * (3 / (2**30 - 1)) ** 0.5, rtol=1e-6, atol=0)


@pytest.mark.statistical
def test_normals_have_their_law() -> None:
    """Of 2^22 numbers Kolmogorov's test sees a deviation that is 0.5 % wrong; z and z' are unrelated."""
    out = np.empty((1, 1 << 22), np.float32)
    fill_normal([stream(0, "law")], out)
    assert stats.kstest(out[0], "norm").pvalue > 1e-3
    assert stats.kstest(1.005 * out[0], "norm").pvalue < 1e-3
    pairs = out[0].astype(np.float64).reshape(-1, 2, BLOCK // 2)
    for f in (lambda z: z, np.square, np.abs):
        a, b = f(pairs[:, 0]).ravel(), f(pairs[:, 1]).ravel()
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / len(a) ** 0.5


def test_odd_integers_are_laid_out_where_they_are_asked_for() -> None:
    integers = np.random.default_rng(0).integers(-(2**15), 2**15, (2, 5, 4), dtype=np.int16)
    out = np.zeros((2, 3, 9), np.float32)
    odd_integers(integers, out, 0.25, row=2, column=3)
    assert np.array_equal(out[:, :, 3:7], 0.25 * (integers[:, 2:] | 1))
    assert not out[:, :, :3].any()
    assert not out[:, :, 7:].any()
    odd_integers(integers, out, 1.0, column=7)  # the last two columns have no room
    assert np.array_equal(out[:, :, 7:], integers[:, :3, :2] | 1)


@pytest.mark.parametrize(
    ("words", "out", "block"),
    [((2, 4), (3, 4), 2), ((1, 4), (1, 6), 2), ((1, 6), (1, 4), 2), ((1, 4), (1, 4), 3)],
)
def test_a_transform_that_would_leave_its_arrays_is_refused(
    words: tuple[int, int], out: tuple[int, int], block: int
) -> None:
    with pytest.raises(InputError, match=r"words .* do not make numbers"):
        box_muller(np.zeros(words, np.uint32), np.zeros(out, np.float32), 1.0, block)


@pytest.mark.parametrize(
    ("seeds", "row", "column"), [(3, 0, 0), (2, 3, 0), (2, -1, 0), (2, 0, 6), (2, 0, -1)]
)
def test_a_layout_that_would_leave_its_arrays_is_refused(seeds: int, row: int, column: int) -> None:
    with pytest.raises(InputError, match=r"integers .* do not fill numbers"):
        odd_integers(
            np.zeros((2, 5, 4), np.int16), np.zeros((seeds, 3, 5), np.float32), 1.0, row=row, column=column
        )


def test_every_row_has_its_stream() -> None:
    out = np.zeros((2, 1 << 10), np.float32)
    for generators in ([stream(0, "w")], [stream(seed, "w") for seed in range(3)]):
        with pytest.raises(ValueError, match=r"zip\(\)"):
            fill_normal(generators, out)
    with pytest.raises(ValueError, match=r"zip\(\)"):
        fill_uniform([0, 1, 2], "w", out)


def test_loops_are_compiled_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, asked = numba.njit, []

    def njit(signature: str, *, cache: bool = False, **options: Any) -> Any:
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compiler(signature, **options)

    monkeypatch.setattr(numba, "njit", njit)

    def doubled(x: Any) -> None:
        x *= 2

    x = np.ones(3, np.float32)
    transforms._compiled("void(float32[::1])")(doubled)(x)
    assert asked == [True, False]
    assert x.tolist() == [2.0, 2.0, 2.0]
