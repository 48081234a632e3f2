"""Which modules of a model are points, and along which dimension their tokens lie.

A stack of blocks is an outermost ``ModuleList`` or ``Sequential`` that holds two modules of one class with
parts and parameters of their own, or a ``ModuleList`` that holds a single such module. Points are

- the blocks: all such modules of a stack;
- inside a block: its direct parts that own parameters and give what a block gives, as many sequences and
  tokens of the same width: norms, attention, feed-forward networks. A list of parts stands for its entries;
- around the stacks: the parts beside a stack, and beside what holds it, that own parameters and give the
  same: the embedding, the final norm.

A block that is itself a list, and is never called, stands for its entries, with or without parameters.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn

from meanfield.errors import InputError


@dataclass(frozen=True, eq=False)
class Point:
    """A module whose output is recorded.

    Args:
        path: Path inside the recorded module.
        module: The module.
        place: ``"block"``, ``"part"`` (inside a block or around the stacks), or ``"named"`` by the user.
        batch_first: Whether its output is (batch, tokens, width), not (tokens, batch, width); None where that
            can only be told beside the blocks.
        assumed: Whether that order is the usual one, and nothing states it.
    """

    path: str
    module: nn.Module
    place: str
    batch_first: bool | None
    assumed: bool = False


def choose_points(
    root: nn.Module, named: Iterable[str] | None = None, batch_first: bool | None = None
) -> list[Point]:
    """Choose the points of a module, by its structure or by their paths.

    Args:
        root: The module.
        named: Paths of modules; the rule above if None.
        batch_first: The order of dimensions at points where no module of torch.nn says it.

    Returns:
        Points in the order of ``root.named_modules()``, or as they were named.

    Raises:
        InputError: If there are no blocks, a path is unknown, given twice or no module that is called, or the
            order of dimensions is ambiguous or contradicted.

    Example:
        >>> encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
        >>> [point.path for point in choose_points(encoder)][:3]
        ['layers.0', 'layers.0.self_attn', 'layers.0.linear1']
    """
    places = _by_structure(root) if named is None else dict.fromkeys(_checked(root, named), "named")
    modules = dict(root.named_modules(remove_duplicate=False))
    seq_first = any(getattr(part, "batch_first", True) is False for part in root.modules())
    points = []
    says = {path: _said(modules, path) for path in places}
    if batch_first is not None and set(says.values()) == {not batch_first}:
        raise InputError(
            f"batch_first={batch_first} contradicts every point: {next(iter(says)) or 'the module'} has "
            f"batch_first={not batch_first}; leave the argument out"
        )
    for path, place in places.items():
        said = says[path]
        if said is None and batch_first is None and seq_first and place != "part":
            raise InputError(
                f"{path or 'the module'} may give (batch, tokens, width) or (tokens, batch, width), as some "
                "part has batch_first=False: say which with batch_first="
            )
        stated = said if said is not None else batch_first
        assumed = stated is None and not seq_first
        points.append(Point(path, modules[path], place, assumed or stated, assumed))
    return points


def known_path(root: nn.Module, path: str) -> str:
    """Check that a module has a part of this path.

    Args:
        root: The module.
        path: The path.

    Returns:
        The path.

    Raises:
        InputError: If there is none; the nearest is suggested.

    Example:
        >>> known_path(nn.Sequential(nn.Identity()), "0")
        '0'
    """
    paths = [name for name, _ in root.named_modules(remove_duplicate=False)]
    if path in paths:
        return path
    near = difflib.get_close_matches(str(path), paths, n=1, cutoff=0.0)
    raise InputError(
        f"{type(root).__name__} has no module {path!r}: give a path of named_modules(), "
        f"such as {(near or ['0'])[0]!r}"
    )


def _checked(root: nn.Module, named: Iterable[str]) -> list[str]:
    if isinstance(named, str):
        raise InputError(f"points={named!r} is one text: give a list of paths, such as [{named!r}]")
    paths = [known_path(root, path) for path in named]
    seen: dict[nn.Module, str] = {}
    for path in paths:
        module = root.get_submodule(path)
        if module in seen:
            raise InputError(f"points {seen[module]!r} and {path!r} are one module: name it once")
        if not _is_called(module):
            raise InputError(
                f"point {path!r} is a {type(module).__name__}, which is not called: name its parts"
            )
        seen[module] = path
    if not paths:
        raise InputError("points=[] records nothing: name a module, or leave points out")
    return paths


def _by_structure(root: nn.Module) -> dict[str, str]:
    """Choose paths by the rule above, each with its place."""
    stacks = _stacks(root)
    if not stacks:
        raise InputError(
            f"{type(root).__name__} has no list of blocks: name the points, as points=['path.of.a.module']"
        )
    places: dict[str, str] = {}
    for path, stack in stacks.items():
        for name, entry in _parts(path, stack):
            if _is_block(entry) and _is_called(entry):
                places[name] = "block"
                inside = [found for part in _parts(name, entry) for found in _called(*part)]
                places.update({p: "part" for p, module in inside if _has_parameters(module)})
            elif _is_block(entry):
                places.update({p: "block" for p, _ in _called(name, entry)})
    places = dict.fromkeys(_around(root, stacks), "part") | places
    modules = dict(root.named_modules(remove_duplicate=False))
    by_module: dict[nn.Module, str] = {}  # a shared one is called by its first path
    for path, place in places.items():
        if by_module.get(modules[path]) != "block":
            by_module[modules[path]] = place
    return {path: by_module[module] for path, module in root.named_modules() if module in by_module}


def _stacks(root: nn.Module) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    for path, module in root.named_modules():
        if not any(_inside(path, outer) for outer in found) and _is_stack(module):
            found[path] = module
    return found


def _is_stack(module: nn.Module) -> bool:
    if not isinstance(module, nn.ModuleList | nn.Sequential):
        return False
    # A block used twice stands twice in its list, which is why these are not `children()`.
    kinds = Counter(type(entry) for _, entry in _parts("", module) if _is_block(entry))
    single = isinstance(module, nn.ModuleList) and len(module) == 1
    return bool(kinds) and (single or max(kinds.values()) > 1)


def _parts(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, part in module._modules.items():
        if part is not None:
            yield f"{path}.{name}" if path else name, part


def _around(root: nn.Module, stacks: Iterable[str]) -> Iterator[str]:
    """Yield the parts with parameters beside stacks, and beside what holds them."""
    for path in filter(None, stacks):
        parents = path.split(".")
        for depth in range(len(parents)):
            holder = ".".join(parents[:depth])
            for name, part in _parts(holder, root.get_submodule(holder)):
                if not any(_inside(stack, name) for stack in stacks):
                    yield from (p for p, module in _called(name, part) if _has_parameters(module))


def _called(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield a module, or the entries of one that is a list."""
    if _is_called(module):
        yield path, module
    else:
        for name, part in _parts(path, module):
            yield from _called(name, part)


def _is_called(module: nn.Module) -> bool:
    """Tell whether a module has a forward: lists and dictionaries of modules have none."""
    return type(module).forward is not nn.Module.forward


def _is_block(module: nn.Module) -> bool:
    return bool(module._modules) and _has_parameters(module)


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _inside(path: str, outer: str) -> bool:
    return not outer or path == outer or path.startswith(f"{outer}.")


def _said(modules: dict[str, nn.Module], path: str) -> bool | None:
    """Read the order of dimensions that the nearest module of torch.nn at or above a path states."""
    parents = path.split(".") if path else []
    for depth in range(len(parents), -1, -1):
        module = modules[".".join(parents[:depth])]
        if isinstance(module, nn.TransformerEncoder | nn.TransformerDecoder):
            module = module.layers[0]
        if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
            module = module.self_attn
        said = getattr(module, "batch_first", None)
        if isinstance(said, bool):
            return said
    return None
