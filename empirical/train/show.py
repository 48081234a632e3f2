"""What the command prints: the curve of one run, or a table of many."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from empirical.train.folder import Result


def one(result: Result, curves: pd.DataFrame) -> None:
    """Print how a run went.

    Args:
        result: What became of it.
        curves: Its curve.
    """
    table = Table("step", "training loss", "validation loss", "BLEU", box=SIMPLE, padding=(0, 1, 0, 0))
    for column in table.columns:
        column.justify = "right"
    for row in curves[curves["valid_loss"].notna()].to_dict("records"):
        table.add_row(
            str(row["step"]), *(_number(row[name]) for name in ("train_loss", "valid_loss", "bleu"))
        )
    console = Console()
    console.print(table)
    console.print(f"{result.status} after {result.steps} steps and {result.seconds:.0f} s", highlight=False)


def many(tables: Mapping[str, pd.DataFrame]) -> None:
    """Print the last numbers of every configuration, over its seeds.

    Args:
        tables: What `empirical.train.collected` returned.
    """
    names = ["task", "placement", "depth", "optimizer", "lr_max", "warmup"]
    table = Table(*names, "seeds", "diverged", "validation loss", "BLEU", box=SIMPLE, padding=(0, 1, 0, 0))
    for keys, rows in tables["runs"].groupby(names, sort=True):
        diverged = int((rows["status"] == "diverged").sum())
        cells = [f"{key:g}" if isinstance(key, float) else str(key) for key in keys]
        scores = [_spread(rows[name]) for name in ("valid_loss", "bleu")]
        table.add_row(*cells, str(len(rows)), str(diverged), *scores)
    Console().print(table)


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _spread(values: pd.Series[float]) -> str:
    if values.isna().all():
        return ""
    ends = f"{values.min():.3g} to {values.max():.3g}"
    return f"{values.mean():.3f} ({ends})" if len(values) > 1 else f"{values.mean():.3f}"
