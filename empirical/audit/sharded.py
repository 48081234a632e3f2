"""One module spread over several processes by FSDP2: its gradients' norms are those of one process.

Every rank runs the same batch with the same targets, so that every rank has the same gradient, and the mean
over ranks that FSDP takes is the gradient itself.
"""

from __future__ import annotations

import dataclasses
import gc
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from empirical.audit.gathered import gathered, original
from empirical.audit.predict import places_of
from empirical.audit.shards import Spans, local_part, shard_of, units
from empirical.audit.sites import Site, check_unwrapped, is_sharded
from empirical.ranks import Ranks
from empirical.readers import Reading, Slot
from meanfield.errors import InputError

T = TypeVar("T")
LARGE = 10_000_000
"""Parameters of a model that is worth the half second which Python takes to find what is held in a circle."""
HALF = (torch.bfloat16, torch.float16)
SAME = 1e-6
"""Sums of equal weights differ by less, relative to their norm; those of two draws by about 1."""


class Sharded(Site):
    """Several processes that have one module together.

    Args:
        device: That of this process.
        dtype: In which type; that in which modules are built if None.
        ranks: The processes.

    Raises:
        InputError: If this torch has no `fully_shard` that can leave single numbers whole.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype | None, ranks: Ranks) -> None:
        super().__init__(device, dtype)
        try:
            from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

            complete = "ignored_params" in inspect.signature(fully_shard).parameters
        except ImportError:
            complete = False
        if not complete:
            raise InputError(
                f"torch {torch.__version__} has no torch.distributed.fsdp.fully_shard with ignored_params: "
                "one model on several processes needs torch 2.7 or newer"
            )
        self.ranks, self.fully_shard, self.kind = ranks, fully_shard, FSDPModule
        self.exact = MixedPrecisionPolicy(reduce_dtype=torch.float32)
        self.mesh = init_device_mesh(device.type, (ranks.size,))
        self.root: nn.Module = nn.Identity()
        self.parts: dict[str, Spans] = {}

    def agree(self, work: Callable[[], T]) -> T:
        """Do something that may fail, in which case it fails on every rank.

        Args:
            work: What to do; it must not wait for other ranks.

        Returns:
            Its result.
        """
        return self.ranks.agree(work)

    def check(self, module: nn.Module) -> None:
        """Check that a module can be measured: it is plain, or sharded as `fully_shard` does.

        Args:
            module: As it was built.

        Raises:
            InputError: If it is partly sharded, or in another way.
        """
        check_unwrapped(module)
        named = dict(module.named_parameters())
        if not any(map(is_sharded, named.values())):
            return
        remedy = (
            "call fully_shard on every layer, then on the module, and do not run it; or give the plain module"
        )
        for name, tensor in named.items():
            if not is_sharded(tensor):
                if tensor.ndim:
                    raise InputError(f"the module is partly sharded, and {name} is not: {remedy}")
                continue
            # a DTensor, by the check above
            mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
            by_rows = len(placements) == 1 and placements[0].is_shard(0)
            if not by_rows or mesh.size() != self.ranks.size:
                raise InputError(
                    f"{name} is placed as {placements} on a mesh of {mesh.size()} of {self.ranks.size} "
                    f"processes: rows over all of them are read; {remedy}"
                )
            if mesh.device_type != self.device.type:
                raise InputError(
                    f"the module is sharded on {mesh.device_type!r} and device={self.device.type!r}: give "
                    f"device={mesh.device_type!r}"
                )
        if not isinstance(module, self.kind):
            raise InputError(
                f"the parameters of {self.name(module)} are sharded and it is no FSDPModule: {remedy}"
            )

    def read(self, module: nn.Module, read: Callable[[nn.Module], Reading]) -> Reading:
        """Read a module on rank 0, and tell the others; where entries stand is told in short.

        Args:
            module: As it was built.
            read: Reads a module that is whole.

        Returns:
            The reading, with shapes in place of indices.
        """
        first = self.ranks.rank == 0
        whole = gathered(module, self.kind, first) if isinstance(module, self.kind) else module
        reading = self.agree(lambda: read(whole) if first else None)
        told = None if reading is None else (_thin(reading), _parts(reading, whole))
        # rank 0 has told something
        thin, self.parts = self.ranks.share(told)  # type: ignore[misc]
        return thin if reading is None else dataclasses.replace(thin, again=reading.again)

    def fingerprint(self, module: nn.Module, reading: Reading) -> NDArray[np.float64]:
        """Take one number for every parameter, and check that the ranks fit one another.

        Args:
            module: As it was built.
            reading: Not read.

        Returns:
            Sums of all entries.

        Raises:
            InputError: If plain modules differ between the ranks, or shards are copies of each other.
        """
        named = dict(module.named_parameters())
        sums = np.array([_sums(local_part(tensor)) for tensor in named.values()])  # (parameters, 3)
        heard = np.array(self.ranks.gather(sums))  # (ranks, parameters, 3)
        spread = np.array(list(map(is_sharded, named.values())))
        self._check_equal(list(named), heard, ~spread)
        self._check_different(list(named), heard, spread)
        return np.where(spread, heard[:, :, 1].sum(axis=0), heard[0, :, 1])

    def _check_equal(self, names: list[str], heard: NDArray[np.float64], whole: NDArray[np.bool_]) -> None:
        size, norm = np.maximum(heard[0, :, 0], 1.0), np.sqrt(heard[0, :, 2])
        for rank in range(1, self.ranks.size):
            away = np.abs(heard[rank, :, 1:] - heard[0, :, 1:])
            off = (away[:, 0] > SAME * norm * np.sqrt(size)) | (away[:, 1] > SAME * norm**2)
            odd = whole & (off | (heard[rank, :, 0] != heard[0, :, 0]))
            if odd.any():
                raise InputError(
                    f"build(seed) gives other weights on rank {rank} than on rank 0 (the first is "
                    f"{names[int(odd.argmax())]}): draw them from the seed, or from torch's global "
                    "generator, and from nothing that differs between processes"
                )

    def _check_different(
        self, names: list[str], heard: NDArray[np.float64], spread: NDArray[np.bool_]
    ) -> None:
        entries, total, squares = heard[0].T
        drawn = spread & (entries * squares > total**2 * (1 + 1e-9) + 1e-30)
        for rank in range(1, self.ranks.size):
            copied = drawn & (heard[rank] == heard[0]).all(axis=1)
            if copied.any():
                raise InputError(
                    f"the shards of {names[int(copied.argmax())]} on ranks 0 and {rank} are copies of each "
                    "other: draw weights before sharding, or from another generator on each rank"
                )

    def place(self, module: nn.Module) -> None:
        """Shard a plain module, layer by layer and at the root.

        Args:
            module: As it was built.
        """
        if self.dtype is not None:
            module.to(dtype=self.dtype)
        self.root = _Root(module)
        if sum(tensor.numel() for tensor in module.parameters()) > LARGE:
            gc.collect()  # the module before: FSDP's hooks and states hold each other
        single = {tensor for tensor in module.parameters() if not tensor.ndim}
        for tensor in single:  # FSDP shards no scalars: every rank has them, and all of their gradient
            tensor.data = tensor.data.to(self.device)
        options: dict[str, Any] = {"mesh": self.mesh} | ({"ignored_params": single} if single else {})
        if any(tensor.dtype in HALF for tensor in module.parameters()):  # a mean in half precision rounds
            options["mp_policy"] = self.exact
        if isinstance(module, self.kind):
            # The loss may stand below the output of the module, whose hooks then never gather weights again.
            module.set_reshard_after_forward(False, recurse=False)
        else:
            for unit in units(module):
                self.fully_shard(unit, **options)
        self.fully_shard(self.root, **options)

    def forward(self, work: Callable[[], Tensor]) -> Tensor:
        """Run the module that was placed last, gathering the weights of a layer at a time.

        Args:
            work: Runs it, and gives a tensor.

        Returns:
            The tensor.

        Raises:
            InputError: If a module that its builder has sharded was run before.
            RuntimeError: Whatever else FSDP finds wrong.
        """
        try:
            return self.root(work)
        except RuntimeError as error:
            if "already been lazily initialized" not in str(error):
                raise
            raise InputError(
                "build(seed) gives a sharded module that has been run already, in a part or as a whole: give "
                "one that has not"
            ) from error

    def gradients(self, module: nn.Module, loss: Tensor) -> dict[int, Tensor]:
        """Take the gradient of every parameter that a loss reaches.

        Args:
            module: The module.
            loss: The loss, from `forward`.

        Returns:
            Identity of the parameter -> its gradient, spread as the parameter is.
        """
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types there
        found = {id(tensor): tensor.grad for tensor in module.parameters() if tensor.grad is not None}
        for tensor in module.parameters():
            tensor.grad = None
        return found

    def squares(self, gradients: Mapping[str, tuple[Slot | None, Tensor]]) -> dict[str, float]:
        """Take square norms: local squares, and one sum over ranks for all of them together.

        Args:
            gradients: Label -> slot, or None, and gradient of its tensor.

        Returns:
            Label -> ||dL/dtheta||^2.
        """
        local = [self._local_square(label, gradient) for label, (_, gradient) in gradients.items()]
        total = torch.stack(local).cpu()
        torch.distributed.all_reduce(total, group=self.ranks.line)
        return dict(zip(gradients, total.tolist(), strict=True))

    def _local_square(self, label: str, gradient: Tensor) -> Tensor:
        values, spans = local_part(gradient).reshape(-1), self.parts.get(label)
        rows = gradient.shape[0] if gradient.ndim else 1
        start, stop = shard_of(rows, self.ranks.rank, self.ranks.size)
        if not is_sharded(gradient):
            start, stop = (0, rows) if self.ranks.rank == 0 else (0, 0)  # everyone has it: it counts once
            values = values[: stop * (gradient.numel() // rows)]
        if spans is not None:
            entries = gradient.numel() // rows
            values = values[spans.within(start * entries, stop * entries).to(values.device)]
        return torch.linalg.vector_norm(values, dtype=torch.float64) ** 2

    def name(self, module: nn.Module) -> str:
        """Name a module.

        Args:
            module: The module.

        Returns:
            The name of the class that it had before it was sharded.
        """
        return (original(module) if isinstance(module, self.kind) else type(module)).__name__


class _Root(nn.Module):
    """The outermost forward pass: whatever is computed from a module's output, or from inside of it.

    FSDP gathers weights for the backward pass when gradients reach the output of the outermost module. That
    is the loss then, wherever in the module it is put upon.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, work: Callable[[], Tensor]) -> Tensor:
        return work()


def _sums(tensor: Tensor) -> tuple[float, float, float]:
    """How many entries, their sum, and that of their squares."""
    norm = torch.linalg.vector_norm(tensor, dtype=torch.float64)
    return float(tensor.numel()), float(tensor.sum(dtype=torch.float64)), float(norm) ** 2


def _thin(reading: Reading) -> Reading:
    """A reading that is small, and can be sent: shapes of indices alone, and nothing that reads again."""
    slots = tuple(
        dataclasses.replace(slot, index=torch.empty(slot.index.shape, device="meta"))
        for slot in reading.slots
    )
    return dataclasses.replace(reading, slots=slots, again=None)


def _parts(reading: Reading, module: nn.Module) -> dict[str, Spans]:
    """Where the slots stand that are only a part of their tensor."""
    sizes = {name: tensor.numel() for name, tensor in module.named_parameters(remove_duplicate=False)}
    return {
        label: Spans.of(slot.index)
        for label, (slot, *_) in places_of(reading).items()
        if slot.index.numel() != sizes.get(slot.name, slot.index.numel())
    }
