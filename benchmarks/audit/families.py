"""All families by name: those that the reader was written for, and those that nobody tuned it for."""

from __future__ import annotations

from importlib import import_module

from benchmarks.audit.family import Family, Sizes

MODULES = {"torch": "torch_nn", "transformers": "huggingface", "x-transformers": "xt"}
"""Where the families of each library are; read only when asked for, as the libraries are optional."""


def families(sizes: Sizes, *libraries: str) -> dict[str, Family]:
    """Return the families that the reader was written for.

    Args:
        sizes: Sizes of the modules.
        libraries: Those to look at, all of them by default.

    Returns:
        Families by name.
    """
    found = [
        family
        for library in libraries or MODULES
        for family in import_module(f"benchmarks.audit.{MODULES[library]}").families(sizes)
    ]
    return {family.name: family for family in found}


def untuned(sizes: Sizes) -> dict[str, Family]:
    """Return families that nobody looked at when the reader was written, by name."""
    return {family.name: family for family in import_module("benchmarks.audit.untuned").families(sizes)}
