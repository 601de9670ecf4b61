"""Charts of a chain: what was forgotten against what was taught along a stage's strength, and how fast it is learned again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fairforget.report.charts import reference_line, specification, unvalidated


@unvalidated
def strength_path_chart(rows: Sequence[dict[str, Any]], done: str, forgotten: str) -> dict[str, Any] | None:
    """What a stage forgot of one task against what it did beside, a line for each way of running it along its strength.

    Args:
        rows: ``path``, ``strength``, ``taught`` and ``forgotten`` (nats an item, seeds averaged).
        done: title of the axis of what the stage did, with its unit.
        forgotten: name of the task that was taught before.
    """
    import altair as alt

    told = "strength {strength:g}: did {taught:+.3f}, forgotten {forgotten:+.3f} nats"
    values = [{**row, "words": told.format(**row)} for row in rows]
    if not values:
        return None
    names = list(dict.fromkeys(row["path"] for row in values))
    palette = ["var(--after)", "var(--limit)", "var(--before)", "var(--ink)", "var(--muted)"]
    scale = alt.Scale(domain=names, range=[palette[place % len(palette)] for place in range(len(names))])
    colour = alt.Color("path:N", scale=scale, legend=alt.Legend(title=None))
    shapes = ["circle", "diamond", "square", "triangle-up", "cross", "triangle-down"]
    shape = alt.Shape("path:N", scale=alt.Scale(domain=names, range=[shapes[place % len(shapes)] for place in range(len(names))]))
    x = alt.X("taught:Q", title=done, scale=alt.Scale(zero=True, nice=True))
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
