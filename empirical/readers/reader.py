"""`read`: from a module to the architecture that it is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from empirical.build import Architecture
from empirical.readers.assemble import Assembler, Placed
from empirical.readers.examples import arguments, example, vectors
from empirical.readers.inputs import entrance
from empirical.readers.interpret import Interpreter
from empirical.readers.laws import Sample, pooled, sample
from empirical.readers.layers import parted, transformer
from empirical.readers.notes import dependent, lopsided, notes
from empirical.readers.reading import Reading, Slot, Stream, UnsupportedModuleError
from empirical.readers.structure import Paths
from empirical.readers.terms import Mixed, Root, Scaled, Term, Weight
from empirical.readers.trace import Graph, Node, trace
from empirical.readers.verify import check
from meanfield import ops
from meanfield.errors import InputError
from meanfield.ops import Draw, ParameterKey


def read(module: nn.Module, batch: Any = None) -> Architecture:
    """Read a module as an architecture value.

    The module's own forward pass is run once and recorded; norms, residual sums, attention and feed-forward
    ops are recognised in what it computes, not by the names of its classes. Variances are those of its actual
    weights. The result is proved: built anew and given other weights, it computes what the module computes.

    Args:
        module: Any Transformer.
        batch: What it reads: a tensor, a tuple, or a dictionary of arguments; made up where None.

    Returns:
        The architecture.

    Raises:
        UnsupportedModuleError: If a part is not understood; the message names the first one.

    Example:
        >>> layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        >>> arch = read(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False))
        >>> arch.placement, arch.depth, arch.attention.heads, arch.feed_forward.activation
        ('post_ln', 3, 2, 'relu')
    """
    return read_module(module, batch).arch


def read_module(module: nn.Module, batch: Any = None) -> Reading:
    """Read a module with its parameters' names and what a batch gives.

    Args:
        module: Any Transformer.
        batch: What it reads: a tensor, a tuple, or a dictionary of arguments; made up where None.

    Returns:
        Architecture, slots and streams.

    Raises:
        UnsupportedModuleError: If a part is not understood; the message names the first one.
        InputError: If the batch does not fit.
    """
    _check_tensors(module)
    given = arguments(module, example(module) if batch is None else batch)
    copied = _on_cpu(module)
    given = {name: _host(value) for name, value in given.items()}
    graph = trace(copied, given, vectors(given))
    reader = Interpreter(graph)
    reader.read()
    node = output_node(graph)
    factor, term, rows = reader.term(node)
    if factor != 1:
        term = Scaled(width=term.width, at=node, layout=term.layout, x=term, factor=factor)
    found = _Reader(copied, term)
    reading = found.read(lambda *parts: check(graph, (node, rows), *parts))
    graph.forget()  # terms keep their nodes, and need no values any more
    return reading


class _Reader:
    """The second half: terms in hand, from structure to values."""

    def __init__(self, module: nn.Module, term: Term) -> None:
        self.module, self.term = module, term
        self.tensors = dict(module.named_parameters())
        self.samples: dict[ParameterKey, Sample] = {}

    def first_law(self, key: ParameterKey, weight: Weight) -> Draw:
        """The law of one tensor by itself."""
        values = self.tensors[weight.name].reshape(-1)[weight.index]
        self.samples[key] = sample(values + weight.offset)
        return self.samples[key].draw()

    def read(self, prove: Callable[..., None] | None = None) -> Reading:
        """Take the laws of the weights, and build the architecture with them."""
        try:
            self.assemble(self.term, self.first_law)
        except UnsupportedModuleError:
            raise
        except InputError as error:  # an op that cannot be what was read
            raise UnsupportedModuleError("", str(error)) from None
        laws = pooled(self.samples)
        arch, streams, placed, roots = self.assemble(self.term, lambda key, _: laws[key])
        if prove is not None:
            prove(arch, roots, placed)
        slots, shared = _slots(placed, self.tensors)
        said = notes(self.module, slots, shared)
        stacks = (arch.encoder, arch.decoder) if isinstance(arch, ops.EncoderDecoder) else (arch,)
        uneven = [
            lopsided(root, order, stream.gram, stack)
            for (root, order, _), stream, stack in zip(roots, streams, stacks, strict=True)
        ]
        why = (*dependent(self.module, slots), *(text for text in uneven if text))
        reading = Reading(arch, slots, streams, shared, said, why, laws, self.again)
        self.module, self.tensors = nn.Module(), {}  # not kept alive
        return reading

    def again(self, module: nn.Module) -> Reading:
        """Read another module of the same structure: the laws of its weights alone."""
        _check_tensors(module)
        return _Reader(_on_cpu(module), self.term).read()

    def assemble(
        self, term: Term, laws: Any
    ) -> tuple[Architecture, tuple[Stream, ...], list[Placed], list[Any]]:
        """Build the architecture with given laws."""
        root = _root(term)
        stack = parted(Paths(term, root).steps(term, root), root.width)
        made = Assembler(laws)
        arch = self.stack(stack, made, root, None)
        if not made.memories:
            self.check_roots(term, [root])
            return arch[0], (arch[1],), arch[2], [arch[3]]
        memory = made.memories[0]
        if any(other is not memory for other in made.memories):
            raise UnsupportedModuleError(memory.at.module, "cross-attention that reads different memories")
        source = _root(memory)
        self.check_roots(term, [root, source])
        if memory is source:
            encoder = _given(source, made)
        else:
            steps = Paths(memory, source).steps(memory, source)
            encoder = self.stack(
                parted(steps, source.width), Assembler(laws, prefix="encoder."), source, made
            )
        made = Assembler(laws, prefix="decoder.")
        decoder = self.stack(stack, made, root, None)
        placed = [*encoder[2], *decoder[2]]
        common = _common_table(placed)
        pair = ops.EncoderDecoder("read", encoder[0], decoder[0], shared_embedding=common is not None)
        placed = [
            replace(p, key=_COMMON) if p.weight.name == common and p.key.layer == 0 else p for p in placed
        ]
        return pair, (encoder[1], decoder[1]), placed, [encoder[3], decoder[3]]

    def stack(
        self, stack: Any, made: Assembler, root: Root, decoder: Assembler | None
    ) -> tuple[Any, Stream, list[Placed], Any]:
        """One stack: its architecture, stream, parameters, and root with the order of its tokens."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        trial = Assembler(made.laws, prefix=made.prefix)
        transformer(stack, trial, tables={}, tied_to=None, init="read")
        order = trial.queries
        assert order is not None
        own = [mask.real for cross, mask in trial.masks if not cross]
        real = torch.stack([
            *own,
            *([] if decoder is None else [m.real for cross, m in decoder.masks if cross]),
        ]).all(0)
        if not all(torch.equal(mask | ~real, torch.ones_like(real)) for mask in own):
            raise UnsupportedModuleError("", "layers that take different tokens for padding")
        door = entrance(root, order, real, made.laws, shapes, made.prefix)
        arch = transformer(stack, made, tables=door.tables, tied_to=door.ids_of, init="read")
        return arch, door.stream, [*door.placed, *made.placed], (root, order, real)

    def check_roots(self, term: Term, roots: list[Root]) -> None:
        """Refuse vectors that enter anywhere else."""
        seen: set[int] = set()
        stack = [term]
        while stack:
            found = stack.pop()
            if id(found) in seen:
                continue
            seen.add(id(found))
            stack += found.sources
            if isinstance(found, Root) and found not in roots:
                raise UnsupportedModuleError(
                    found.at.module, "vectors enter here that are no input of the stack"
                )


def _given(source: Root, decoder: Assembler) -> tuple[Any, Stream, list[Placed], Any]:
    """A memory that is given: vectors of which no layer is known."""
    order = decoder.memory_rows
    assert order is not None
    real = torch.stack([mask.real for cross, mask in decoder.masks if cross]).all(0)
    door = entrance(source, order, real, decoder.laws, {}, "encoder.")
    if source.made.parts:
        raise UnsupportedModuleError(source.at.module, "a memory that parameters make without any layer")
    stack = ops.Transformer("memory", "none", "read", (), given=source.width)
    return stack, door.stream, [], (source, order, real)


_COMMON = ParameterKey(0, "embedding", "weight")
"""The table of words that encoder and decoder share."""


def _common_table(placed: list[Placed]) -> str | None:
    """Name of the tensor that embeds the words of both stacks, if it is one."""
    tables = [p.weight.name for p in placed if p.key.layer == 0 and p.key.module.endswith(".embedding")]
    return tables[0] if len(tables) == 2 and tables[0] == tables[1] else None


def _root(term: Term) -> Root:
    """The vectors that a stack's tokens come from, by its queries."""
    seen: set[int] = set()
    found: list[Root] = []
    stack = [term]
    while stack:
        part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, Root):
            found.append(part)
        stack += (part.probabilities.scores.query.term,) if isinstance(part, Mixed) else part.sources
    if len(found) != 1:
        where = found[0].at.module if found else term.at.module
        raise UnsupportedModuleError(where, f"{len(found)} streams of vectors enter one stack: one is read")
    return found[0]


def _slots(
    placed: list[Placed], tensors: Mapping[str, Tensor]
) -> tuple[tuple[Slot, ...], tuple[tuple[str, ...], ...]]:
    """Slots, and which of them are one tensor in several places."""
    slots: list[Slot] = []
    whole: dict[str, list[ParameterKey]] = {}
    for p in placed:
        size = tensors[p.weight.name].numel()
        if p.key in {slot.key for slot in slots}:
            continue  # a table that both stacks read
        whole_tensor = p.weight.index.numel() == size or p.key.layer == 0
        part = None if whole_tensor else p.key.module.rsplit(".", 1)[-1]
        if part is None:
            whole.setdefault(p.weight.name, []).append(p.key)
        slots.append(Slot(p.weight.name, part, p.key, p.weight.index, p.weight.offset))
    shared = tuple(tuple([name] * len(keys)) for name, keys in whole.items() if len(keys) > 1)
    return tuple(slots), shared


def output_node(graph: Graph) -> Node:
    """The output that the loss reads: logits, last hidden states, or the first tensor.

    Args:
        graph: The pass.

    Returns:
        Its node.

    Raises:
        UnsupportedModuleError: If there is none.
    """
    output = graph.output
    for name in ("logits", "last_hidden_state"):
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor):
            output = found
            break
    while not isinstance(output, Tensor):
        if not isinstance(output, list | tuple) or not output:
            raise UnsupportedModuleError(
                "", f"its output is a {type(output).__name__}: logits, last_hidden_state or a tensor is read"
            )
        output = output[0]
    node = graph.of.get(id(output))
    if node is None or not node.variable:
        raise UnsupportedModuleError("", "its output does not depend on its parameters")
    return node


def _on_cpu(module: nn.Module) -> nn.Module:
    """The module in evaluation mode, in single precision and on the host; a copy where it has to change."""
    plain = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in module.parameters())
    if plain and not any(part.training for part in module.modules()):
        return module
    copied = copy.deepcopy(module).eval()
    return copied if plain else copied.to("cpu", torch.float32)


def _host(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    return value.float() if value.is_floating_point() else value


def _check_tensors(module: nn.Module) -> None:
    for name, tensor in module.named_parameters():
        if tensor.is_meta:
            raise UnsupportedModuleError(
                name, "it is on the meta device and has no values: load or draw weights first"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise UnsupportedModuleError(name, "it holds a NaN or an infinity: draw or load it anew")
