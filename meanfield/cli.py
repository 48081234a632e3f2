"""What every command line shares: one-line errors, exit status 2, a progress bar, files written whole."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from meanfield.errors import InputError

WAIT = 2.0  # seconds before a progress bar is worth its place


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on stderr, exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Print the message on one line and exit with status 2.

        Args:
            message: What argparse found wrong.
        """
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def run(prog: str, main: Callable[[], int]) -> NoReturn:
    """Run a command and turn bad input and refused writes into one line on stderr and exit status 2.

    Args:
        prog: The command as the user typed it, for the message.
        main: The command; returns the exit status.

    Raises:
        SystemExit: Always, with the exit status.
    """
    try:
        status = main()
        sys.stdout.flush()
    except InputError as error:
        message = " ".join(str(error).split())
        sys.stderr.write(f"{prog}: {message}\n")
        raise SystemExit(2) from None
    except UnicodeEncodeError as error:
        character = error.object[error.start]
        sys.stderr.write(
            f"{prog}: the output's encoding {error.encoding!r} has no {character!a}: "
            "set PYTHONIOENCODING=utf-8\n"
        )
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        sys.stderr.write(f"{prog}: interrupted; run it again: tables that were finished are kept\n")
        raise SystemExit(130) from None
    except MemoryError:
        sys.stderr.write(f"{prog}: not enough memory: lower tokens, batch, vocabulary or width\n")
        raise SystemExit(2) from None
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left to write would fail again at exit
        if isinstance(error, BrokenPipeError):  # the reader, such as head, has had enough
            raise SystemExit(141) from None
        sys.stderr.write(f"{prog}: {error}: free space, or write elsewhere\n")
        raise SystemExit(2) from None
    raise SystemExit(status)


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


def target(option: str, path: str) -> Path:
    """Check that a file can be written, before anything takes long.

    Args:
        option: Where the path was given, for the message.
        path: The path.

    Returns:
        The path.

    Raises:
        InputError: If it is a folder, or lies in none that is there and can be written.
    """
    found = Path(path)
    if not path or found.is_dir() or not found.parent.is_dir():
        raise InputError(f"{option} {path!r} is no file in a folder that exists: give one such as table.csv")
    if not os.access(found.parent, os.W_OK):
        raise InputError(f"{option} {path!r}: its folder cannot be written; give another one")
    return found


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Args:
        path: The file, as `target` returns it.
        text: What it shall hold.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
