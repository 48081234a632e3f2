"""The context manager: hooks on the points of a module, a step's records, and when a step ends."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from types import TracebackType

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from empirical.recording.collect import collect
from empirical.recording.hooks import hook, on_gradient
from empirical.recording.moments import Padding
from empirical.recording.points import choose_points, known_path
from empirical.recording.probes import BACKWARD, FORWARD, Probe, hidden_state, settle
from empirical.recording.records import Logger, Record, table
from meanfield.errors import InputError, positive_integer


def record(
    module: nn.Module,
    *,
    logger: Logger | None = None,
    every: int = 1,
    points: Iterable[str] | None = None,
    batch_first: bool | None = None,
    parameters: bool = True,
    start: int = 0,
) -> Recorder:
    """Record moments of hidden states and their gradients at every block point while a module is trained.

        q_hat = mean over tokens ||x_i||² / d,      cov_hat = mean over pairs <x_i, x_j> / d,
        q_grad_hat = mean over tokens ||∂L/∂x_i||²,  cov_grad_hat = mean over pairs <∂L/∂x_i, ∂L/∂x_j>,
        grad_sq_hat = ||∂L/∂θ||² of every parameter,

    i and j two tokens of one sequence, and L what ``backward`` was called on. Training itself is not changed:
    losses are equal bit for bit.

    Points, unless they are named: the entries of every list of equal blocks, the parts of a block that own
    parameters and give as many tokens of the same width (norms, attention, feed-forward), and such parts
    beside the list (embedding, final norm). `empirical.recording.points` has the exact rule.

    A step ends when an optimizer that holds a parameter of the module is about to update it, at
    ``recorder.step()``, or with the block: whichever is first. All passes since the last end are averaged,
    token by token: micro-batches of accumulated gradients, several calls of a shared module. Passes in
    training and in evaluation mode give records of their own. What activation checkpointing computes again
    counts once.

    Args:
        module: Any module; it is called as before.
        logger: Takes the records of each step; they are in ``recorder.df`` as well.
        every: Record the steps whose number it divides; the others cost next to nothing.
        points: Paths of modules to record in place of the rule.
        batch_first: Whether hidden states are (batch, tokens, width), at points where the module itself or
            the nearest one above does not state it in its own ``batch_first``. True by default where no part
            of the model has ``batch_first=False``; elsewhere the shapes of the blocks tell, or it must be
            given.
        parameters: Whether to record gradients of parameters too, as they are when the step ends.
        start: Number of the first step.

    Returns:
        The recorder, for ``with``.

    Raises:
        InputError: If an argument does not fit, there are no blocks, a path is unknown, the order of
            dimensions is ambiguous, or a part is compiled.

    Example:
        >>> block = nn.Sequential(nn.Linear(2, 2, bias=False))
        >>> _ = nn.init.eye_(block[0].weight)
        >>> with record(nn.ModuleList([block]), points=["0"]) as recorder:
        ...     block(torch.tensor([[[1.0, 0.0], [1.0, 2.0]]])).sum().backward()
        >>> {column: round(value, 5) for column, value in recorder.records[0].values.items()}
        {'q_hat': 1.5, 'cov_hat': 0.5, 'q_grad_hat': 2.0, 'cov_grad_hat': 2.0}
    """
    if logger is not None and not callable(getattr(logger, "log", None)):
        raise InputError(
            f"logger={type(logger).__name__} has no method log(records): give JsonLines(path), "
            "TensorBoard(folder) or one of your own"
        )
    if isinstance(start, bool) or not isinstance(start, int) or start < 0:
        raise InputError(f"start={start!r} is no number of a step: give an integer of at least 0")
    if batch_first not in {None, True, False}:
        raise InputError(f"batch_first={batch_first!r} is no order of dimensions: give True, False or None")
    every = positive_integer("every", every)
    chosen = choose_points(_checked_module(module), points, batch_first)
    return Recorder(module, [Probe(point) for point in chosen], logger, every, parameters, start)


class Recorder:
    """What `record` returns: hooks while its block runs, and the records of the last step.

    Args:
        module: Any module.
        probes: Its points.
        logger: Takes the records of each step.
        every: Steps whose number it divides are recorded.
        parameters: Whether to record gradients of parameters.
        start: Number of the first step.

    Attributes:
        records: The records of the last recorded step.
    """

    def __init__(
        self,
        module: nn.Module,
        probes: list[Probe],
        logger: Logger | None,
        every: int,
        parameters: bool,
        start: int,
    ) -> None:
        self.records: tuple[Record, ...] = ()
        self._module, self._probes, self._logger = module, probes, logger
        self._every, self._parameters, self._step = every, parameters, start
        self._open = self._ever = False
        self._paddings: dict[str, Padding] = {}
        self._hooks: list[RemovableHandle] = []
        self._begin()

    def _begin(self) -> None:
        """Forget the passes of a step."""
        self._passes = self._with_gradients = False
        self._ids: set[tuple[int, ...]] = set()
        self._on_leaves: list[RemovableHandle] = []
        for probe in self._probes:
            probe.clear()

    @property
    def points(self) -> tuple[str, ...]:
        """Paths of the points; once a step was recorded, of those that gave hidden states."""
        return tuple(p.point.path for p in self._probes if p.given or not self.records)

    @property
    def df(self) -> pd.DataFrame:
        """The last recorded step as a table, one row per record."""
        return table(record.row() for record in self.records)

    def padding(self, mask: Tensor | None, module: str = "") -> None:
        """Leave padded tokens out of all passes that follow, until another mask is given.

        Args:
            mask: (batch, tokens), True where a token is real, as in Hugging Face's ``attention_mask`` and
                opposite to torch's ``key_padding_mask``; None for all.
            module: Path of the part to which it applies, such as ``"encoder"``; the whole module by default.

        Raises:
            InputError: If this is no mask, or the path is unknown.
        """
        known_path(self._module, module)
        self._paddings.pop(module, None)
        if mask is not None:
            self._paddings[module] = Padding(mask)

    def step(self) -> None:
        """End a step: fetch its numbers and log them. Nothing happens where no pass ran since the last end.

        Raises:
            InputError: If the recording is over, or the order of dimensions turns out to be ambiguous.
        """
        if not self._open:
            raise InputError("step() ends a step of a recording: call it inside the with block")
        self._finish()

    def __enter__(self) -> Recorder:
        if self._open:
            raise InputError("this recorder is recording already: make another with record()")
        self._open = True
        for probe in self._probes:
            probe.handle = probe.point.module.register_forward_hook(hook(partial(self._after, probe)))
        self._hooks = [
            self._module.register_forward_pre_hook(hook(self._note_ids), with_kwargs=True),
            register_optimizer_step_pre_hook(self._before_update),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        for probe in self._probes:
            probe.remove()
        for handle in [*self._hooks, *self._on_leaves]:
            handle.remove()
        if kind is None:
            self._finish()
            if not self._ever:
                raise InputError(_nothing_seen(self._module))

    def _after(self, probe: Probe, module: nn.Module, args: object, output: object) -> None:
        """Add what a point gave, and wait for its gradient."""
        if not self._open:  # code that was compiled in the block goes on calling
            return
        self._passes = self._ever = True
        if self._step % self._every or probe.rejected:
            return
        x = hidden_state(output)
        if x is None:
            probe.reject(output)
            return
        step, training, padding = self._step, self._module.training, self._padding(probe.point.path)
        if not _in_backward():  # else activation checkpointing computes again what was added before
            probe.add(x.detach(), FORWARD, training, padding)
            self._with_gradients = self._with_gradients or torch.is_grad_enabled()
        if x.requires_grad and torch.is_grad_enabled():

            def arrived(gradient: Tensor) -> None:
                if self._open and self._step == step and not probe.rejected:
                    probe.add(gradient.detach(), BACKWARD, training, padding)

            self._on_leaves += on_gradient(x, arrived)

    def _padding(self, path: str) -> Padding | None:
        """Find the mask of the nearest part at or above a point."""
        parents = path.split(".") if path else []
        for depth in range(len(parents), -1, -1):
            found = self._paddings.get(".".join(parents[:depth]))
            if found is not None:
                return found
        return None

    def _note_ids(self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        for x in [*args, *kwargs.values()]:
            if isinstance(x, Tensor) and x.ndim == 2 and not x.is_floating_point():
                self._ids.add(tuple(x.shape))

    def _before_update(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        """End a step where an optimizer is about to change the module's parameters."""
        ours = {id(p) for p in self._module.parameters()}
        held = (p for group in optimizer.param_groups for p in group["params"])
        if _in_backward() or not any(id(p) in ours for p in held):  # the first: one update per parameter
            return
        if not self._ever and any(p.grad is not None for p in self._module.parameters()):
            raise InputError(_nothing_seen(self._module))
        self._finish()

    def _finish(self) -> None:
        """Turn the passes since the last end into records."""
        if not self._passes:
            return
        try:
            if self._step % self._every == 0:
                self._probes = settle(self._probes, self._ids)
                gradients = self._parameters and self._with_gradients
                self.records = tuple(collect(self._module, self._probes, self._step, gradients))
                if self._logger is not None:
                    self._logger.log(self.records)
        finally:
            self._step += 1
            for handle in self._on_leaves:
                handle.remove()
            self._begin()


def _in_backward() -> bool:
    """Tell whether a backward pass is under way, as `torch.utils.checkpoint` itself does."""
    return torch._C._current_graph_task_id() != -1


def _nothing_seen(module: nn.Module) -> str:
    return (
        f"no pass of {type(module).__name__} was seen while it was recorded: call this module inside the "
        "block, and if it is compiled, compile it there"
    )


def _checked_module(module: nn.Module) -> nn.Module:
    if not isinstance(module, nn.Module):
        raise InputError(f"{type(module).__name__} is no torch.nn.Module: give the model itself")
    for path, part in module.named_modules():
        compiled = "_orig_mod" in part._modules or getattr(part, "_compiled_call_impl", None) is not None
        if compiled or isinstance(part, torch.jit.ScriptModule):
            raise InputError(
                f"{path or 'the module'} is compiled, and compiled code does not run hooks that come later: "
                "record the plain module and compile it inside the block"
            )
    if any(parameter.is_meta for parameter in module.parameters()):
        raise InputError(
            f"{type(module).__name__} has weights on the meta device, which hold no numbers: load or draw "
            "them on a device first"
        )
    return module
