"""`python -m empirical.audit`: does somebody's model have the gradients that theory predicts?

Exit status 0: prediction and measurement agree; 1: they disagree; 2: bad input.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from empirical.audit.arguments import PROG, parser, subject_from
from empirical.audit.audit import Audit, audit
from empirical.audit.show import as_json, as_table
from empirical.audit.subjects import Subject
from empirical.ranks import launched
from meanfield import cli
from meanfield.errors import InputError, MissingRuleError


def main(argv: list[str] | None = None) -> int:
    """Audit what was asked for, and print or write it.

    Args:
        argv: Arguments; those of the process when left out.

    Returns:
        Exit status: 0 if prediction and measurement agree, else 1.

    Raises:
        InputError: If the input cannot be used, or the theory has no rule for a part of the architecture.
    """
    args = parser().parse_args(argv)
    if args.seeds < 2 or args.seed < 0:
        raise InputError(f"--seeds {args.seeds} --seed {args.seed}: give at least 2 seeds, from 0 upwards")
    with launched() as ranks:
        first = ranks is None or ranks.rank == 0  # of several processes, the one that says and writes
        out, page, subject = (
            _prepared(args, first) if ranks is None else ranks.agree(lambda: _prepared(args, first))
        )
        try:
            bar = cli.patience("audit", args.seeds + max(args.samples, 0)) if first else nullcontext()
            with bar as advance:
                found = audit(
                    subject.build,
                    subject.batch,
                    seeds=range(args.seed, args.seed + args.seeds),
                    loss=args.loss,
                    device=args.device,
                    dtype=args.dtype,
                    samples=args.samples,
                    tolerance=args.tolerance,
                    progress=advance,
                )
        except MissingRuleError as error:
            raise InputError(str(error)) from None
        if first:
            _tell(found, args.json, out, page)
    return int(not found.agrees)


def _prepared(args: argparse.Namespace, first: bool) -> tuple[Path | None, Path | None, Subject]:
    """Where to write, and what is audited; only the process that writes looks at the folders."""
    out = None if args.out is None or not first else cli.target("--out", args.out)
    page = None if args.html is None or not first else cli.target("--html", args.html)
    return out, page, subject_from(args)


def _tell(found: Audit, json: bool, out: Path | None, page: Path | None) -> None:
    if page is not None:
        from figures.audit_page import as_page  # the comparison layer: a command is above it

        cli.write(page, as_page(found))
    if json:
        text = as_json(found)
    else:
        from rich.console import Console

        terminal = out is None and sys.stdout.isatty()
        text = as_table(found, Console() if terminal else None)
    if out is None:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        cli.write(out, text)


if __name__ == "__main__":
    cli.run(PROG, main)
