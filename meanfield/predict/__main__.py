"""`python -m meanfield.predict`: the gradient norm of every parameter of a preset or a configuration file.

Exit status 0: printed or written; 2: bad input.
"""

from __future__ import annotations

import inspect
import sys
import textwrap

from meanfield import cli
from meanfield.errors import InputError, MissingRuleError
from meanfield.initialization import initializations
from meanfield.predict.arguments import PAIRS, PROG, architecture_from, parser
from meanfield.presets import OPTIONS, presets


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
        with cli.patience(text, args.samples or None) as advance:
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
        cli.write(cli.target("--out", args.out), text)
    return 0


if __name__ == "__main__":
    cli.run(PROG, main)
