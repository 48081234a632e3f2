"""A worker process of the local engine: cells come in and outcomes go out through one connection.

A process of its own rather than one of `multiprocessing`: that would run the user's script again in each.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from empirical.sweep.cell import Cell


def serve(connection: Connection) -> None:
    """Run cells until the driver is gone.

    Args:
        connection: To the driver: (cell, folder) comes in; None, when ready, and outcomes go out.
    """
    jobs: queue.SimpleQueue[tuple[Cell, Path]] = queue.SimpleQueue()

    def receive() -> None:
        try:
            while True:
                jobs.put(connection.recv())
        except (EOFError, OSError):  # the driver is gone, killed perhaps: stop in the middle of a cell
            os._exit(0)

    import torch

    from empirical.sweep.outcome import attempt

    torch.set_num_threads(1)
    threading.Thread(target=receive, daemon=True).start()
    connection.send(None)
    while True:
        connection.send(attempt(*jobs.get()))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
