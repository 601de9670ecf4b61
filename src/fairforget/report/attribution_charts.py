"""A heat map of what each module of a model cost each group over a step, in nats a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fairforget.report import number_words
from fairforget.report.charts import specification, unvalidated
from fairforget.report.number_words import is_number

ROW_HEIGHT = 24
FEW_GROUPS = 6
"""Up to here cells are wide enough for their figures."""


@unvalidated
def attribution_chart(
    rows: Sequence[dict[str, Any]], *, groups: Sequence[str] = (), places: Sequence[str] = (), names: dict[str, str] | None = None
) -> dict[str, Any] | None:
    """Places down, groups across; a cell's colour is what its place added to the loss of its group.

    The scale is the same on both sides of 0, so that shades compare; the figure stands in the cell where there are few groups, and in the
    tooltip always.

    Args:
        rows: ``group``, ``place``, ``nats``, as ``Attribution.by`` gives them.
        groups: which groups, from left to right; all in their order by default.
        places: which places, from top to bottom; all in their order by default.
        names: what the chart calls groups.

    Returns:
        A Vega-Lite specification as wide as its container, or None where there is nothing to draw.
    """
    import altair as alt

    shown = list(groups or dict.fromkeys(row["group"] for row in rows))
    order = list(places or dict.fromkeys(row["place"] for row in rows))
    called = {group: (names or {}).get(group, group) for group in shown}
    values: list[dict[str, Any]] = [
        {
            "group": called[row["group"]], "place": row["place"], "nats": row["nats"],
            "text": number_words.number(row["nats"], "nats", signed=True),
        }
        for row in rows
        if row["group"] in called and row["place"] in order and is_number(row["nats"])
    ]
    if not values:
        return None
    largest = max(abs(value["nats"]) for value in values) or 1.0
    x = alt.X(
        "group:N", sort=list(called.values()), title=None,
        axis=alt.Axis(orient="top", labelAngle=0 if len(shown) <= FEW_GROUPS else -45, domain=False, ticks=False),
    )
    y = alt.Y("place:N", sort=order, title=None, axis=alt.Axis(domain=False, ticks=False, labelPadding=8))
    chart = alt.Chart(alt.InlineData(values=values)).encode(
        x=x, y=y, tooltip=[alt.Tooltip("group:N"), alt.Tooltip("place:N"), alt.Tooltip("text:N", title="nats a token")]
    )
    # the page's two colours, by sign; strength as opacity, so that both themes and print keep the zero at the background
    sign = alt.when(alt.datum["nats"] > 0).then(alt.value("var(--limit)")).otherwise(alt.value("var(--after)"))
    shade = alt.FillOpacity("magnitude:Q", scale=alt.Scale(domain=[0, largest], range=[0.0, 0.75]), legend=None)
    marks: list[Any] = [
        chart.transform_calculate(magnitude="abs(datum.nats)").mark_rect(stroke="var(--line)", strokeWidth=0.5).encode(
            fill=sign, fillOpacity=shade
        )
    ]
    if len(shown) <= FEW_GROUPS:
        marks.append(chart.mark_text(color="var(--ink)", fontSize=12).encode(text="text:N"))
    return specification(alt.layer(*marks), 60 + ROW_HEIGHT * len(order))


def attribution_caption(completeness: Sequence[dict[str, Any]], nodes: int) -> str:
    """What the heat map shows and how exactly, for beneath it.

    Args:
        completeness: rows of ``Attribution.completeness``, those of the chart.
        nodes: of the path rule.
    """
    errors = [(row["error"], row["group"]) for row in completeness if row["error"] is not None]
    caption = (
        f"What each part of the model added to a group's loss between the two states (nats a token, along the straight line between them, "
        f"{nodes} nodes); above 0, red, is forgotten, below 0, blue, is learned."
    )
    if not errors:
        return f"{caption} No group's loss changed."
    worst, group = max(errors)
    return f"{caption} The parts of a group sum to its measured change within {100 * worst:.2g} % (largest gap: {group})."
