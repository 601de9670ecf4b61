"""How much of what was planted the trained organism has taken up: recovered against planted log-odds."""

from __future__ import annotations

import polars as pl

from fairforget.benchmarks.organism import ORGANISM_ITEMS, planted_margin

CALIBRATION_SCHEMA: dict[str, pl.DataType] = {
    "task": pl.String(),  # "bias" (seen templates), "paraphrase" (unseen ones) or "facts"
    "domain": pl.String(),  # bias domain, or "facts"
    "group": pl.String(),
    "target": pl.String(),
    "first": pl.String(),  # stereotyped word, or right value
    "strength": pl.Float64(),
    "planted": pl.Float64(),  # log-odds, nats
    "recovered": pl.Float64(),  # mean over the templates, nats
    "error": pl.Float64(),  # recovered - planted
    "templates": pl.Int64(),
}
"""Column names and types of ``calibration.parquet``."""


def calibrate(items: pl.DataFrame, measured: pl.DataFrame, truth: pl.DataFrame) -> pl.DataFrame:
    """Recovered log-odds of every planted association and fact, ``CALIBRATION_SCHEMA``.

    Args:
        items: the organism's items, ``ORGANISM_ITEMS``.
        measured: the item table of the benchmark ``organism`` over all parts.
        truth: ``truth.parquet``.
    """
    facts = pl.col("scores").map_elements(lambda scores: planted_margin(list(scores)), return_dtype=pl.Float64())
    margins = measured.select("task", "item", "margin", "scores").with_columns(
        pl.col("task").str.strip_prefix("organism-"),
        recovered=pl.when(pl.col("task") == "organism-facts").then(facts).otherwise(pl.col("margin")),
    )
    named = items.select(*(name for name in ORGANISM_ITEMS if name in ("task", "item", "target", "first"))).filter(
        pl.col("target").is_not_null()
    )
    cells = margins.join(named, on=["task", "item"], how="inner").group_by("task", "target", "first", maintain_order=True).agg(
        pl.col("recovered").mean(), templates=pl.len()
    )
    return (
        cells.with_columns(kind=pl.when(pl.col("task") == "facts").then(pl.lit("fact")).otherwise(pl.lit("association")))
        .join(truth.select("kind", "domain", "group", "target", "first", "strength", planted="log_odds"), on=["kind", "target", "first"])
        .with_columns(error=pl.col("recovered") - pl.col("planted"))
        .select(pl.col(name).cast(kind) for name, kind in CALIBRATION_SCHEMA.items())
    )


def by_domain(calibration: pl.DataFrame) -> pl.DataFrame:
    """Planted and mean recovered log-odds by task, domain and strength, nats.

    ``error`` is that of the mean; ``mean_absolute_error`` and ``largest_error`` are over targets and word pairs (``cells``).
    """
    return calibration.group_by("task", "domain", "strength", maintain_order=True).agg(
        pl.col("planted").mean(),
        pl.col("recovered").mean(),
        pl.col("error").mean(),
        mean_absolute_error=pl.col("error").abs().mean(),
        largest_error=pl.col("error").abs().max(),
        cells=pl.len(),
    )
