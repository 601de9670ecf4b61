"""Charts of the trade-off study: paths of bias against overall forgetting, and downstream scores against overall forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from fairforget.report.charts import reference_line, specification, unvalidated

SHIFT_TITLE = "margin shift toward neutral (nats)"
OVERALL_TITLE = "overall forgetting (nats a token)"
DOWNSTREAM_TITLE = "downstream score, change (points)"
_SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down")


def mean_paths(checkpoints: pl.DataFrame, by: str) -> pl.DataFrame:
    """Means over seeds at every step.

    Args:
        checkpoints: rows of ``checkpoints.parquet``.
        by: column that names paths beside the size.

    Returns:
        ``by``, ``size``, ``step``, ``seeds``, and the means of ``margin_shift``, ``selective``, ``overall``, ``kl``, ``bias`` and
        ``downstream_change``.
    """
    figures = ("margin_shift", "selective", "overall", "kl", "bias", "downstream_change")
    means = checkpoints.group_by(by, "size", "step", maintain_order=True).agg(
        pl.col("seed").n_unique().alias("seeds"), *(pl.col(name).mean() for name in figures)
    )
    order = {name: place for place, name in enumerate(checkpoints[by].unique(maintain_order=True).to_list())}
    return means.sort(pl.col(by).replace_strict(order, return_dtype=pl.Int64), "size", "step")


@unvalidated
def path_chart(means: pl.DataFrame, by: str) -> dict[str, Any] | None:
    """Mean paths from the untouched base: right is less bias, up is more forgotten.

    Args:
        means: of :func:`mean_paths`, of one model.
        by: column that names paths.
    """
    import altair as alt

    rows = means.filter(pl.col("margin_shift").is_not_null() & pl.col("overall").is_not_null())
    if rows.filter(pl.col("step") > 0).is_empty():
        return None
    values = [
        {"path": row[by], "size": f"{row['size']} texts", "shift": row["margin_shift"], "overall": row["overall"], "step": row["step"],
         "line": f"{row[by]} {row['size']}"}
        for row in rows.iter_rows(named=True)
    ]
    names, sizes = (list(dict.fromkeys(value[key] for value in values)) for key in ("path", "size"))
    colour = alt.Color("path:N", scale=_colours(names), legend=alt.Legend(title=None))
    dash = alt.StrokeDash("size:N", scale=alt.Scale(domain=sizes), legend=alt.Legend(title=None))
    tooltip = [
        alt.Tooltip("path:N"), alt.Tooltip("size:N"), alt.Tooltip("step:Q"), alt.Tooltip("shift:Q", format="+.3f"),
        alt.Tooltip("overall:Q", format="+.4f"),
    ]
    x = alt.X("shift:Q", title=SHIFT_TITLE, scale=alt.Scale(zero=True, nice=True), axis=alt.Axis(tickCount=6))
    y = alt.Y("overall:Q", title=OVERALL_TITLE, scale=alt.Scale(zero=True, nice=True), axis=alt.Axis(tickCount=6))
    chart = alt.Chart(alt.InlineData(values=values)).encode(x=x, y=y, color=colour, tooltip=tooltip)
    marks = [
        reference_line(0.0), reference_line(0.0, "y"),
        chart.mark_line(strokeWidth=2).encode(order="step:Q", detail="line:N", strokeDash=dash),
        chart.mark_point(filled=True, size=45, opacity=1).encode(shape=_shape("path", names)),
    ]
    return specification(alt.layer(*marks), 380)


@unvalidated
def coupling_chart(points: pl.DataFrame) -> dict[str, Any] | None:
    """Change of the downstream score against overall forgetting, a point per checkpoint that was tuned from.

    Args:
        points: rows of ``checkpoints.parquet`` of one model, without the base.
    """
    import altair as alt

    rows = points.filter(pl.col("downstream_change").is_not_null() & pl.col("overall").is_not_null())
    if rows.is_empty():
        return None
    values = [
        {"arm": row["arm"], "run": row["run"], "step": row["step"], "overall": row["overall"], "downstream": row["downstream_change"]}
        for row in rows.iter_rows(named=True)
    ]
    names = list(dict.fromkeys(value["arm"] for value in values))
    tooltip = [
        alt.Tooltip("run:N"), alt.Tooltip("step:Q"), alt.Tooltip("overall:Q", format="+.4f"), alt.Tooltip("downstream:Q", format="+.2f"),
    ]
    x = alt.X("overall:Q", title=OVERALL_TITLE, scale=alt.Scale(zero=True, nice=True), axis=alt.Axis(tickCount=6))
    y = alt.Y("downstream:Q", title=DOWNSTREAM_TITLE, scale=alt.Scale(zero=True, nice=True), axis=alt.Axis(tickCount=6))
    colour = alt.Color("arm:N", scale=_colours(names), legend=alt.Legend(title=None))
    chart = alt.Chart(alt.InlineData(values=values)).mark_point(filled=True, size=60, opacity=0.75)
    points_chart = chart.encode(x=x, y=y, color=colour, shape=_shape("arm", names), tooltip=tooltip)
    return specification(alt.layer(reference_line(0.0), reference_line(0.0, "y"), points_chart), 340)


def _colours(names: Sequence[str]) -> Any:
    import altair as alt

    return alt.Scale(domain=list(names), scheme="tableau10" if len(names) <= 10 else "tableau20")


def _shape(field: str, names: Sequence[str]) -> Any:
    """Shape says the same as colour, for those who do not see it."""
    import altair as alt

    shapes = [_SHAPES[place % len(_SHAPES)] for place in range(len(names))]
    return alt.Shape(f"{field}:N", scale=alt.Scale(domain=list(names), range=shapes), legend=alt.Legend(title=None))
