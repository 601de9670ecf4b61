"""Charts of a chain: differences with intervals side by side, and what was forgotten against what was taught along a stage's strength."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fairforget.report import number_words
from fairforget.report.charts import DENSE_ROWS, reference_line, specification, unvalidated
from fairforget.report.number_words import is_number

_READINGS = ("above 0", "below 0", "not told from 0")
_COLOURS = ("var(--limit)", "var(--after)", "var(--muted)")
_SHAPES = ("triangle-right", "triangle-left", "circle")


@unvalidated
def difference_chart(rows: Sequence[dict[str, Any]], title: str, *, percent: bool = True) -> dict[str, Any] | None:
    """One line per figure with its interval, and zero.

    Args:
        rows: ``label``, ``value``, ``low`` and ``high``, from top to bottom; ends may be missing.
        title: of the axis, with unit.
        percent: whether figures are shares, drawn as points.

    Returns:
        A Vega-Lite specification as wide as its container, or None where there is nothing to draw.
    """
    import altair as alt

    values = [_point(row, 100.0 if percent else 1.0, "%" if percent else "nats") for row in rows if is_number(row["value"])]
    if not values:
        return None
    axis = alt.Axis(labelExpr="split(datum.label, '\\n')", domain=False, ticks=False, labelPadding=8)
    y = alt.Y("label:N", sort=[value["label"] for value in values], title=None, axis=axis)
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=True, nice=True, padding=12), axis=alt.Axis(tickCount=6))
    present = [place for place, reading in enumerate(_READINGS) if any(value["reading"] == reading for value in values)]
    domain, legend = [_READINGS[place] for place in present], alt.Legend(title=None)
    colour = alt.Color("reading:N", scale=alt.Scale(domain=domain, range=[_COLOURS[place] for place in present]), legend=legend)
    shape = alt.Shape("reading:N", scale=alt.Scale(domain=domain, range=[_SHAPES[place] for place in present]), legend=legend)
    tooltip = [alt.Tooltip("label:N", title="figure"), alt.Tooltip("words:N", title="value")]
    chart = alt.Chart(alt.InlineData(values=values)).encode(y=y, tooltip=tooltip)
    marks = [
        reference_line(0.0),
        chart.mark_rule(strokeWidth=2.5, strokeCap="round").encode(x=alt.X("low:Q", title=title), x2="high:Q", color=colour),
        chart.mark_point(filled=True, opacity=1, size=85).encode(x=x, color=colour, shape=shape),
    ]
    return specification(alt.layer(*marks), len(values) * (44 if len(values) <= DENSE_ROWS else 28))


@unvalidated
def strength_path_chart(rows: Sequence[dict[str, Any]], taught: str, forgotten: str) -> dict[str, Any] | None:
    """What a stage forgot of one task against what it taught of another, a line for each way of running it along its strength.

    Args:
        rows: ``path``, ``strength``, ``taught`` and ``forgotten`` (nats an item, seeds averaged).
        taught: name of the task that the stage taught.
        forgotten: name of the task that was taught before.
    """
    import altair as alt

    told = "strength {strength:g}: taught {taught:+.3f}, forgotten {forgotten:+.3f} nats"
    values = [{**row, "words": told.format(**row)} for row in rows]
    if not values:
        return None
    names = list(dict.fromkeys(row["path"] for row in values))
    palette = ["var(--after)", "var(--limit)", "var(--before)", "var(--ink)", "var(--muted)"]
    scale = alt.Scale(domain=names, range=[palette[place % len(palette)] for place in range(len(names))])
    colour = alt.Color("path:N", scale=scale, legend=alt.Legend(title=None))
    shapes = ["circle", "diamond", "square", "triangle-up", "cross", "triangle-down"]
    shape = alt.Shape("path:N", scale=alt.Scale(domain=names, range=[shapes[place % len(shapes)] for place in range(len(names))]))
    x = alt.X("taught:Q", title=f"{taught}: nats an item gained by the stage", scale=alt.Scale(zero=True, nice=True))
    y = alt.Y("forgotten:Q", title=f"{forgotten}: nats an item forgotten", scale=alt.Scale(zero=True, nice=True))
    chart = alt.Chart(alt.InlineData(values=values)).encode(
        x=x, y=y, color=colour, tooltip=[alt.Tooltip("path:N"), alt.Tooltip("words:N", title="figures")]
    )
    marks = [
        reference_line(0.0, "y"),
        chart.mark_line(strokeWidth=2, opacity=0.8).encode(order=alt.Order("strength:Q")),
        chart.mark_point(filled=True, size=70, opacity=1).encode(shape=shape),
    ]
    return specification(alt.layer(*marks), 340)


@unvalidated
def relearning_chart(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Share right against steps of learning a task again, a line for each state that it starts from.

    Args:
        rows: ``start``, ``steps`` and ``correct``.
    """
    import altair as alt

    if not rows:
        return None
    values = [{**row, "right": 100 * row["correct"], "words": f"{row['steps']} steps: {100 * row['correct']:.1f} %"} for row in rows]
    names = list(dict.fromkeys(row["start"] for row in values))
    scale = alt.Scale(domain=names, range=["var(--after)", "var(--before)"][: len(names)])
    x = alt.X("steps:Q", title="optimiser steps", scale=alt.Scale(type="symlog", constant=1))
    y = alt.Y("right:Q", title="share right, %", scale=alt.Scale(zero=False, nice=True))
    chart = alt.Chart(alt.InlineData(values=values)).encode(
        x=x, y=y, color=alt.Color("start:N", scale=scale, legend=alt.Legend(title="learned from")), tooltip=[alt.Tooltip("words:N")]
    )
    return specification(alt.layer(chart.mark_line(strokeWidth=2), chart.mark_point(filled=True, size=70, opacity=1)), 260)


def _point(row: dict[str, Any], factor: float, unit: str) -> dict[str, Any]:
    low, high = (factor * row[end] if is_number(row[end]) else None for end in ("low", "high"))
    value = factor * row["value"]
    reading = _READINGS[2] if low is None or high is None or low <= 0 <= high else _READINGS[0] if low > 0 else _READINGS[1]
    words = f"{number_words.quantity(value, unit, signed=True)} {number_words.bounds(low, high, unit, signed=True)}".strip()
    return {"label": row["label"], "value": value, "low": low, "high": high, "reading": reading, "words": words}
