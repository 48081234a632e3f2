"""The ways of a device, without one: torch draws on the host, or arrays that have shapes and no numbers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import empirical
import meanfield as mf
from empirical import passes
from empirical.backend import TorchBackend
from empirical.device import device_products, stored, torch_dtype
from empirical.host import fast
from empirical.passes import Pass
from empirical.setting import Setting, conditions
from meanfield import ops
from meanfield.errors import InputError
from meanfield.weight_free import sample
from meanfield.weight_free.matrices import WeightFree
from meanfield.weight_free.room import numbers_kept
from meanfield.weight_free.run import Feed
from tests.empirical.device_modes import Arrived, Live, NeverWaits, Remote, Shapes, WaitError
from tests.meanfield.test_weight_free import CASES, SMALL, SOURCE_PADDED

sampler = sys.modules[sample.__module__]  # the package has the function by this name
BY = ["seed", "layer", "module", "parameter"]


WAYS_TO_LOOK: dict[str, Callable[[torch.Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "truth": lambda x: bool((x > 0).all()),
    "nonzero": torch.nonzero,
    "mask": lambda x: x[x > 0],
    "inverse": torch.linalg.inv,
    "equal": lambda x: torch.equal(x, x),
}


@pytest.mark.parametrize("look", WAYS_TO_LOOK)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_looks_are_refused(look: str, device: str) -> None:
    x = torch.ones(2, 3, 3, device=device)
    with NeverWaits(device), pytest.raises((WaitError, RuntimeError)):
        WAYS_TO_LOOK[look](x)


def test_copies_that_wait_are_refused() -> None:
    with NeverWaits():
        torch.ones(3).to("meta", non_blocking=True)
        with pytest.raises(WaitError, match="to the device"):
            torch.ones(3).to("meta")
        with pytest.raises(WaitError, match="to the host"):
            torch.empty_like(torch.ones(3, device="meta"), device="cpu")


def settings(name: str) -> tuple[Any, dict[str, Any]]:
    arch, how = CASES[name]
    given: dict[str, Any] = {"tokens": 3, "batch": 2, "loss": how.get("loss", "linear")}
    if given["loss"] == "cross_entropy":
        given["label_smoothing"] = how.get("smoothing", 0.0)
    padding = how.get("padding")
    if isinstance(arch, ops.EncoderDecoder):
        given["source_tokens"] = 4
        padding = None if padding is None else (SOURCE_PADDED, padding)
    return arch, {**given, "padding": padding}


@pytest.mark.parametrize("name", CASES)
def test_nobody_waits_in_a_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "TorchBackend", Shapes)
    arch, how = settings(name)
    with NeverWaits() as mode, pytest.raises(Arrived, match=r"\(5, "):
        sample(arch, seeds=range(5), backend=Shapes(), **how)
    assert mode.calls > 100
    padding = how.pop("padding")
    setting = Setting(**how)
    run = Pass(arch, setting, conditions(arch, setting, padding=padding))
    with NeverWaits() as mode, pytest.raises(Arrived, match=r"\(5, "):
        run(list(range(5)))
    assert mode.calls > 100


@pytest.mark.parametrize("tokens", [1, 8, 9, 20])
def test_nobody_waits_where_tokens_are_many(tokens: int) -> None:
    for where in (Shapes(), Shapes("float64")):
        with NeverWaits(), pytest.raises(Arrived):
            sample(mf.pre_ln(**SMALL), tokens=tokens, seeds=range(5), backend=where)


def test_a_look_in_a_pass_is_seen() -> None:
    where = Shapes()
    where.looks = True
    with NeverWaits(), pytest.raises((WaitError, RuntimeError), match=r"_local_scalar|item\(\)"):
        sample(mf.pre_ln(**SMALL), tokens=3, seeds=range(5), backend=where)


def test_nobody_waits_on_the_host_in_the_ways_of_a_device() -> None:
    """The same with numbers: only the copy to the host, outside of the mode, ends the pass."""
    where = Remote("float32")
    run = WeightFree(where, 4, 1, Feed(3), streams=where.streams(range(4)), looks=False)
    data = sampler.Data(sampler.Loss("linear"), [run.feed], None)
    with NeverWaits("cpu") as mode:
        sampler.squares(mf.post_ln(**SMALL), data, run)
    assert mode.calls > 100
    assert all(bool(torch.isfinite(values).all()) for values in run.squares.values())


REPEATED = np.array([[3, 3, 1], [2, 1, 2]])
DOUBTFUL: dict[str, tuple[Any, dict[str, Any]]] = {
    "repeated ids": (mf.pre_ln(**SMALL, vocab=9), {"ids": REPEATED}),
    "random ids, tied": (mf.post_ln(**SMALL, vocab=5, tied=True), {"loss": "cross_entropy"}),
    "uniform attention": (mf.post_ln(**SMALL, attention="uniform"), {}),
    "rank 1": (mf.pre_ln(**SMALL), {"gram": np.ones((6, 6))}),
    "encoder-decoder": (
        mf.encoder_decoder(**SMALL, vocab=5, shared_embedding=True), {"source_tokens": 2}
    ),
}  # fmt: skip


def marked(arch: Any, where: Remote, monkeypatch: pytest.MonkeyPatch, **how: Any) -> list[list[bool]]:
    """Sample, and say which seeds each pass has marked."""
    runs: list[WeightFree] = []
    right = sampler.squares

    def noted(arch: Any, data: Any, run: WeightFree) -> None:
        runs.append(run)
        right(arch, data, run)

    monkeypatch.setattr(sampler, "squares", noted)
    sample(arch, backend=where, **how)
    monkeypatch.setattr(sampler, "squares", right)
    return [[] if run.doubtful is None else run.doubtful.tolist() for run in runs]


@pytest.mark.parametrize("name", DOUBTFUL)
def test_doubtful_seeds_run_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arch, how = DOUBTFUL[name]
    how = {"tokens": 3, "batch": 2, "seeds": range(6), **how}
    ours = sample(arch, backend=Remote(), **how)
    theirs = sample(arch, backend=Remote(looks=True), **how)
    assert list(ours) == list(theirs)
    largest = max(values.max() for values in theirs.values())
    for key, values in theirs.items():
        np.testing.assert_allclose(ours[key], values, rtol=1e-8, atol=1e-14 * largest)
    first, *again = marked(arch, Remote(), monkeypatch, **how)
    assert any(first)
    assert again == [[]]
    assert marked(arch, Remote(looks=True), monkeypatch, **how) == [[]]


def test_some_seeds_are_doubtful_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    arch = mf.pre_ln(**SMALL, vocab=12)
    how: dict[str, Any] = {"tokens": 3, "batch": 1, "seeds": range(30)}
    first, _ = marked(arch, Remote(), monkeypatch, **how)
    ids = np.stack([sampler.generator(seed, "discrete").integers(12, size=3) for seed in range(30)])
    assert first == [len(set(row)) < 3 for row in ids.tolist()]
    assert 0 < sum(first) < 15
    ours, theirs = (sample(arch, backend=Remote(looks=looks), **how) for looks in (False, True))
    for key, values in theirs.items():
        np.testing.assert_allclose(ours[key], values, rtol=1e-8, atol=1e-20)


def test_sound_seeds_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for tokens in (1, 3, 8, 9, 20):  # as many tokens as coordinates, or more, need no factor
        found = marked(mf.pre_ln(**SMALL), Remote(), monkeypatch, tokens=tokens, seeds=range(6))
        assert len(found) == 1
        assert not any(found[0])


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the measurements compute in the ways of a device."""
    for module in (passes, sys.modules[empirical.weight_free.__module__]):
        monkeypatch.setattr(module, "TorchBackend", Remote)


@pytest.mark.usefixtures("remote")
@pytest.mark.parametrize("measure", [empirical.ensemble, empirical.weight_free, empirical.stream])
def test_seeds_do_not_depend_on_their_company(measure: Any) -> None:
    arch = mf.post_ln(width=16, depth=2, heads=2, d_ff=32, vocab=9, dropout=0.2, init="torch_transformer")
    how: dict[str, Any] = {"tokens": 4, "dtype": "float64", "loss": "cross_entropy"}
    seeds = [70, 3, 4, 5, 0, 1, 900, 2]
    together = measure(arch, seeds=seeds, **how).samples.set_index(BY).grad_sq_hat
    apart = pd.concat([measure(arch, seeds=[seed], **how).samples for seed in (70, 5, 900)])
    expected = apart.set_index(BY).grad_sq_hat
    np.testing.assert_allclose(together.reindex(expected.index), expected, rtol=1e-8, atol=1e-18)


@pytest.mark.usefixtures("remote")
def test_streams_are_drawn_again_alike() -> None:
    arch = mf.pre_ln(width=16, depth=3, heads=2, d_ff=32, dropout=0.1)
    how: dict[str, Any] = {"tokens": 4, "dtype": "float64", "seeds": range(3), "loss": "mse"}
    one, other = empirical.stream(arch, **how).df, empirical.ensemble(arch, **how).df
    np.testing.assert_allclose(one.grad_sq_hat, other.grad_sq_hat, rtol=1e-9, atol=1e-20)


def table(measure: Any, seeds: Any, **how: Any) -> pd.DataFrame:
    arch = mf.pre_ln(
        width=16, depth=1, heads=2, d_ff=32, vocab=20, dropout=0.1, init="torch", activation="gelu"
    )
    return measure(arch, tokens=3, seeds=seeds, loss="cross_entropy", **how).df


def distances(ours: pd.DataFrame, theirs: pd.DataFrame, factor: float = 1.0) -> pd.Series:
    """Differences of means, in standard errors; of a key's bias there is nothing to compare."""
    there = theirs.grad_sq_hat > 1e-10 * theirs.grad_sq_hat.max()
    assert ((ours.grad_sq_hat > 1e-10 * ours.grad_sq_hat.max()) == there).all()
    error = np.hypot(ours.grad_sq_hat_se, theirs.grad_sq_hat_se)
    return ((factor * ours.grad_sq_hat - theirs.grad_sq_hat) / error)[there].abs()


@pytest.mark.statistical
@pytest.mark.parametrize("measure", ["ensemble", "weight_free"])
def test_a_device_has_the_law_of_the_host(measure: str, request: pytest.FixtureRequest) -> None:
    own = getattr(empirical, measure)
    theirs = table(own, range(3000))
    request.getfixturevalue("remote")
    ours = table(own, range(3000))
    assert len(ours) > 15
    assert distances(ours, theirs).max() < 4.0  # about 25 means: chance 2e-3
    assert distances(ours, theirs, 1.05).max() > 4.0
    assert not np.allclose(ours.grad_sq_hat, theirs.grad_sq_hat, rtol=1e-6)  # another draw


def test_tensors_of_a_device() -> None:
    where = Remote("float32")
    small, large = (4, 5), (2**10, 2**10)
    for law in (ops.Draw(0.25, mean=2), ops.Draw(0.25, "uniform", 2)):
        for shape in (small, large):
            seeds = range(3) if shape is large else range(where.worth_a_call // 20 + 3)
            drawn = where.tensor(list(seeds), "w", law, shape)
            assert abs(float(drawn.mean()) - 2) < 5 * 0.5 / drawn.numel() ** 0.5
            assert abs(float(drawn.var()) - 0.25) < 5 * 0.25 * (2 / drawn.numel()) ** 0.5
            few = [int(seeds[-1]), 1, 2]
            torch.testing.assert_close(where.tensor(few, "w", law, shape), drawn[few], rtol=0, atol=0)
            other = where.tensor([0], "v", law, shape)
            assert not torch.equal(other, drawn[:1])
    assert (where.tensor([1, 2], "w", ops.Draw(0, mean=3), small) == 3).all()


def test_tf32_is_asked_for_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    arch = mf.pre_ln(width=16, depth=1, heads=2, d_ff=32)
    for measure in (empirical.ensemble, empirical.weight_free, empirical.stream, empirical.measure):
        with pytest.raises(
            InputError, match=r"dtype='tf32' does not exist on device 'cpu': give 'float32', or"
        ):
            measure(arch, dtype="tf32", seeds=range(2))
    with pytest.raises(InputError, match=r"dtype='tf32' is a way to multiply, of empirical.ensemble"):
        torch_dtype("tf32", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Setting(device="cuda", dtype="tf32").keys(arch)["dtype"] == "tf32"
    assert stored("tf32", torch.device("cuda")) == "float32"
    where = TorchBackend("tf32", "cuda")
    assert (where.dtype, where.host_dtype, where.looks) == (torch.float32, np.dtype("float32"), False)


@pytest.mark.parametrize("before", ["highest", "high"])
def test_products_on_a_device_are_as_precise_as_is_said(before: str) -> None:
    default = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(before)
    try:
        for dtype, how in (("float32", "float32"), ("float64", "float64"), ("tf32", "TF32")):
            for context in (device_products(dtype), fast(dtype, "cuda")):
                with context as words:
                    assert words == f"products in {how}"
                    assert torch.backends.cuda.matmul.allow_tf32 == (dtype == "tf32")
                assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision(default)


@pytest.mark.parametrize("looks", [True, False])
@pytest.mark.parametrize("words", ["CUDA out of memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_the_sampler_halves_its_seeds_where_memory_ends(
    looks: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch, how = mf.pre_ln(**SMALL), {"tokens": 3, "seeds": range(20)}
    expected = sample(arch, backend=Remote(looks=looks), **how)  # type: ignore[arg-type]
    right = sampler.squares
    sizes: list[int] = []
    counts: list[int] = []

    def limited(a: Any, data: Any, run: Any) -> None:
        sizes.append(run.seeds)
        if run.seeds > 6:
            raise torch.OutOfMemoryError(words) if "CUDA" in words else RuntimeError(words)
        right(a, data, run)

    class Small(Remote):
        released = 0

        def together(self, largest: int, kept: int) -> int:
            return 12

        def release(self) -> None:
            Small.released += 1

    monkeypatch.setattr(sampler, "squares", limited)
    found = sample(arch, backend=Small(looks=looks), progress=counts.append, **how)  # type: ignore[arg-type]
    assert sizes == [12, 6, 6, 6, 2]
    assert counts == [6, 6, 6, 2]
    assert Small.released == 1
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-9, atol=1e-20)


def test_errors_that_have_nothing_to_do_with_memory_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(words: str) -> Callable[..., None]:
        def fail(*_: Any) -> None:
            raise RuntimeError(words)

        return fail

    for words, error in (("mat1 and mat2", RuntimeError), ("out of memory", InputError)):
        monkeypatch.setattr(sampler, "squares", fails(words))
        with pytest.raises(error, match=r"mat1|pre_ln at seed=0 needs more memory than there is"):
            sample(mf.pre_ln(**SMALL), tokens=3, seeds=range(4), backend=Remote())


ARCHS = {
    "deep": (mf.pre_ln(width=64, depth=6, heads=4, d_ff=256), {"tokens": 16}),
    "post_ln, gelu": (mf.post_ln(width=64, depth=4, heads=4, d_ff=128, activation="gelu"), {"tokens": 24}),
    "long": (mf.pre_ln(width=64, depth=3, heads=8, d_ff=64, causal=True), {"tokens": 48, "batch": 2}),
    "gated": (mf.pre_ln(width=64, depth=3, heads=4, activation="swiglu", norm="rmsnorm"), {"tokens": 16}),
}


@pytest.mark.parametrize("name", ARCHS)
def test_memory_is_estimated(name: str) -> None:
    arch, how = ARCHS[name]
    where = Remote("float32")
    length, batch = how["tokens"], how.get("batch", 1)
    run = WeightFree(where, 4, batch, Feed(length), streams=where.streams(range(4)), looks=False)
    data = sampler.Data(sampler.Loss("linear"), [run.feed], None)
    with Live() as live:
        sampler.squares(arch, data, run)
    ratio = live.peak / (4 * 4 * numbers_kept(arch, length * batch, length, head=False))
    assert 0.4 < ratio < 1.0, ratio


@pytest.fixture
def cuda() -> str:
    """Name the device; skip where there is none."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return "cuda"


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_nobody_waits_in_a_pass_on_cuda(name: str, cuda: str) -> None:
    arch, how = settings(name)
    where = TorchBackend("float32", cuda)
    right = where.host

    def host(values: Any) -> Any:
        torch.cuda.set_sync_debug_mode("default")
        return right(values)

    where.host = host  # type: ignore[method-assign]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        sample(arch, seeds=range(5), backend=where, **how)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("name", DOUBTFUL)
def test_doubtful_seeds_run_again_on_cuda(name: str, cuda: str) -> None:
    arch, how = DOUBTFUL[name]
    how = {"tokens": 3, "batch": 2, "seeds": range(6), **how}
    careful = TorchBackend("float64", cuda)
    careful.looks = True
    ours, theirs = (sample(arch, backend=where, **how) for where in (TorchBackend("float64", cuda), careful))
    largest = max(values.max() for values in theirs.values())
    for key, values in theirs.items():
        np.testing.assert_allclose(ours[key], values, rtol=1e-8, atol=1e-14 * largest)


@pytest.mark.gpu
@pytest.mark.parametrize("measure", ["ensemble", "weight_free", "stream"])
def test_cuda_has_the_law_of_the_host(measure: str, cuda: str) -> None:
    own, seeds = getattr(empirical, measure), range(300 if measure == "stream" else 3000)
    ours, theirs = table(own, seeds, device=cuda), table(own, seeds)
    assert distances(ours, theirs).max() < 4.0


@pytest.mark.gpu
def test_tf32_has_fewer_digits_and_float32_has_all(cuda: str) -> None:
    arch = mf.pre_ln(width=256, depth=4, heads=4, activation="gelu")

    def values(measure: Any, dtype: str, before: str) -> pd.Series:
        torch.set_float32_matmul_precision(before)
        try:
            found = measure(arch, tokens=32, seeds=range(8), device=cuda, dtype=dtype).df.grad_sq_hat
        finally:
            torch.set_float32_matmul_precision("highest")
        return found[found > 1e-8 * found.max()]  # a key's bias has rounding alone

    for measure in (empirical.ensemble, empirical.measure):  # float32 whatever torch is set to
        one, other = (values(measure, "float32", before) for before in ("highest", "high"))
        np.testing.assert_allclose(one, other, rtol=1e-5)
    exact, rough = (values(empirical.ensemble, dtype, "highest") for dtype in ("float32", "tf32"))
    assert 1e-6 < (rough / exact - 1).abs().max() < 2e-2
