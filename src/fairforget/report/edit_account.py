"""What pages print of an edit itself: what became of the texts behind it, and where it changed the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from fairforget.report import number_words
from fairforget.report.charts import specification, unvalidated
from fairforget.report.comparisons import comparisons

if TYPE_CHECKING:
    from fairforget.report.page import Figures

OUTSIDE = "outside"
"""How parameters in no transformer block are called."""

MOST_TICKS = 16
"""Layers that are named on the axis of the chart."""


def text_section(table: pl.DataFrame | None, memorisation: dict[str, list[float]], figures: Figures) -> dict[str, Any] | None:
    """Likelihood of every set of texts before and after, and how well the training texts are known by heart.

    Args:
        table: ``METRIC_SCHEMA``, a task for each set.
        memorisation: before and after, by name.
        figures: charts of the page.
    """
    if table is None or table.is_empty():
        return None
    rows = comparisons(table, ())
    drawn = figures.levels_and_differences(rows, [row.task for row in rows], "negative log-likelihood of the texts behind the run")
    known = [
        f"{words} {number_words.quantity(100 * before, '%')} before, {number_words.quantity(100 * after, '%')} after"
        for name, words in (("accuracy", "memorisation accuracy"), ("extraction", "extraction likelihood (10-grams)"))
        if name in memorisation
        for before, after in [memorisation[name]]
    ]
    return {"rows": rows, "figures": drawn, "known": "; ".join(known)}


def change_section(table: pl.DataFrame | None, figures: Figures) -> dict[str, Any] | None:
    """Size of the change by layer and kind of module.

    Args:
        table: ``edits.change_sizes.CHANGE_SCHEMA``.
        figures: charts of the page.
    """
    if table is None or table.is_empty():
        return None
    rows = (
        table.group_by("layer", "module", maintain_order=True)
        .agg(
            change=(pl.col("change") ** 2).sum().sqrt(),
            weight=pl.when(pl.col("weight").is_not_null().all()).then((pl.col("weight") ** 2).sum().sqrt()),
            vectors=pl.col("vectors").sum(),
            changed=pl.col("changed").sum(), parameters=pl.len(),
        )
        .with_columns(relative=pl.col("change") / pl.col("weight"), share=pl.col("changed") / pl.col("vectors"))
        .to_dicts()
    )
    for row in rows:
        row["place"] = OUTSIDE if row["layer"] is None else f"layer {row['layer']}"
    known = [row for row in rows if number_words.is_number(row["relative"])]
    most = max(known, key=lambda row: row["relative"], default=None)
    said = "" if most is None else (
        f"The largest relative change is {most['relative']:.2g} ({most['module']}"
        + (")." if most["layer"] is None else f", {most['place']}).")
    )
    chart = figures.add(change_chart(rows), f"Chart of the relative size of the change by layer and kind of module. {said}")
    return {"rows": rows, "figures": [chart] if chart else [], "said": said}


@unvalidated
def change_chart(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Relative size of the change against the layer, a line for each kind of module.

    Args:
        rows: with ``layer``, ``module`` and ``relative``; those outside of blocks are not drawn.

    Returns:
        A Vega-Lite specification as wide as its container, or None where fewer than two layers changed.
    """
    import altair as alt

    values = [
        {"layer": row["layer"], "module": row["module"], "relative": row["relative"]}
        for row in rows
        if row["layer"] is not None and number_words.is_number(row["relative"])
    ]
    if len({value["layer"] for value in values}) < 2:
        return None
    layers = sorted({int(value["layer"]) for value in values})
    ticks = layers[:: -(-len(layers) // MOST_TICKS)]
    kinds = list(dict.fromkeys(value["module"] for value in values))
    colours = ["var(--after)", "var(--before)", "var(--limit)", "var(--muted)"][: len(kinds)]
    legend = alt.Legend(title=None)
    chart = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X("layer:Q", title="layer", axis=alt.Axis(values=ticks, format="d")),
        y=alt.Y("relative:Q", title="size of the change over size of the weights", scale=alt.Scale(zero=True, nice=True)),
        color=alt.Color("module:N", scale=alt.Scale(domain=kinds, range=colours), legend=legend),
        shape=alt.Shape("module:N", scale=alt.Scale(domain=kinds), legend=legend),
        tooltip=[alt.Tooltip("module:N"), alt.Tooltip("layer:Q", format="d"), alt.Tooltip("relative:Q", format=".3g")],
    )
    return specification(alt.layer(chart.mark_line(strokeWidth=1.5), chart.mark_point(filled=True, opacity=1, size=60)), 240)
