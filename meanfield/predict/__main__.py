"""`python -m meanfield.predict`: the gradient norm of every parameter of a preset or a configuration file.

Exit status 0: printed or written; 2: bad input.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from meanfield import cli
from meanfield.errors import InputError, MissingRuleError
from meanfield.initialization import initializations
from meanfield.predict.arguments import PAIRS, PROG, architecture_from, parser
from meanfield.presets import OPTIONS, presets

WAIT = 2.0  # seconds before a progress bar is worth its place


@contextlib.contextmanager
def patience(text: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr, where that is a terminal, while something takes longer than `WAIT`.

    Args:
        text: What is done.
        total: Of how many parts; None where nobody knows.

    Yields:
        What to call with the number of parts that are done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done: None
        return
    progress = Progress(*columns, console=console, transient=True)
    task = progress.add_task(text, total=total)
    timer = threading.Timer(WAIT, progress.start)
    timer.start()
    try:
        yield lambda done: progress.advance(task, done)
    finally:
        timer.cancel()
        timer.join()
        if progress.live.is_started:
            progress.stop()


def _list() -> str:
    def wrapped(text: str, indent: int) -> str:
        return textwrap.fill(text, 80, initial_indent=" " * indent, subsequent_indent=" " * indent)

    lines = ["Presets (N: norm, F: sub-layer, A: attention, l: layer of L):", ""]
    for row in presets().to_dict("records"):
        used = f"; {row['hugging_face']}" if row["hugging_face"] else ""
        lines += [f"  {row['name']}", wrapped(f"{row['equation']}  [{row['source']}{used}]", 6)]
    for name, preset in PAIRS.items():
        lines += [f"  {name}", wrapped((inspect.getdoc(preset) or "").splitlines()[0], 6)]
    lines += ["", "Initialisations, variance of an entry (d: width):", ""]
    for row in initializations().to_dict("records"):
        lines += [f"  {row['name']}", wrapped(f"{row['variances']}  [{row['source']}; {row['used_by']}]", 6)]
    lines += [
        "",
        "Options of presets, with --set where they have no flag:",
        "",
        wrapped(", ".join(OPTIONS), 2),
    ]
    return "\n".join([*lines, ""])


def _write(text: str, path: str) -> None:
    target = Path(path)
    if not path or target.is_dir() or not target.parent.is_dir():
        raise InputError(f"--out {path!r} is no file in a folder that exists: give one such as table.csv")
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
    """Predict what was asked for, and print or write it.

    Args:
        argv: Arguments; those of the process when left out.

    Returns:
        Exit status 0.

    Raises:
        InputError: If the input cannot be used, or the theory has no rule for a part of the architecture.
    """
    args = parser().parse_args(argv)
    if args.list:
        sys.stdout.write(_list())
        return 0
    arch = architecture_from(args)
    from rich.console import Console

    from meanfield.predict import formats, predict, show

    try:
        text = f"drawing {args.samples} models" if args.samples else "predicting"
        with patience(text, args.samples or None) as advance:
            prediction = predict(
                arch,
                tokens=args.tokens,
                batch=args.batch,
                loss=args.loss,
                label_smoothing=args.label_smoothing,
                samples=args.samples or 0,
                progress=advance,
            )
    except MissingRuleError as error:
        raise InputError(str(error)) from None
    if args.format == "table":
        terminal = args.out is None and sys.stdout.isatty()
        text = show.as_table(prediction, args.layers, Console() if terminal else None)
    else:
        text = formats.FORMATS[args.format](prediction)
    if args.out is None:
        sys.stdout.write(text)
    else:
        _write(text, args.out)
    return 0


if __name__ == "__main__":
    cli.run(PROG, main)
