"""Charts of forgetting: a forest plot of biased forgetting with simultaneous intervals, and the task matrix."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from fairforget.report import number_words
from fairforget.report.charts import DENSE_ROWS, LABEL_WIDTH, reference_line, specification, unvalidated
from fairforget.report.number_words import is_number

_READINGS = ("forgets more", "forgets less", "no difference shown")
_COLOURS = ("var(--limit)", "var(--after)", "var(--muted)")
_SHAPES = ("triangle-right", "triangle-left", "circle")


@unvalidated
def biased_forgetting_chart(
    rows: Sequence[dict[str, Any]], unit: str, *, margin: float | None = None, center: str = "all items"
) -> dict[str, Any] | None:
    """Forest plot: biased forgetting of each group with intervals that hold jointly, zero, and the margin of equivalence as a band.

    A group is only said to forget more or less where its interval leaves zero out. The tooltip has the smallest difference that the
    data could have shown, without which "no difference shown" says little.

    Args:
        rows: rows of ``BiasedForgetting.groups``, from top to bottom.
        unit: "share" (drawn as percentage points), "ratio" or "nats".
        margin: largest difference that counts as none, in the unit; None without a band.
        center: what groups are compared with, in words, for the axis.

    Returns:
        A Vega-Lite specification as wide as its container, or None where there is nothing to draw.
    """
    import altair as alt

    factor, shown = (100.0, "%") if unit == "share" else (1.0, unit)
    values = [_group(row, factor, shown) for row in rows if is_number(row["biased"])]
    if not values:
        return None
    title = f"forgetting beyond that of {center} ({'percentage points' if unit == 'share' else unit}); right of 0 forgets more"
    y = alt.Y(
        "group:N", sort=[value["group"] for value in values], title=None,
        axis=alt.Axis(labelExpr="split(datum.label, '\\n')", domain=False, ticks=False, labelPadding=8),
    )
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=True, nice=True, padding=12), axis=alt.Axis(tickCount=6))
    present = [place for place, reading in enumerate(_READINGS) if any(value["reading"] == reading for value in values)]
    domain = [_READINGS[place] for place in present]
    legend = alt.Legend(title=None)
    colour = alt.Color("reading:N", scale=alt.Scale(domain=domain, range=[_COLOURS[place] for place in present]), legend=legend)
    shape = alt.Shape("reading:N", scale=alt.Scale(domain=domain, range=[_SHAPES[place] for place in present]), legend=legend)
    fields = {"group": "group", "words": "biased", "forgetting": "forgetting", "items": "items", "detectable": "could have shown"}
    tooltip = [alt.Tooltip(f"{field}:N", title=name) for field, name in fields.items()]
    chart = alt.Chart(alt.InlineData(values=values)).encode(y=y, tooltip=tooltip)
    marks: list[Any] = [
        reference_line(0.0),
        chart.mark_rule(strokeWidth=2.5, strokeCap="round").encode(x=alt.X("low:Q", title=title), x2="high:Q", color=colour),
        chart.mark_point(filled=True, opacity=1, size=85).encode(x=x, color=colour, shape=shape),
    ]
    if margin is not None:
        band = alt.Chart(alt.InlineData(values=[{"below": -factor * margin, "above": factor * margin}]))
        marks.insert(0, band.mark_rect(color="var(--muted)", opacity=0.14).encode(x=alt.X("below:Q", title=title), x2="above:Q"))
    return specification(alt.layer(*marks), len(values) * (40 if len(values) <= DENSE_ROWS else 26))


@unvalidated
def task_matrix_chart(
    scores: Sequence[Sequence[float]], tasks: Sequence[str], stages: Sequence[str], *, base: Sequence[float] | None = None,
    learned: Sequence[int] = (), percent: bool = True,
) -> dict[str, Any] | None:
    """The task matrix as a table of figures, darker where the score is higher; the stage that taught a task is outlined.

    Args:
        scores: (T, J) score on each task after each stage.
        tasks: (J,) names.
        stages: (T,) names.
        base: (J,) scores before the first stage; drawn as the first row.
        learned: (J,) stage, from 0, that taught each task; -1 for none.
        percent: whether scores are shares, told in per cent; else they are told as they are.
    """
    import altair as alt

    rows = [("base", list(base), -1)] if base is not None else []
    rows += [(f"{place + 1}. {name}", list(own), place) for place, (name, own) in enumerate(zip(stages, scores, strict=True))]
    values: list[dict[str, Any]] = []
    for name, own, place in rows:
        for column, (task, score) in enumerate(zip(tasks, own, strict=True)):
            if is_number(score):
                text = number_words.quantity(100 * score, "%") if percent else number_words.number(score, "")
                taught = place >= 0 and column < len(learned) and learned[column] == place
                values.append({"stage": name, "task": task, "score": score, "text": text, "taught": taught})
    if not values:
        return None
    lowest, highest = min(value["score"] for value in values), max(value["score"] for value in values)
    domain = [0.0, 1.0] if percent else [lowest, highest if highest > lowest else lowest + 1.0]
    x = alt.X("task:N", sort=list(tasks), title="score on", axis=alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False))
    y = alt.Y("stage:N", sort=[name for name, _, _ in rows], title="after", axis=alt.Axis(domain=False, ticks=False))
    tooltip = [alt.Tooltip(f"{field}:N") for field in ("stage", "task", "text")]
    chart = alt.Chart(alt.InlineData(values=values)).encode(x=x, y=y, tooltip=tooltip)
    shade = alt.FillOpacity("score:Q", scale=alt.Scale(domain=domain, range=[0.04, 0.6]), legend=None)
    outline = alt.when(alt.datum["taught"]).then(alt.value("var(--ink)")).otherwise(alt.value("var(--line)"))
    marks = [
        chart.mark_rect(fill="var(--after)", strokeWidth=1.5).encode(fillOpacity=shade, stroke=outline),
        chart.mark_text(color="var(--ink)", fontSize=13).encode(text="text:N"),
    ]
    return specification(alt.layer(*marks), 40 + 36 * len(rows))


def _group(row: dict[str, Any], factor: float, unit: str) -> dict[str, Any]:
    has_interval = is_number(row["biased_low"]) and is_number(row["biased_high"])
    low, high = (factor * row[name] if has_interval else None for name in ("biased_low", "biased_high"))
    reading = _READINGS[2]
    if low is not None and high is not None:
        reading = _READINGS[0] if low > 0 else _READINGS[1] if high < 0 else reading
    bounds = number_words.bounds(low, high, unit, signed=True) if has_interval else row["note"] or "no interval"
    detectable = row["minimum_detectable"]
    return {
        "group": "\n".join(textwrap.wrap(row["group"], LABEL_WIDTH)) or "–",
        "value": factor * row["biased"],
        "low": low,
        "high": high,
        "reading": reading,
        "words": f"{number_words.quantity(factor * row['biased'], unit, signed=True)} {bounds}",
        "forgetting": number_words.quantity(factor * row["forgetting"], unit, signed=True),
        "items": f"{row['n']} in {row['clusters']} clusters",
        "detectable": f"± {number_words.quantity(factor * detectable, unit)}" if is_number(detectable) else "–",
    }
