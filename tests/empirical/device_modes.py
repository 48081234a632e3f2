"""The ways of a device, without one: backends that behave like it, and modes that watch what torch does."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from empirical.backend import TorchBackend


class Remote(TorchBackend):
    """The host in the ways of a device: torch draws, and numbers are looked at once."""

    def __init__(self, dtype: str = "float64", device: str = "cpu", *, looks: bool = False) -> None:
        super().__init__(dtype, device)
        self.go_remote()
        self.looks, self.ahead, self.worth_a_call = looks, 2**12, 2**12


class Shapes(TorchBackend):
    """Arrays without numbers, so that whoever looks at one fails."""

    def __init__(self, dtype: str = "float32", device: str = "cpu") -> None:
        super().__init__(dtype, device)
        self.device = torch.device("meta")
        self.go_remote()

    def generator(self, key: int) -> Any:
        return None

    def host(self, values: Any) -> Any:
        raise Arrived(tuple(values.shape))


LOOKS = {
    "_linalg_check_errors", "_local_scalar_dense", "_unique2", "equal", "is_nonzero", "item", "linalg_eigh",
    "masked_select", "nonzero", "unique_dim",
}  # fmt: skip
"""Operations whose result the host has to know."""


class Arrived(Exception):  # noqa: N818  (no error: the end of the pass)
    """All of a pass is under way, and its numbers are asked for."""


class WaitError(AssertionError):
    """Something waits for the device."""


class NeverWaits(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types there
    """Refuses every operation for which CUDA would have to be waited for."""

    def __init__(self, device: str = "meta") -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.device, self.calls = device, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        self.calls += 1
        if name in LOOKS:
            raise WaitError(name)
        if name in ("index", "index_put_") and any(x.dtype == torch.bool for x in given[1:]):
            raise WaitError(f"{name} by a mask")
        found = func(*args, **kwargs)
        if self.device != "cpu":
            there = [x.device.type == self.device for x in given]
            after = [x.device.type == self.device for x in tree_leaves(found) if isinstance(x, torch.Tensor)]
            if any(there) and not all(after):
                raise WaitError(f"{name} brings numbers to the host")
            moved = any(after) and any(not on and x.ndim for x, on in zip(given, there, strict=True))
            if moved and not kwargs.get("non_blocking"):
                raise WaitError(f"{name} brings numbers to the device")
        return found


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]  # as above
    """Counts the bytes of all storages that are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.now, self.peak, self.seen = 0, 0, set[int]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return found

    def _count(self, storage: Any) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self.seen:
            return
        self.seen.add(place)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self.seen.discard(place)
        self.now -= size
