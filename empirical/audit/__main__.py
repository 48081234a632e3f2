"""`python -m empirical.audit`: does somebody's model have the gradients that theory predicts?

Exit status 0: prediction and measurement agree; 1: they disagree; 2: bad input.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from empirical.audit.arguments import PROG, parser, subject_from
from empirical.audit.audit import audit
from empirical.audit.show import as_json, as_table
from meanfield import cli
from meanfield.errors import InputError, MissingRuleError
from meanfield.predict.__main__ import patience


def _target(option: str, path: str | None) -> Path | None:
    """Check that a file can be written before anything takes long."""
    if path is None:
        return None
    target = Path(path)
    if not path or target.is_dir() or not target.parent.is_dir():
        raise InputError(f"{option} {path!r} is no file in a folder that exists: give one such as audit.html")
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"{option} {path!r}: its folder cannot be written; give another one")
    return target


def _write(target: Path, text: str) -> None:
    """Write a file whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
    out, page = _target("--out", args.out), _target("--html", args.html)
    subject = subject_from(args)
    try:
        with patience("audit", args.seeds + max(args.samples, 0)) as advance:
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
    if page is not None:
        from figures.audit_page import as_page  # the comparison layer: a command is above it

        _write(page, as_page(found))
    if args.json:
        text = as_json(found)
    else:
        from rich.console import Console

        terminal = out is None and sys.stdout.isatty()
        text = as_table(found, Console() if terminal else None)
    if out is None:
        sys.stdout.write(text)
    else:
        _write(out, text)
    return int(not found.agrees)


if __name__ == "__main__":
    cli.run(PROG, main)
