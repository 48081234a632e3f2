"""A prediction as JSON, CSV and LaTeX, for other programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from meanfield.answers import by_layer
from meanfield.predict.show import number, without_noise
from meanfield.predict.table import Prediction

if TYPE_CHECKING:
    import pandas as pd


def as_json(prediction: Prediction) -> str:
    """Render a prediction as JSON: ``configuration``, ``parameters`` and ``layers``.

    Args:
        prediction: The prediction.

    Returns:
        The text; null stands for what is not finite, such as the logarithm of 0.
    """
    df = prediction.df
    own = df.drop(columns=list(prediction.configuration))
    found = {
        "configuration": prediction.configuration,
        "parameters": _records(own),
        "layers": _records(by_layer(df)),
    }
    return json.dumps(found, indent=1, allow_nan=False) + "\n"


def _records(df: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries; what is not finite, such as the logarithm of 0, becomes None."""
    infinite = {float("inf"), float("-inf")}
    return [
        {str(key): None if value != value or value in infinite else value for key, value in row.items()}
        for row in df.to_dict("records")
    ]


def as_csv(prediction: Prediction) -> str:
    """Render the table of parameters as CSV, key columns first.

    Args:
        prediction: The prediction.

    Returns:
        The text.
    """
    return prediction.df.to_csv(index=False, lineterminator="\n")


def as_latex(prediction: Prediction) -> str:
    """Render the table of parameters as a LaTeX tabular for the booktabs package.

    Args:
        prediction: The prediction.

    Returns:
        The text, without document around it.
    """
    df = prediction.df
    sampled = "grad_sq_sd" in df
    lines = [
        r"\begin{tabular}{rll" + ("rrr" if sampled else "r") + "}",
        r"\toprule",
        r"layer & module & parameter & $\|\partial L/\partial\theta\|_F$"
        + (r" & $2.5\,\%$ & $97.5\,\%$" if sampled else "")
        + r" \\",
        r"\midrule",
    ]
    previous = None
    for row in without_noise(df).to_dict("records"):
        if previous is not None and row["layer"] != previous:
            lines.append(r"\addlinespace")
        previous = row["layer"]
        values = [row["grad_norm"]]
        if sampled:
            values += [max(0.0, row[f"grad_sq_{end}"]) ** 0.5 for end in ("low", "high")]
        names = (str(row[key]).replace("_", r"\_") for key in ("layer", "module", "parameter"))
        lines.append(" & ".join([*names, *(f"${_latex_number(value)}$" for value in values)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _latex_number(value: float) -> str:
    mantissa, _, exponent = number(value).partition("e")
    return rf"{mantissa} \times 10^{{{int(exponent)}}}" if exponent else mantissa


FORMATS: dict[str, Callable[[Prediction], str]] = {
    "json": as_json,
    "csv": as_csv,
    "latex": as_latex,
}
