"""The arguments of ``python -m empirical.sweep``."""

from __future__ import annotations

from meanfield import cli

PROG = "python -m empirical.sweep"


def run_parser() -> cli.Parser:
    """Make the parser of a sweep.

    Returns:
        The parser.
    """
    made = cli.Parser(
        prog=PROG,
        description="Measure the cells of a grid that are not in a folder yet. Exit status 0: all are there; "
        "1: some failed; 2: bad input.",
        epilog=f"example: {PROG} grid.toml --out results/sweep; then {PROG} collect results/sweep",
    )
    made.add_argument("grid", metavar="GRID", help="TOML file of lists of values (docs/sweeps.md)")
    made.add_argument("--out", required=True, metavar="DIR", help="where cells are kept; all machines see it")
    where = made.add_argument_group("where cells run")
    where.add_argument("--engine", default="local", help="local or ray (default: local)")
    where.add_argument("--workers", type=int, metavar="N", help="cells at once here (default: one per core)")
    where.add_argument(
        "--address", help="of a Ray cluster; auto: the one of this machine (default: a fresh one)"
    )
    where.add_argument(
        "--gpus-per-cell", type=float, default=0.0, metavar="X", help="with Ray: share of a GPU (default: 0)"
    )
    output = made.add_argument_group("output")
    output.add_argument("--dry-run", action="store_true", help="print cells and estimated cost, and stop")
    output.add_argument("--json", action="store_true", help="print JSON in place of text")
    return made


def collect_parser() -> cli.Parser:
    """Make the parser of `collect`.

    Returns:
        The parser.
    """
    made = cli.Parser(
        prog=f"{PROG} collect",
        description="Join the cells of a folder into one table. Exit status 0: done; 1: cells failed or were "
        "damaged and are not in it; 2: bad input.",
    )
    made.add_argument("folder", metavar="DIR", help="what was --out of the sweep")
    made.add_argument("--out", metavar="FILE", help="write the table: .parquet or .csv")
    made.add_argument("--samples", action="store_true", help="a row per seed, in place of means over seeds")
    made.add_argument("--json", action="store_true", help="print JSON in place of text")
    return made
