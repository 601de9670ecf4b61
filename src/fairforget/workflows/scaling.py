"""How bias and cost change with the size of the model: a line over log10 of the number of parameters, one for each configuration.

Seeds are pooled first, so that a size counts once. With x_i = log10 N_i and y_i the pooled change of bias, or log of the pooled perplexity
ratio, of size i, y = a + b x is fitted by least squares, weighted by 1 / SE_i² where every size has a standard error above 0. The variance
of the fit is estimated from its residuals, and intervals are t intervals on (sizes - 2) degrees of freedom: how far the sizes scatter
round a line is what matters for another size, not how well each was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.special import stdtrit

SCALING_SCHEMA: dict[str, pl.DataType] = {
    "configuration": pl.String(),  # without the axis of models
    "target": pl.String(),
    "figure": pl.String(),  # "change of bias" or "log perplexity ratio"
    "unit": pl.String(),
    "sizes": pl.Int64(),
    "smallest": pl.Int64(),
    "largest": pl.Int64(),
    "slope": pl.Float64(),  # per tenfold of the parameters
    "low": pl.Float64(),
    "high": pl.Float64(),
    "intercept": pl.Float64(),  # at one parameter
    "weighted": pl.Boolean(),
    "note": pl.String(),
}
"""Columns of ``scaling.parquet``."""

POINT_SCHEMA: dict[str, pl.DataType] = {
    "configuration": pl.String(),
    "target": pl.String(),
    "figure": pl.String(),
    "model": pl.String(),
    "parameters": pl.Int64(),
    "unit": pl.String(),
    "value": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "error": pl.Float64(),
}
"""Columns of ``scaling-points.parquet``: what the lines were fitted to."""

BIAS, COST = "change of bias", "log perplexity ratio"


@dataclass(frozen=True)
class Line:
    """A fitted line y = intercept + slope x, with the interval of its slope (``nan`` under three points)."""

    slope: float
    intercept: float
    low: float
    high: float
    weighted: bool


def fit_line(x: Sequence[float], y: Sequence[float], errors: Sequence[float] = (), level: float = 0.95) -> Line:
    """Least squares, weighted by 1 / errors² where all are finite and above 0.

    Args:
        x: at least two different values.
        y: as many.
        errors: standard error of each y; none for a plain fit.
        level: coverage of the slope's interval.
    """
    places, values = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    known = np.asarray(errors, dtype=np.float64)
    weighted = len(known) == len(places) and bool((np.isfinite(known) & (known > 0)).all())
    weights = known**-2.0 if weighted else np.ones(len(places))
    weights = weights / weights.sum()
    centre, level_y = float(weights @ places), float(weights @ values)
    spread = float(weights @ (places - centre) ** 2)
    slope = float(weights @ ((places - centre) * (values - level_y))) / spread
    intercept = level_y - slope * centre
    degrees = len(places) - 2
    if degrees < 1:
        return Line(slope, intercept, math.nan, math.nan, weighted)
    residual = float(weights @ (values - intercept - slope * places) ** 2) / degrees
    width = float(stdtrit(degrees, (1 + level) / 2)) * math.sqrt(residual / spread)
    return Line(slope, intercept, slope - width, slope + width, weighted)


def scaling_table(frontier: pl.DataFrame, cells: pl.DataFrame) -> pl.DataFrame:
    """Lines over model size, for every configuration that was measured on at least two sizes.

    Args:
        frontier: pooled configurations, ``FRONTIER_SCHEMA``.
        cells: the table of the study, for the axes.
    """
    rows: list[dict[str, Any]] = []
    for (configuration, target, figure), group in scaling_points(frontier, cells).group_by(
        ["configuration", "target", "figure"], maintain_order=True
    ):
        own = group.to_dicts()
        sizes = [point["parameters"] for point in own]
        if len(set(sizes)) < 2:
            continue
        line = fit_line([math.log10(size) for size in sizes], [point["value"] for point in own], [_known(point["error"]) for point in own])
        few = len(set(sizes)) < 3
        rows.append({
            "configuration": configuration,
            "target": target,
            "figure": figure,
            "unit": own[0]["unit"],
            "sizes": len(set(sizes)),
            "smallest": min(sizes),
            "largest": max(sizes),
            "slope": line.slope,
            "low": None if few else line.low,
            "high": None if few else line.high,
            "intercept": line.intercept,
            "weighted": line.weighted,
            "note": "two sizes: a line through them, without interval" if few else "",
        })
    return pl.DataFrame(rows, schema=SCALING_SCHEMA)


def scaling_points(frontier: pl.DataFrame, cells: pl.DataFrame) -> pl.DataFrame:
    """What is fitted, ``POINT_SCHEMA``: the pooled figures of each model, by configuration without the model, and target.

    A model counts by its name, so two models of one size are two points. The axis whose variants differ in the model is the one that is
    called ``model``, or ``size``.
    """
    axes = [name.removeprefix("axis.") for name in cells.columns if name.startswith("axis.")]
    kept = [axis for axis in axes if axis not in ("model", "size")]
    labels: dict[str, str] = {}
    for row in cells.iter_rows(named=True):
        words = [row[f"axis.{axis}"] for axis in kept]
        given = [] if row["searched"] or row["strength"] is None else [f"strength {row['strength']:g}"]
        labels[row["configuration"]] = " · ".join([*words, *given]) or row["method"] or row["configuration"]
    found: list[dict[str, Any]] = []
    for row in frontier.iter_rows(named=True):
        facts = {**{name: row[name] for name in ("target", "model", "parameters")}, "configuration": labels[row["configuration"]]}
        bias = {name: row[name] for name in ("unit", "low", "high", "error")}
        found.append({**facts, **bias, "figure": BIAS, "value": row["change"]})
        if row["cost"] is not None:
            low, high = (None if row[name] is None else math.log(row[name]) for name in ("cost_low", "cost_high"))
            cost = {"unit": "log ratio", "low": low, "high": high, "error": row["cost_error"]}
            found.append({**facts, **cost, "figure": COST, "value": math.log(row["cost"])})
    return pl.DataFrame(found, schema=POINT_SCHEMA).sort("configuration", "target", "figure", "parameters", maintain_order=True)


def _known(error: float | None) -> float:
    return math.nan if error is None else error
