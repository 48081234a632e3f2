"""A grid: lists of values, multiplied out into cells."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from empirical.device import DEVICES
from empirical.draws import seed_number
from empirical.setting import Setting
from empirical.store import BLOCK
from empirical.sweep.cell import SETTINGS, Cell
from empirical.sweep.methods import METHODS
from empirical.sweep.values import convert, is_tie, tied
from meanfield.errors import InputError, MissingRuleError, UnknownNameError, positive_integer
from meanfield.presets import OPTIONS, PRESETS, Options, encoder_decoder, paper_encoder_decoder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ARCHITECTURES: dict[str, Callable[..., Any]] = {
    **PRESETS,
    "encoder_decoder": encoder_decoder,
    "paper_encoder_decoder": paper_encoder_decoder,
}
SEEDS = {"seeds": 64, "first_seed": 0, "seed_block": BLOCK}
MOST = 100_000  # cells of a grid
_OWN = {name for preset in ARCHITECTURES.values() for name in inspect.signature(preset).parameters}
KEYS = sorted({"arch", "method", *SEEDS, *SETTINGS, *OPTIONS, *_OWN} - {"options"})


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells of a grid.

    Args:
        cells: In the order of the file, each once.
        merged: How many were left out because they were there already.
    """

    cells: tuple[Cell, ...]
    merged: int = 0


def load(path: Path) -> Grid:
    """Read a grid from a TOML file.

    Args:
        path: The file.

    Returns:
        The grid.

    Raises:
        InputError: If the file cannot be read or is not TOML, or as for `grid`.
    """
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise InputError(f"grid {str(path)!r} cannot be read ({error.strerror}): give a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"grid {str(path)!r} is not TOML: {error}") from error
    try:
        return grid(table)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def grid(table: Mapping[str, Any]) -> Grid:
    """Multiply out a grid, as TOML gives it, and check every cell.

    Keys are `KEYS`; a list stands for each of its values in turn. ``grid`` is a list of such tables, to which
    the keys beside it are common.

    Args:
        table: Key -> value or list of values.

    Returns:
        The grid.

    Raises:
        InputError: If a key or value is unknown, or a cell makes no sense; nothing is left out silently.

    Example:
        >>> sizes = {"arch": "post_ln", "width": [16, 32], "heads": "width / 8", "depth": [1, 2]}
        >>> len(grid({**sizes, "seeds": 30}).cells)  # two blocks of seeds each
        8
    """
    common = {key: value for key, value in table.items() if key != "grid"}
    parts = table.get("grid", [{}])
    if not isinstance(parts, list) or not parts or not all(isinstance(part, Mapping) for part in parts):
        raise InputError("grid is no list of tables: write [[grid]] above each one, or leave it out")
    cells: dict[str, Cell] = {}
    wrong: dict[str, list[str]] = {}
    points = made = 0
    for part in parts:
        for point in _points({**common, **part}):
            points += 1
            try:
                for cell in _cells(point):
                    made += 1
                    cells.setdefault(cell.name, cell)
            except (InputError, MissingRuleError) as error:
                wrong.setdefault(str(error), []).append(_shown(point))
            if made > MOST:
                raise InputError(f"the grid has more than {MOST:,} cells: make it several sweeps")
    if wrong:
        raise InputError(_refusal(wrong, points))
    return Grid(tuple(cells.values()), made - len(cells))


def _points(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one value of every key, for all combinations."""
    for key, value in table.items():
        if key not in KEYS:
            raise UnknownNameError("key of a grid", key, KEYS)
        if key in SEEDS and isinstance(value, list):
            raise InputError(f"{key}={value} is a list: give one number; seeds count from first_seed")
        if value == []:
            raise InputError(f"{key}=[] is empty: give at least one value, or leave it out")
    lists = [value if isinstance(value, list) else [value] for value in table.values()]
    if math.prod(map(len, lists)) > MOST:
        raise InputError(f"the grid has more than {MOST:,} cells: make it several sweeps")
    for values in itertools.product(*lists):
        yield dict(zip(table, values, strict=True))


def _refusal(wrong: Mapping[str, list[str]], points: int) -> str:
    """Say which cells cannot be: one reason in full, the first cell that it concerns, and how many more."""
    reason, concerned = next(iter(wrong.items()))
    if points == 1:
        return reason
    count = sum(map(len, wrong.values()))
    others = f"; {len(wrong) - 1} more reasons for others" if len(wrong) > 1 else ""
    return f"{count} of {points} configurations cannot be, such as ({concerned[0]}): {reason}{others}"


def _shown(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in point.items() if key not in SEEDS)


def _cells(point: Mapping[str, Any]) -> Iterator[Cell]:
    """Make the cells of one configuration: one for each block of seeds."""
    values = {key: tied(key, value, point) if is_tie(value) else value for key, value in point.items()}
    method = convert("method", values.pop("method", "ensemble"), str)
    if method not in METHODS:
        raise UnknownNameError("method", method, METHODS)
    seeds = {key: convert(key, values.pop(key, default), int) for key, default in SEEDS.items()}
    count, block = (
        positive_integer("seeds", seeds["seeds"]),
        positive_integer("seed_block", seeds["seed_block"]),
    )
    first = seed_number(seeds["first_seed"])
    if count > MOST * block:
        raise InputError(
            f"seeds={count} in blocks of {block} are more than {MOST:,} cells: give larger blocks"
        )
    if "arch" not in values:
        raise InputError("a grid needs arch: give the name of a preset, such as arch = 'pre_ln'")
    name = convert("arch", values.pop("arch"), str)
    if name not in ARCHITECTURES:
        raise UnknownNameError("arch", name, ARCHITECTURES)
    setting = {**SETTINGS, **_setting({key: values.pop(key) for key in SETTINGS if key in values})}
    given = _keywords(name, values, setting)
    arch = ARCHITECTURES[name](**given)
    options = {"arch": name, **_defaults(name), **given, **setting, "method": method}
    for start in range(first, first + count, block):
        yield Cell(arch, method, setting, tuple(range(start, min(start + block, first + count))), options)


def _setting(given: Mapping[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(Setting)
    setting = {key: convert(key, value, hints[key]) for key, value in given.items()}
    device = setting.get("device", "cpu")
    if device not in DEVICES:
        raise UnknownNameError("device", device, [name for name in DEVICES if name != "auto"])
    if device == "auto":
        raise InputError("device='auto' depends on the machine that a cell runs on: give 'cpu' or 'cuda'")
    return setting


def _keywords(name: str, values: Mapping[str, Any], setting: Mapping[str, Any]) -> dict[str, Any]:
    """Check the keywords of a preset and bring them to its types."""
    preset = ARCHITECTURES[name]
    parameters = inspect.signature(preset).parameters
    hints = get_type_hints(preset)
    hints = {key: hints[key] for key in parameters if key != "options"}
    needed = [key for key in hints if parameters[key].default is inspect.Parameter.empty]
    if "options" in parameters:
        hints = {**get_type_hints(Options), **hints}
    for key in values:
        if key not in hints:
            raise UnknownNameError(f"option of {name}", key, hints)
    given = {key: convert(key, value, hints[key]) for key, value in values.items()}
    for key in needed:
        if key not in given:
            raise InputError(f"{name} needs {key}: give {key} in the grid")
    if "tokens" in hints:  # Admin profiles a sequence: the one that is measured
        given["tokens"] = setting["tokens"]
    return given


def _defaults(name: str) -> dict[str, Any]:
    """Collect what a preset's keywords are when they are not given."""
    parameters = inspect.signature(ARCHITECTURES[name]).parameters
    general = {option.name: option.default for option in dataclasses.fields(Options)}
    own = {
        key: parameter.default
        for key, parameter in parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    return {**(general if "options" in parameters else {}), **own}
