"""What every command line of the toolkit shares: one-line errors and exit status 2 for bad input."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from meanfield.errors import InputError


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
