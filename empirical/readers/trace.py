"""One forward pass as a graph of elementary tensor operations, which can be run again on other values.

The module's own code runs, whatever it is written with; what reaches the tensor library is recorded. What
depends neither on a parameter nor on input vectors (masks, positions, ids, angles) is a constant, and its
value is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from empirical.readers.reading import UnsupportedModuleError

LeafKind = Literal["parameter", "input", "constant"]


@dataclass(eq=False, slots=True)
class Node:
    """One tensor of the pass.

    Attributes:
        place: Its number in the order of computation.
        value: What it was.
        module: Path of the module that was running, for messages.
        variable: Whether it depends on a parameter or on input vectors.
        leaf: What kind of leaf it is; None for the result of an operation.
        name: Name of the parameter or input.
        target: The operation.
        args: Its arguments, nodes in the place of tensors.
        kwargs: Its keyword arguments, likewise.
        output: Which of several results it is; None where there is one.
    """

    place: int
    value: Tensor
    module: str
    variable: bool
    leaf: LeafKind | None = None
    name: str = ""
    target: Any = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    output: int | None = None

    @property
    def op(self) -> str:
        """Name of the operation without its overload, such as ``"aten.add"``."""
        return "" if self.target is None else str(self.target.overloadpacket)

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The nodes among its arguments."""
        return tuple(nodes((self.args, self.kwargs)))


def nodes(value: Any) -> Iterator[Node]:
    """Yield the nodes inside nested arguments, in order."""
    if isinstance(value, Node):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from nodes(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from nodes(part)


def _map(value: Any, kind: type, change: Any) -> Any:
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, list | tuple):
        mapped = [_map(part, kind, change) for part in value]
        return mapped if isinstance(value, list) else tuple(mapped)
    if isinstance(value, dict):
        return {key: _map(part, kind, change) for key, part in value.items()}
    return value


@dataclass(eq=False, slots=True)
class Graph:
    """A recorded pass.

    Attributes:
        nodes: All of them, in the order of computation.
        output: What the module returned.
        of: Node of a tensor that the module returned, by identity.
    """

    nodes: list[Node]
    output: Any
    of: dict[int, Node]

    def forget(self) -> None:
        """Let go of all values."""
        for node in self.nodes:
            node.value = torch.empty(0)

    def run(self, given: Mapping[Node, Tensor], wanted: Iterable[Node]) -> list[Tensor]:
        """Compute nodes anew, in float64, with other values for some of them.

        Args:
            given: Values that take the place of those computed.
            wanted: The nodes to compute.

        Returns:
            Their values.
        """
        wanted = list(wanted)
        values: dict[Node, Tensor] = dict(given)
        for node in self._needed(values, wanted):
            values[node] = _apply(node, values)  # gradients flow where what is given asks for them
        return [_double(node.value) if node not in values else values[node] for node in wanted]

    def _needed(self, given: Mapping[Node, Tensor], wanted: Iterable[Node]) -> list[Node]:
        """The variable nodes between what is given and what is wanted, in order."""
        seen: set[Node] = set()
        stack = [node for node in wanted if node not in given]
        while stack:
            node = stack.pop()
            if node in seen or node in given or node.leaf is not None:
                continue
            seen.add(node)
            stack += node.inputs
        # What hangs on nothing that is given keeps its recorded value.
        changed: set[Node] = set()
        for node in sorted(seen, key=lambda n: n.place):
            if any(part in given or part in changed for part in node.inputs):
                changed.add(node)
        return sorted(changed, key=lambda n: n.place)


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def _apply(node: Node, values: Mapping[Node, Tensor]) -> Tensor:
    def get(part: Node) -> Tensor:
        return values[part] if part in values else _double(part.value)

    args, kwargs = _map(node.args, Node, get), _map(node.kwargs, Node, get)
    dtype = kwargs.get("dtype")
    if dtype is not None and dtype.is_floating_point:
        kwargs["dtype"] = torch.float64
    if node.target._schema.is_mutable:
        args = (args[0].clone(), *args[1:])
    result = node.target(*args, **kwargs)
    return result if node.output is None else result[node.output]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Notes every elementary operation; tensors are known by identity and kept alive."""

    def __init__(self, leaves: dict[int, tuple[LeafKind, str, bool]], path: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.leaves, self.path = leaves, path
        self.found: list[Node] = []
        self.of: dict[int, Node] = {}
        self.stale: set[Node] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _PARTS:  # what has a simpler form is recorded in it
            with self:
                return _PARTS[func](*args, **kwargs)
        inputs = _map((args, dict(kwargs)), Tensor, self.node)
        variable = any(node.variable for node in nodes(inputs))
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise UnsupportedModuleError(
                self.path[-1],
                f"it draws random numbers in its forward pass ({func}): call eval(), or take the noise out",
            )
        if func._schema.is_mutable:
            self._note_write(func, args, variable)
            if not variable:
                written = next(nodes(inputs))
                written.value = written.value.clone()  # what others have read stays as it was
        result = func(*args, **kwargs)
        several = isinstance(result, list | tuple)
        for position, tensor in enumerate(result if several else [result]):
            if isinstance(tensor, Tensor):
                node = self._add(tensor, variable, target=func, args=inputs[0], kwargs=inputs[1])
                node.output = position if several else None
        return result

    def node(self, tensor: Tensor) -> Node:
        """Find the node of a tensor; one that was never seen is a leaf."""
        found = self.of.get(id(tensor))
        if found is not None and found in self.stale:
            raise UnsupportedModuleError(
                self.path[-1],
                "it writes into a part of a tensor and reads the whole: write it without in-place changes",
            )
        if found is not None:
            return found
        kind, name, variable = self.leaves.get(id(tensor), ("constant", "", False))
        return self._add(tensor, variable, leaf=kind, name=name)

    def _add(self, tensor: Tensor, variable: bool, **fields: Any) -> Node:
        node = Node(len(self.found), tensor, self.path[-1], variable, **fields)
        self.found.append(node)
        self.of[id(tensor)] = node
        return node

    def _note_write(self, func: Any, args: tuple[Any, ...], variable: bool) -> None:
        """Remember which tensors share memory with one that is written: they may not be read any more."""
        written = args[0]
        if not isinstance(written, Tensor):
            raise UnsupportedModuleError(self.path[-1], f"{func} writes where it cannot be followed")
        if variable and written._is_view():
            storage = written.untyped_storage().data_ptr()
            self.stale |= {
                node
                for node in self.of.values()
                if node.value is not written and node.value.untyped_storage().data_ptr() == storage
            }


def _addmm(bias: Tensor, x: Tensor, w: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return _scaled(bias, beta) + _scaled(torch.mm(x, w), alpha)


def _baddbmm(bias: Tensor, x: Tensor, w: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return _scaled(bias, beta) + _scaled(torch.bmm(x, w), alpha)


def _linear(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    y = torch.mm(x.reshape(-1, x.shape[-1]), w.t()).reshape(*x.shape[:-1], w.shape[0])
    return y if bias is None else y + bias


def _scaled(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else x * factor


_PARTS: dict[Any, Any] = {
    torch.ops.aten.addmm.default: _addmm,
    torch.ops.aten.baddbmm.default: _baddbmm,
    torch.ops.aten.linear.default: _linear,
}


def trace(module: nn.Module, batch: Mapping[str, Any], vectors: Iterable[str]) -> Graph:
    """Run a module once and record what it computes.

    Args:
        module: The module, in evaluation mode.
        batch: Arguments of its forward pass by name.
        vectors: Names of the arguments that are vectors, on which the architecture acts; all others are
            constants.

    Returns:
        The pass.

    Raises:
        UnsupportedModuleError: If it draws random numbers or writes into parts of tensors.
    """
    leaves: dict[int, tuple[LeafKind, str, bool]] = {}
    for name, tensor in batch.items():
        if isinstance(tensor, Tensor):
            leaves[id(tensor)] = ("input", name, name in set(vectors))
    for name, parameter in module.named_parameters():
        leaves[id(parameter)] = ("parameter", name, True)
    path = [""]
    recorder = _Recorder(leaves, path)
    with torch.no_grad(), ExitStack() as stack:
        stack.enter_context(_slow_paths())
        stack.enter_context(_paths(module, path))
        stack.enter_context(recorder)
        output = module(**batch)
    return Graph(recorder.found, output, recorder.of)


@contextmanager
def _slow_paths() -> Iterator[None]:
    """Let attention be computed step by step, so that it can be seen."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _paths(module: nn.Module, path: list[str]) -> Iterator[None]:
    """Keep the path of the module that is running at the end of a list."""
    handles = []
    for name, part in module.named_modules():

        def enter(_: nn.Module, args: Any, name: str = name) -> None:
            path.append(name)

        def leave(*_: Any) -> None:
            path.pop()

        handles.append(part.register_forward_pre_hook(enter))
        handles.append(part.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
