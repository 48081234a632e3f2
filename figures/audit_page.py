"""An audit as one page of its own: plots, table, configuration and what the numbers mean."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from empirical.audit import Audit
from empirical.audit.show import finding, percent, ratio_text, summary
from empirical.audit.statistics import CHANCE, DISAGREES, FLAGS, STANDARD_ERRORS, UNLIKELY, ZERO
from empirical.store import environment
from figures.audit_plots import as_svg, by_layer, coverage, panels, ratios
from figures.style import style
from meanfield.predict.show import number

if TYPE_CHECKING:
    import pandas as pd

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: #fff; color: #1a1a1a;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
.verdict { border-left: .4rem solid; padding: .5rem .8rem; font-weight: 600; max-width: none; }
.agree { border-color: #0072B2; background: #eaf3f9; }
.disagree { border-color: #D55E00; background: #fcefe6; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: .5rem; }
figure { margin: 0; overflow-x: auto; }
figure.wide svg { min-width: 38rem; }
svg { display: block; width: 100%; height: auto; }
figcaption { font-size: .85rem; color: #444; max-width: 46rem; }
.scroll { overflow-x: auto; border: 1px solid #ddd; }
table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .2rem .5rem; text-align: right; white-space: nowrap; }
th { background: #f4f4f4; }
td.name, th.name { text-align: left; }
tr.section td { border-top: 1px solid #bbb; }
tr.off td { background: #fcefe6; font-weight: 600; }
tr.odd td { background: #fdf7e3; }
code { font-size: .9em; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0; }
dt { color: #444; }
dd { margin: 0; overflow-wrap: anywhere; }
"""


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _facts(values: dict[str, Any]) -> str:
    pairs = (
        f"<dt>{html.escape(str(key))}</dt><dd>{html.escape(str(value))}</dd>"
        for key, value in values.items()
        if value is not None
    )
    return f"<dl>{''.join(pairs)}</dl>"


def _figure(svg: str, caption: str, wide: bool = False) -> str:
    start = "<figure class=wide>" if wide else "<figure>"
    return f"{start}{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"


HEAD = ["parameter", "layer", "what it is", "predicted", "measured", "ratio", "95 %", "flag", "in band"]


def _table(df: pd.DataFrame) -> str:
    lines, previous = [], None
    for row in df.to_dict("records"):
        exact = row["flag"] == ZERO
        classes = ["section"] if previous not in (None, row["layer"]) else []
        classes += [{DISAGREES: "off", UNLIKELY: "odd"}.get(row["flag"], "")]
        previous = row["layer"]
        one, interval = ratio_text(row)
        cells = [
            str(row["layer"]) if row["layer"] >= 0 else "",
            f"{row['module']} {row['role']}".strip(),
            number(row["grad_sq"]) if row["grad_sq"] == row["grad_sq"] else "",
            number(0.0 if exact else row["grad_sq_hat"]),
            one,
            interval,
            str(row["flag"]),
            f"{100 * row['inside']:.0f} %" if row["inside"] == row["inside"] else "",
        ]
        start = f'<td class="name"><code>{html.escape(str(row["parameter"]))}</code></td>'
        lines.append(
            f'<tr class="{" ".join(classes)}">{start}'
            + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
            + "</tr>"
        )
    head = "".join(
        f'<th scope="col"{" class=name" if k == 0 else ""}>{name}</th>' for k, name in enumerate(HEAD)
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="every tensor">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _meaning(audit: Audit) -> str:
    given = audit.configuration
    flags = "; ".join(f"<i>{html.escape(name)}</i>, {html.escape(text)}" for name, text in FLAGS.items())
    return _list([
        "<b>Predicted</b>: E‖∂L/∂θ‖² of a tensor over random weights, from the architecture, the weights' "
        f"variances and the batch, by mean-field theory at the real width ({given['samples']} samples of "
        "hidden states, no weights and no backward pass). Nothing is fitted.",
        f"<b>Measured</b>: the mean over {given['seeds']} fresh models, each with a forward and a backward "
        "pass in evaluation mode, and random targets of its own.",
        "<b>Ratio</b>: measured / predicted, of squares: a gradient norm that is twice as large has the "
        "ratio 4. Its 95 % interval holds the errors of both means.",
        f"<b>Flag</b>: {flags}.",
        f"The audit disagrees when any ratio is more than {percent(given['tolerance'])} from 1 <em>and</em> "
        f"further than chance takes the worst of all tensors in {percent(CHANCE)} of such audits; "
        f"{STANDARD_ERRORS:.0f} standard errors are too few for that where there are hundreds of tensors.",
        "<b>In band</b>: share of the seeds in the predicted band, which should hold 95 % of single models. "
        f"All tensors share the {given['seeds']} seeds, so the shares scatter together.",
    ])


def as_page(audit: Audit) -> str:
    """Lay out an audit as a page of HTML that needs nothing else.

    Args:
        audit: The audit.

    Returns:
        The page.
    """
    df, given = audit.df, audit.configuration
    *sentences, verdict = (html.escape(line) for line in summary(audit))
    name = html.escape(str(given["module"]))
    with style():
        parts = [
            _figure(as_svg(by_layer(rows, title), f"p{k}", f"{title}: predicted and measured by layer"), "")
            for k, (title, rows) in enumerate(panels(df))
        ]
        ratio = as_svg(
            ratios(df, given["tolerance"]),
            "ratios",
            "measured / predicted of every tensor, in order of depth",
        )
        spread = as_svg(
            coverage(df, audit.values), "coverage", "single models in their predicted distribution"
        )
    worst = [
        f"<code>{html.escape(str(row['parameter']))}</code>: {html.escape(finding(row))}"
        for row in audit.worst.to_dict("records")
    ]
    mood, mark = ("agree", "✓") if audit.agrees else ("disagree", "✗")
    body = [
        f"<h1>{name}: gradients at initialisation, predicted and measured</h1>",
        f'<p class="verdict {mood}">{mark} {verdict}</p>',
        *(f"<p>{line}</p>" for line in sentences),
        *(["<h2>To look at, the furthest off first</h2>", _list(worst)] if worst else []),
        *(["<h2>Notes</h2>", _list(map(html.escape, audit.notes))] if audit.notes else []),
        "<h2>Measured / predicted</h2>",
        _figure(ratio, "Every tensor in order of depth; grey: the tolerance.", wide=True),
        "<h2>By layer</h2>",
        "<p>Lines: predictions, with the band of 95 % of single models. Points: measurements, with 95 % "
        "intervals.</p>",
        f'<div class="plots">{"".join(parts)}</div>',
        "<h2>Single models</h2>",
        f'<div class="plots">{_figure(spread, "Where the seeds lie in their predicted band.")}</div>',
        "<h2>Every tensor</h2>",
        _table(df),
        "<h2>What the numbers mean</h2>",
        _meaning(audit),
        "<h2>What was compared</h2>",
        _facts(given),
        "<h2>Made with</h2>",
        _facts(environment()),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{name}: gradients at initialisation</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )
