"""Charts of a study: bias change against cost with the frontier, lines over model size, and collapse of words against bias."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fairforget.report import number_words
from fairforget.report.charts import reference_line, specification, unvalidated
from fairforget.report.number_words import is_number

CHANGE_TITLE = "change of distance from neutral"
COST_TITLE = "perplexity cost (%)"


@unvalidated
def frontier_chart(
    rows: Sequence[dict[str, Any]], unit: str, budget_percent: float | None, figure: str = CHANGE_TITLE
) -> dict[str, Any] | None:
    """Change of a figure against perplexity cost (left is better), numbered, with intervals both ways; of bias, down is better.

    Configurations on the frontier are filled and joined; the others are hollow. The untouched base stands at zero.

    Args:
        rows: pooled configurations of one model and target, with ``number`` and ``label``.
        unit: of the target.
        budget_percent: where the budget line stands; None without one.
        figure: what changes.
    """
    import altair as alt

    values = [_point(row, unit) for row in rows if is_number(row["cost"]) and is_number(row["change"])]
    if not values:
        return None
    title = f"{figure} ({'points' if unit == '%' else unit})"
    x_scale = alt.Scale(zero=True, nice=True, padding=14)
    largest = max(abs(value["cost"]) for value in values)
    if budget_percent and largest > 15 * budget_percent:
        x_scale = alt.Scale(type="symlog", constant=budget_percent, padding=14)  # one broken model must not flatten the rest
    x = alt.X("cost:Q", title=COST_TITLE, scale=x_scale, axis=alt.Axis(tickCount=6))
    y = alt.Y("change:Q", title=title, scale=alt.Scale(zero=True, nice=True, padding=10), axis=alt.Axis(tickCount=6))
    methods = list(dict.fromkeys(value["method"] for value in values))
    scale = alt.Scale(domain=methods, scheme="tableau10" if len(methods) <= 10 else "tableau20")
    legend = alt.Legend(title=None)
    colour, outline = alt.Color("method:N", scale=scale, legend=legend), alt.Stroke("method:N", scale=scale, legend=legend)
    shown = {"label": "configuration", "words": "figures", "seeds": "seeds"}
    tooltip = [alt.Tooltip(f"{field}:N", title=title) for field, title in shown.items()]
    chart = alt.Chart(alt.InlineData(values=values)).encode(tooltip=tooltip)
    interval = chart.mark_rule(strokeWidth=1.5, strokeOpacity=0.55)
    edge = sorted((value for value in values if value["frontier"]), key=lambda value: value["cost"])
    corners = [{"cost": 0.0, "change": 0.0}, *({name: value[name] for name in ("cost", "change")} for value in edge)]
    marks: list[Any] = [
        reference_line(0.0, "y"),
        reference_line(0.0),
        alt.Chart(alt.InlineData(values=corners)).mark_line(
            interpolate="step-after", strokeDash=[2, 3], strokeWidth=1.5, color="var(--muted)"
        ).encode(x=x, y=y),
        interval.encode(x=alt.X("cost_low:Q", title=COST_TITLE, scale=x_scale), x2="cost_high:Q", y=y, color=colour),
        interval.encode(x=x, y=alt.Y("low:Q", title=title), y2="high:Q", color=colour),
        chart.mark_point(filled=True, size=85, opacity=1).encode(
            x=x, y=y, color=colour, stroke=outline,
            fillOpacity=alt.when(alt.datum["frontier"]).then(alt.value(1)).otherwise(alt.value(0)),
        ),
        chart.mark_text(align="left", dx=7, dy=-7, fontSize=11, color="var(--ink)").encode(x=x, y=y, text="number:N"),
    ]
    if budget_percent is not None:
        marks += _budget(budget_percent)
    return specification(alt.layer(*marks), 380)


@unvalidated
def scaling_chart(points: Sequence[dict[str, Any]], lines: Sequence[dict[str, Any]], title: str) -> dict[str, Any] | None:
    """A figure against the number of parameters (logarithmic), with intervals and the fitted line of each configuration.

    Args:
        points: rows of ``scaling-points.parquet`` of one figure and target.
        lines: rows of ``scaling.parquet`` of the same.
        title: of the axis, with unit.
    """
    import altair as alt

    if not points:
        return None
    names = list(dict.fromkeys(point["configuration"] for point in points))
    values = [{name: point[name] for name in ("configuration", "model", "parameters", "value", "low", "high")} for point in points]
    drawn = [
        {"configuration": line["configuration"], "parameters": size, "value": line["intercept"] + line["slope"] * math.log10(size)}
        for line in lines
        for size in (line["smallest"], line["largest"])
    ]
    scale = alt.Scale(type="log", nice=False, padding=14)
    x = alt.X("parameters:Q", title="parameters", scale=scale, axis=alt.Axis(format="~s", tickCount=5))
    y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=True, nice=True), axis=alt.Axis(tickCount=5))
    colour = alt.Color("configuration:N", scale=alt.Scale(domain=names, scheme="tableau10"), legend=alt.Legend(title=None))
    shape = alt.Shape("configuration:N", scale=alt.Scale(domain=names), legend=alt.Legend(title=None))
    chart = alt.Chart(alt.InlineData(values=values)).encode(
        x=x, tooltip=[alt.Tooltip("configuration:N"), alt.Tooltip("model:N"), alt.Tooltip("value:Q", format="+.4f")]
    )
    marks: list[Any] = [
        reference_line(0.0, "y"),
        alt.Chart(alt.InlineData(values=drawn)).mark_line(strokeWidth=1.5, strokeDash=[5, 3]).encode(x=x, y=y, color=colour),
        chart.mark_rule(strokeWidth=2, strokeOpacity=0.6).encode(y=alt.Y("low:Q", title=title), y2="high:Q", color=colour),
        chart.mark_point(filled=True, opacity=1, size=80).encode(y=y, color=colour, shape=shape),
    ]
    return specification(alt.layer(*marks), 280)


@unvalidated
def collapse_chart(rows: Sequence[dict[str, Any]], title: str) -> dict[str, Any] | None:
    """(U)NC3 of a word set (left is more collapsed) against the distance of a task from neutral (down is less bias), a dot a cell.

    Args:
        rows: of ``collapse.parquet``, of one model, task and word set; the base has the configuration "base".
        title: of the axis of bias, with unit.
    """
    import altair as alt

    names = ("configuration", "seed", "strength", "unc3", "unc3_low", "unc3_high", "nc3_mean", "distance")
    values = [{name: row[name] for name in names} for row in rows if is_number(row["unc3"]) and is_number(row["distance"])]
    if not values:
        return None
    configurations = list(dict.fromkeys(value["configuration"] for value in values))
    scheme = "tableau10" if len(configurations) <= 10 else "tableau20"
    colour = alt.Color("configuration:N", scale=alt.Scale(domain=configurations, scheme=scheme), legend=alt.Legend(title=None, columns=3))
    shape = alt.Shape("configuration:N", scale=alt.Scale(domain=configurations), legend=alt.Legend(title=None, columns=3))
    words = "(U)NC3: spread over words of their cosines"
    scale = alt.Scale(zero=False, nice=True, padding=12)
    x = alt.X("unc3:Q", title=words, scale=scale, axis=alt.Axis(tickCount=6))
    y = alt.Y("distance:Q", title=title, scale=scale, axis=alt.Axis(tickCount=6))
    figures = {"unc3": "(U)NC3", "nc3_mean": "NC3", "distance": "distance from neutral", "strength": "strength"}
    tooltip = [alt.Tooltip("configuration:N"), alt.Tooltip("seed:N"), *(
        alt.Tooltip(f"{field}:Q", title=name, format=".3f") for field, name in figures.items()
    )]
    chart = alt.Chart(alt.InlineData(values=values)).encode(y=y, tooltip=tooltip)
    marks: list[Any] = [
        chart.mark_rule(strokeWidth=1.5, strokeOpacity=0.35).encode(x=alt.X("unc3_low:Q", title=words), x2="unc3_high:Q", color=colour),
        chart.mark_point(filled=True, size=80, opacity=0.9).encode(x=x, color=colour, shape=shape),
    ]
    return specification(alt.layer(*marks), 340)


def _point(row: dict[str, Any], unit: str) -> dict[str, Any]:
    low, high = (100 * (row[name] - 1) if is_number(row[name]) else None for name in ("cost_low", "cost_high"))
    cost = 100 * (row["cost"] - 1)
    change = f"{number_words.quantity(row['change'], unit, signed=True)} {number_words.bounds(row['low'], row['high'], unit, signed=True)}"
    return {
        "number": str(row["number"]),
        "label": row["label"],
        "method": row["method"],
        "cost": cost,
        "cost_low": low,
        "cost_high": high,
        "change": row["change"],
        "low": row["low"],
        "high": row["high"],
        "frontier": bool(row["on_frontier"]),
        "seeds": f"{row['seeds']} of {row['planned']}",
        "words": f"{change.strip()} at {number_words.number(cost, '%', signed=True)} %",
    }


def _budget(percent: float) -> list[Any]:
    """A dashed vertical line with its name at its top."""
    import altair as alt

    data = alt.Chart(alt.InlineData(values=[{"reference": percent, "name": f"budget {percent:g} %"}]))
    x = alt.X("reference:Q")
    name = data.mark_text(align="left", dx=5, dy=8, color="var(--limit)", fontSize=12, fontWeight=600)
    name = name.encode(text="name:N", x=x, y=alt.value(0))
    return [data.mark_rule(strokeDash=[7, 4], strokeWidth=2, color="var(--limit)").encode(x=x), name]
