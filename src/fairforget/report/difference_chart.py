"""Differences with their intervals, one below the other."""

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
def difference_chart(rows: Sequence[dict[str, Any]], title: str, *, unit: str = "nats", factor: float = 1.0) -> dict[str, Any] | None:
    """One line per figure with its interval, and zero.

    Args:
        rows: ``label``, ``value``, ``low`` and ``high``, from top to bottom; ends may be missing.
        title: of the axis, with unit.
        unit: of what is drawn, for its words.
        factor: what figures are multiplied with to be of that unit, 100 for shares.

    Returns:
        A Vega-Lite specification as wide as its container, or None where there is nothing to draw.
    """
    import altair as alt

    values = [_point(row, factor, unit) for row in rows if is_number(row["value"])]
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


def _point(row: dict[str, Any], factor: float, unit: str) -> dict[str, Any]:
    low, high = (factor * row[end] if is_number(row[end]) else None for end in ("low", "high"))
    value = factor * row["value"]
    reading = _READINGS[2] if low is None or high is None or low <= 0 <= high else _READINGS[0] if low > 0 else _READINGS[1]
    words = f"{number_words.quantity(value, unit, signed=True)} {number_words.bounds(low, high, unit, signed=True)}".strip()
    return {"label": row["label"], "value": value, "low": low, "high": high, "reading": reading, "words": words}
