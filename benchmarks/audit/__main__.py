"""Predict and measure the gradients of families of models that others wrote.

--list builds every family at small sizes and runs it forward and backward.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch
import transformers

from benchmarks.audit.facts import facts
from benchmarks.audit.families import families, untuned
from benchmarks.audit.family import SMALL
from meanfield.cli import Parser, run


def show_families() -> Iterator[str]:
    """Run every variant of every family, and yield one line on each."""
    line = "{:<30} {:<14} {:<7} {:>10} {:>8} {:>9} {:>7} {:>10}"
    yield line.format("family", "library", "variant", "output", "tensors", "entries", "unused", "not drawn")
    for family in (families(SMALL) | untuned(SMALL)).values():
        for variant, model in family.variants.items():
            found = facts(model)
            shape = "x".join(map(str, found.shape)) or "scalar"
            numbers = (found.tensors, found.parameters, len(found.unused), len(found.constant))
            yield line.format(family.name, family.library, variant, shape, *numbers)


def main() -> int:
    """Run the command line."""
    parser = Parser(prog="python -m benchmarks.audit", description=__doc__)
    parser.add_argument("--list", action="store_true", help="build and run every family at small sizes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity(logging.ERROR)
    if options.list:
        for line in show_families():
            print(line)
    return 0


if __name__ == "__main__":
    run("python -m benchmarks.audit", main)
