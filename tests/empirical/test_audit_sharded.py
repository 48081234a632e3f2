"""Audits of one model on several processes: norms are those of one process, and faults stop all of them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from empirical.audit.sharded import Sharded
from empirical.audit.shards import Spans, shard_of, units
from empirical.audit.sites import check_unwrapped
from empirical.probe import one_thread
from empirical.ranks import Ranks, joined
from meanfield.errors import InputError
from tests.empirical.sharded_ranks import CASES, WIDTH, Model, found, pre, run

TOLERANCE = 1e-5
TOGETHER = ["post, below the head", "pre, mse", "sharded by the user, cross entropy", "scalar, row and rows"]
HUGGINGFACE = ["gpt2", "gpt2, below the head"]
LONGER = [
    "post, cross entropy", "sharded by the user, below the head", "frozen in part", "double",
    "double, sharded by the user", "half",
]  # fmt: skip
LONGER_HUGGINGFACE = ["gpt2, sharded by the user", "llama", "t5"]
FAULTS = {
    "seeds": "seeds differs between the processes ((0, 1, 2) on rank 0, (0, 1, 2, 3) on rank 1)",
    "batch": "batch differs between the processes (2x5 #",
    "loss": "loss differs between the processes (mse on rank 0, linear on rank 1)",
    "loss that is none on one rank": "unknown loss 'hinge'",
    "weights": "gives other weights on rank 1 than on rank 0 (the first is words.weight)",
    "build fails on one rank": "build(1) fails (MemoryError: no memory for seed 1)",
    "same weights again": "build(0) and build(1) have the same weights",
    "ddp": "gives a DistributedDataParallel: give the module inside, its .module",
    "partly": "the module is partly sharded, and words.weight is not: call fully_shard",
    "copies": "the shards of layers.0.self_attn.in_proj_weight on ranks 0 and 1 are copies of each other",
    "alone": "words.weight is sharded over processes, and this one measures alone",
    "run already": "a sharded module that has been run already",
    "noisy": "norm: it draws random numbers",
    "infinite": "the loss is nan for seed 0",
    "not understood": "norm: aten.native_batch_norm of hidden states is no known norm",
    "shard": "shard='yes': give True, False, or None",
}


def start(folder: Path, size: int, names: list[str]) -> list[dict[str, Any]]:
    """Run cases in processes of their own, and give what each rank has to say."""
    command = [sys.executable, "-m", "tests.empirical.sharded_ranks"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(size), str(folder), *names],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        told = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * size, "\n".join(told)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]


def largest_difference(one: dict[str, list[float]], several: dict[str, list[float]]) -> float:
    """Largest relative difference of square norms; what is rounding of zero in one is so in the other."""
    assert list(one) == list(several)
    floor = 1e-12 * max(max(values) for values in one.values())
    return max(
        abs(a - b) / max(a, floor) for name in one for a, b in zip(one[name], several[name], strict=True)
    )


def check(told: list[dict[str, Any]], name: str) -> None:
    with one_thread():  # as the processes do: rounding of zero depends on it
        alone = json.loads(json.dumps(found(run(CASES[name]))))
    assert all(repr(rank[name]) == repr(told[0][name]) for rank in told)
    several = told[0][name]
    assert largest_difference(alone["values"], several["values"]) < TOLERANCE
    for what in ("predicted", "notes", "configuration"):
        assert repr(several[what]) == repr(alone[what])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    known = HUGGINGFACE if importlib.util.find_spec("transformers") else []
    return start(tmp_path_factory.mktemp("two"), 2, [*TOGETHER, *known, *FAULTS])


@pytest.mark.parametrize("name", TOGETHER)
def test_norms_of_two_processes_are_those_of_one(two: list[dict[str, Any]], name: str) -> None:
    check(two, name)


@pytest.mark.parametrize("name", HUGGINGFACE)
def test_transposed_packed_and_tied_tensors_of_hugging_face(two: list[dict[str, Any]], name: str) -> None:
    pytest.importorskip("transformers")
    check(two, name)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_on_any_rank_stops_all(two: list[dict[str, Any]], name: str) -> None:
    for rank in two:
        kind, message = rank[name]
        assert kind in ("InputError", "UnknownNameError", "UnsupportedModuleError")
        assert FAULTS[name] in message
        assert "\n" not in message


def test_norms_that_are_wrong_in_the_third_digit_are_rejected(two: list[dict[str, Any]]) -> None:
    values = two[0]["pre, mse"]["values"]
    assert largest_difference(values, values) == 0
    for name in values:
        if "in_proj_bias[k]" not in name:  # exactly zero, measured as rounding
            wrong = {**values, name: [1.001 * value for value in values[name]]}
            assert largest_difference(values, wrong) > 50 * TOLERANCE


def test_the_uneven_shapes_are_uneven(two: list[dict[str, Any]]) -> None:
    rows = {name: tensor.shape[0] for name, tensor in pre(0).named_parameters()}
    assert {rows["words.weight"] % 2, rows["layers.0.linear1.weight"] % 2} == {1}
    assert WIDTH < shard_of(3 * WIDTH, 0, 2)[1] < 2 * WIDTH  # the keys of a packed matrix are on both
    assert "row" in two[0]["scalar, row and rows"]["values"]  # rank 1 has none of it
    assert "factor" in two[0]["scalar, row and rows"]["values"]


@pytest.mark.slow
def test_three_processes_and_other_types_and_models(tmp_path: Path) -> None:
    names = [*TOGETHER, *LONGER]
    names += LONGER_HUGGINGFACE + HUGGINGFACE if importlib.util.find_spec("transformers") else []
    names += ["x-transformers"] if importlib.util.find_spec("x_transformers") else []
    told = start(tmp_path, 3, names)
    for name in names:
        check(told, name)


@pytest.mark.slow
def test_torchrun_starts_the_command_and_the_first_process_writes(tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "batch.npz", src=np.random.default_rng(0).standard_normal((2, 3, 32)))
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    options = ["--model", "tests.empirical.own_models:encoder", "--batch", str(tmp_path / "batch.npz")]
    options += ["--seeds", "4", "--samples", "8", "--device", "cpu", "--json"]

    def command(*start: str, more: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *start, "empirical.audit", *options, *more],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    one, two = command(), command(*torchrun)
    assert (one.returncode, two.returncode) == (0, 0), two.stderr
    names = [
        {row["parameter"]: [row["grad_sq_hat"]] for row in json.loads(text.stdout)["parameters"]}
        for text in (one, two)
    ]
    assert largest_difference(*names) < TOLERANCE
    wrong = command(*torchrun, more=("--out", str(tmp_path / "none" / "audit.json")))
    assert wrong.returncode == 1  # torchrun's own status, whatever that of the command is
    assert wrong.stdout == ""
    assert wrong.stderr.count("is no file in a folder that exists") == 1


def test_without_a_process_group_one_process_measures_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with joined(None) as ranks:
        assert ranks is None
    with pytest.raises(InputError, match="shard=True and no process group"), joined(True):
        pass
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match=r"one of 4 processes and no process group .* shard=False"):
        run(CASES["pre, mse"])
    with joined(False) as ranks:
        assert ranks is None


def test_a_torch_without_fully_shard_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.distributed.fsdp", None)
    with pytest.raises(InputError, match=r"fully_shard with .* needs torch 2"):
        Sharded(torch.device("cpu"), None, Ranks(0, 1, None))


@pytest.mark.parametrize(
    ("backends", "device", "said"),
    [
        ("cpu:gloo,cuda:nccl", "mps", "device='mps' has no sharded models"),
        ("cpu:gloo,cuda:gloo", "cuda", "has gloo for device='cuda': .*'cuda:nccl'"),
        ("cuda:nccl", "cpu", "has no backend for device='cpu': .*'cpu:gloo'"),
    ],
)
def test_a_device_that_the_group_does_not_serve_is_refused(
    monkeypatch: pytest.MonkeyPatch, backends: str, device: str, said: str
) -> None:
    monkeypatch.setattr(dist, "get_backend_config", lambda: backends)
    with pytest.raises(InputError, match=said):
        Ranks(0, 2, None).device(torch.device(device))


def test_fsdp1_is_refused_by_name() -> None:
    class FullyShardedDataParallel(nn.Module):
        """FSDP1 itself needs a GPU to be built."""

    with pytest.raises(InputError, match=r"of FSDP1, .* torch\.distributed\.fsdp\.fully_shard"):
        check_unwrapped(nn.Sequential(FullyShardedDataParallel()))
    check_unwrapped(pre(0))


def test_shards_are_cut_as_torch_cuts_chunks() -> None:
    for rows in range(9):
        for size in range(1, 5):
            chunks = [len(chunk) for chunk in torch.arange(rows).chunk(size)] if rows else []
            cut = [shard_of(rows, rank, size) for rank in range(size)]
            assert [stop - start for start, stop in cut] == chunks + [0] * (size - len(chunks))


@pytest.mark.parametrize("columns", [slice(2, 5), slice(0, 6, 2)])
def test_parts_are_found_in_every_shard(columns: slice) -> None:
    gradient = torch.randn(5, 6)
    index = torch.arange(30).reshape(5, 6)[:, columns].T
    spans, picked = Spans.of(index), []
    for rank in range(3):
        start, stop = shard_of(5, rank, 3)
        picked.append(gradient[start:stop].reshape(-1)[spans.within(start * 6, stop * 6)])
    assert torch.equal(torch.cat(picked), gradient[:, columns].reshape(-1))


def test_units_are_layers_and_what_is_shared_stays_with_the_rest() -> None:
    model: Any = Model(pre=True, head=True)
    assert units(model) == [*model.layers]
    model.extra = model.layers[1].linear1
    assert units(model) == [model.layers[0]]
    nested = nn.ModuleList([nn.ModuleList([nn.LayerNorm(2), nn.Linear(2, 2)]), nn.ReLU()])
    assert [type(unit).__name__ for unit in units(nested)] == ["LayerNorm", "Linear"]
