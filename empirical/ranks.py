"""The processes that ``torchrun`` started, and what they tell each other: nothing here touches weights."""

from __future__ import annotations

import datetime
import os
import reprlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from meanfield.errors import InputError

T = TypeVar("T")
PATIENCE = datetime.timedelta(days=1)
"""How long a process waits for another one: rank 0 reads large modules alone. A dead one is seen at once."""

LAST_WORDS = datetime.timedelta(seconds=10)


@dataclass(frozen=True, eq=False)
class Ranks:
    """All processes of the default process group, with a line between them on the CPU.

    Args:
        rank: Number of this process.
        size: How many there are.
        line: A gloo group of all of them. Gradients travel on the default group, of nccl on GPUs.
    """

    rank: int
    size: int
    line: Any

    def gather(self, value: T) -> list[T]:
        """Hear what every process has to say.

        Args:
            value: What this one says.

        Returns:
            One value per rank.
        """
        heard: list[Any] = [None] * self.size
        dist.all_gather_object(heard, value, group=self.line)
        return heard

    def share(self, value: T) -> T:
        """Hear the first process.

        Args:
            value: What rank 0 says; that of others is not used.

        Returns:
            The value of rank 0.
        """
        said: list[Any] = [value]
        dist.broadcast_object_list(said, src=0, group=self.line)
        return said[0]

    def agree(self, work: Callable[[], T]) -> T:
        """Do what needs no other process; if it fails in one, it fails in all, and none is left waiting.

        Args:
            work: What to do. It must not wait for other processes.

        Returns:
            Its result.

        Raises:
            InputError: If the work failed in other processes alone. The own error is raised as it is.
        """
        result, own = None, None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001  (raised again, once the others know)
            own = error
        heard = self.gather(None if own is None else (" ".join(str(own).split()) or type(own).__name__))
        if own is not None:
            raise own
        for rank, reason in enumerate(heard):
            if reason is not None:
                raise InputError(f"rank {rank} of {self.size}: {reason}")
        return result  # type: ignore[return-value]  # there, since no process has failed

    def check_same(self, values: Mapping[str, object]) -> None:
        """Check that all processes were asked for the same.

        Args:
            values: Names and values, small and comparable.

        Raises:
            InputError: If one differs from that of rank 0.
        """
        first, *others = self.gather(dict(values))
        for rank, other in enumerate(others, 1):
            for name in first:
                if other.get(name) != first[name]:
                    raise InputError(
                        f"{name} differs between the processes ({_short(first[name])} on rank 0, "
                        f"{_short(other.get(name))} on rank {rank}): all work on one thing, give the "
                        "same on every rank"
                    )

    def device(self, device: torch.device) -> torch.device:
        """Find the device of this process.

        Args:
            device: The kind of device.

        Returns:
            The CPU, or the GPU of this process's number on its machine, made the current one.

        Raises:
            InputError: If the process group does not serve such a device.
        """
        if device.type not in ("cpu", "cuda"):
            raise InputError(f"device={device.type!r} has no sharded models: use 'cuda' or 'cpu'")
        backends = dict(pair.split(":") for pair in dist.get_backend_config().split(","))
        backend, wanted = backends.get(device.type), "gloo" if device.type == "cpu" else "nccl"
        if backend is None or (device.type == "cuda" and backend == "gloo"):
            raise InputError(
                f"the process group has {backend or 'no backend'} for device={device.type!r}: call "
                f"torch.distributed.init_process_group('{device.type}:{wanted}')"
            )
        if device.type == "cpu":
            return device
        number = int(os.environ.get("LOCAL_RANK", self.rank % torch.cuda.device_count()))
        if number >= torch.cuda.device_count():
            raise InputError(
                f"this machine has {torch.cuda.device_count()} GPUs and this process is number {number} on "
                "it: start one process per GPU"
            )
        torch.cuda.set_device(number)
        return torch.device("cuda", number)


@contextmanager
def joined(shard: bool | None) -> Iterator[Ranks | None]:
    """Join the other processes, if there are any.

    Args:
        shard: True to measure one model on all of them, False to measure alone; None for True where a
            process group is initialised.

    Yields:
        The processes; None to measure alone.

    Raises:
        InputError: If there is no process group, and there should be one.
    """
    there = dist.is_available() and dist.is_initialized()
    if shard is not None and not isinstance(shard, bool):
        raise InputError(f"shard={shard!r}: give True, False, or None for True under a process group")
    if shard is False:
        yield None
        return
    if not there:
        size = os.environ.get("WORLD_SIZE", "1") if "RANK" in os.environ else "1"
        if shard or size != "1":
            raise InputError(
                ("shard=True" if shard else f"this is one of {size} processes")
                + " and no process group is initialised: call torch.distributed.init_process_group() in a "
                "script that torchrun starts, or give shard=False to measure in each process by itself"
            )
        yield None
        return
    line = dist.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), line)
    finally:
        dist.destroy_process_group(line)


@contextmanager
def launched() -> Iterator[Ranks | None]:
    """Initialise the process group of a command that torchrun started, and leave it together with the others.

    An error that all processes have is raised on rank 0 alone; the others end with status 2.

    Yields:
        The processes; None for a command that was started by itself.

    Raises:
        InputError: What was raised inside.
        SystemExit: In place of it, where rank 0 has the same to say.
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield None
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        ranks = Ranks(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo"))
        last = dist.new_group(backend="gloo", timeout=LAST_WORDS)
        try:
            yield ranks
            with suppress(RuntimeError):  # torchrun stops all when one ends with a status, so wait
                dist.barrier(group=ranks.line)
        except InputError as error:
            told: list[Any] = [None] * ranks.size
            with suppress(RuntimeError):  # the others may be elsewhere, or gone
                dist.all_gather_object(told, str(error), group=last)
            if ranks.rank and told[0] is not None and told[0] in str(error):
                time.sleep(1)
                raise SystemExit(2) from None
            raise
    finally:
        dist.destroy_process_group()


def _short(value: object) -> str:
    return value if isinstance(value, str) else reprlib.repr(value)
