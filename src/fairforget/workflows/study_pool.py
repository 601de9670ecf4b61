"""Cells brought together: seeds pooled with an honest interval, the frontier of bias against cost, and the words about it.

**Pooling seeds.** Each seed's change c_i was measured on the same items, so what is left to the luck of the items is shared by all seeds
and does not shrink with their number. With s² the variance of the c_i between k seeds, e the mean of the seeds' own standard errors, C
clusters of items and t the quantiles of Student's distribution, the interval is

    mean ± sqrt(t²_{k-1} s² / k + t²_{C-1} e²),

the two half-widths added as squares (variance recovery, Zou and Donner 2008, Stat. Med. 27). e² is what errors that are fully correlated
between seeds leave of their variance in the mean, an upper bound; and s² holds a part of the items' luck again. Simulated for 2, 3 and 5
seeds, the interval covers 95 to 99.7 % of the time; one with Satterthwaite's degrees of freedom covered 88 % with two seeds. One seed keeps
its own interval and says nothing of other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from scipy.optimize import brentq
from scipy.special import stdtrit

from fairforget.stats import holm
from fairforget.workflows.study_table import DONE

FRONTIER_SCHEMA: dict[str, pl.DataType] = {
    "model": pl.String(),
    "target": pl.String(),
    "configuration": pl.String(),
    "strength_given": pl.Float64(),  # null where it was searched
    "method": pl.String(),
    "unit": pl.String(),
    "parameters": pl.Int64(),
    "seeds": pl.Int64(),  # finished
    "planned": pl.Int64(),
    "strength": pl.Float64(),  # mean over seeds
    "before": pl.Float64(),
    "change": pl.Float64(),  # of the distance from neutral, mean over seeds; below 0 is nearer
    "low": pl.Float64(),
    "high": pl.Float64(),
    "error": pl.Float64(),
    "seed_spread": pl.Float64(),  # standard deviation between seeds; null for one seed
    "p": pl.Float64(),  # two-sided, of no change
    "p_holm": pl.Float64(),  # adjusted over all configurations of the study
    "cost": pl.Float64(),  # perplexity ratio, geometric mean over seeds
    "cost_low": pl.Float64(),
    "cost_high": pl.Float64(),
    "cost_error": pl.Float64(),  # of log cost
    "cost_seed_spread": pl.Float64(),  # of log cost
    "budget_percent": pl.Float64(),
    "within_budget": pl.String(),  # "kept", "kept by the estimate", "over", or "" without budget or cost
    "verdicts": pl.String(),
    "on_frontier": pl.Boolean(),
    "note": pl.String(),
}
"""Columns of ``frontier.parquet``: a row per configuration of which at least one seed is finished."""


_SUREST = 1 - 1e-12
"""Coverage beyond which p-values are not told apart."""

BASE_POINT = (0.0, 1.0)
"""Change and cost of the untouched base."""


@dataclass(frozen=True)
class Pooled:
    """A mean over seeds."""

    value: float
    low: float
    high: float
    error: float
    """Standard error, sqrt(s²/k + e²)."""
    spread: float | None
    """Standard deviation between seeds."""
    p: float
    """Two-sided, of a mean of 0."""


def pool(values: Sequence[float], errors: Sequence[float], clusters: int, level: float = 0.95) -> Pooled:
    """Mean over seeds, see the head of this module.

    Args:
        values: one per seed.
        errors: standard error of each over its items; ``nan`` where there is none, and then the mean has no interval.
        clusters: of items, the same for all seeds.
        level: coverage.
    """
    count = len(values)
    mean = float(np.mean(values))
    spread = float(np.std(values, ddof=1)) if count > 1 else None
    between = (spread or 0.0) ** 2 / count
    within = float(np.mean(errors)) ** 2
    if not math.isfinite(within):
        return Pooled(mean, math.nan, math.nan, math.nan, spread, math.nan)

    def width(coverage: float) -> float:
        seeds, items = (float(stdtrit(max(degrees, 1), (1 + coverage) / 2)) for degrees in (count - 1, clusters - 1))
        return math.sqrt(seeds**2 * between + items**2 * within)

    half = width(level)
    return Pooled(mean, mean - half, mean + half, math.sqrt(between + within), spread, _p_value(abs(mean), width))


def pool_changes(values: Sequence[float], errors: Sequence[float], clusters: int, *, ratio: bool = False) -> Pooled:
    """Paired changes of one figure, see :func:`pool`; of a ratio its logarithm is pooled, and a ratio is given back.

    Args:
        values: one per seed.
        errors: standard error of each; ``nan`` beside a change of exactly nothing is no error, since no item moved.
        clusters: of items.
        ratio: whether values are ratios, after / before.
    """
    still = 1.0 if ratio else 0.0
    known = [0.0 if value == still and math.isnan(error) else error for value, error in zip(values, errors, strict=True)]
    if not ratio:
        return pool(values, known, clusters)
    # a standard error of a ratio is that of its logarithm times the ratio
    found = pool([math.log(value) for value in values], [error / value for error, value in zip(known, values, strict=True)], clusters)
    return replace(found, value=math.exp(found.value), low=math.exp(found.low), high=math.exp(found.high))


def _p_value(distance: float, width: Callable[[float], float]) -> float:
    """1 less the coverage at which an interval of that half-width just reaches as far."""
    if distance == 0:
        return 1.0
    if width(_SUREST) <= distance:
        return 1 - _SUREST
    root: Any = brentq(lambda coverage: width(coverage) - distance, 0.0, _SUREST)
    return 1 - float(root)


def frontier_table(cells: pl.DataFrame) -> pl.DataFrame:
    """Configurations with their seeds pooled, and which of them lie on the frontier of their model and target.

    A configuration is on the frontier where no other one of the same model and target (nor the untouched base) has a change as good at a
    cost as low, by the estimates.

    Args:
        cells: what ``study_table`` gave.
    """
    rows: list[dict[str, Any]] = []
    for (_,), group in cells.group_by(["configuration"], maintain_order=True):
        done = group.filter(pl.col("status") == DONE)
        if done.height:
            rows.append(_configuration(done, group.height))
    _mark_frontier(rows)
    adjusted = holm([math.nan if row["p"] is None else row["p"] for row in rows]) if rows else []
    for row, p_value in zip(rows, adjusted, strict=True):
        row["p_holm"] = None if math.isnan(p_value) else float(p_value)
    return pl.DataFrame(rows, schema=FRONTIER_SCHEMA)


def _configuration(done: pl.DataFrame, planned: int) -> dict[str, Any]:
    first = done.row(0, named=True)
    values, errors = done["target_change"].to_list(), _numbers(done["target_error"])
    notes: list[str] = []
    if done.height == 1:
        notes.append("one seed")
        low, high = first["target_low"], first["target_high"]
        change = replace(pool(values, errors, int(first["target_clusters"])), low=_number(low), high=_number(high))
    else:
        change = pool(values, errors, int(first["target_clusters"]))
    if done.height < planned:
        notes.append(f"{planned - done.height} of {planned} seeds failed or were not run")
    if not math.isfinite(change.error):
        notes.append("no interval in a seed, so none for the mean")
    kinds = done["verdict"].value_counts(sort=True).sort(["count", "verdict"], descending=[True, False]).rows()
    return {
        **{name: first[name] for name in ("model", "target", "configuration", "method", "unit", "parameters", "budget_percent")},
        "strength_given": None if first["searched"] else first["strength"],
        "seeds": done.height,
        "planned": planned,
        "strength": done["strength"].mean(),
        "before": done["target_before"].mean(),
        "change": change.value,
        "low": _finite(change.low),
        "high": _finite(change.high),
        "error": _finite(change.error),
        "seed_spread": change.spread,
        "p": _finite(change.p),
        **_cost(done),
        "verdicts": ", ".join(f"{kind} {count} of {done.height}" for kind, count in kinds),
        "note": "; ".join(notes),
    }


def _cost(done: pl.DataFrame) -> dict[str, Any]:
    names = ("cost", "cost_low", "cost_high", "cost_error", "cost_seed_spread")
    ratios = _numbers(done["perplexity_ratio"])
    if not all(math.isfinite(ratio) and ratio > 0 for ratio in ratios):
        return {**dict.fromkeys(names), "within_budget": ""}
    first = done.row(0, named=True)
    pooled = pool_changes(ratios, _numbers(done["perplexity_error"]), int(first["perplexity_clusters"]), ratio=True)
    cost, low, high = pooled.value, pooled.low, pooled.high
    if done.height == 1:
        low, high = _number(first["perplexity_low"]), _number(first["perplexity_high"])
    within = ""
    if first["budget_percent"] is not None:
        allowed = 1 + first["budget_percent"] / 100
        bound = high if math.isfinite(high) else cost
        within = "kept" if bound <= allowed else "kept by the estimate" if cost <= allowed else "over"
    return {
        **dict(zip(names, (cost, _finite(low), _finite(high), _finite(pooled.error), pooled.spread), strict=True)),
        "within_budget": within,
    }


def _mark_frontier(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["cost"] is None:
            row["on_frontier"] = False
            continue
        rivals = [(other["change"], other["cost"]) for other in rows if other is not row and _panel(other) == _panel(row) and other["cost"]]
        here = (row["change"], row["cost"])
        row["on_frontier"] = here != BASE_POINT and not any(
            rival[0] <= here[0] and rival[1] <= here[1] and rival != here for rival in [*rivals, BASE_POINT]
        )


def _panel(row: dict[str, Any]) -> tuple[str, str]:
    return row["model"], row["target"]


def _numbers(column: pl.Series) -> list[float]:
    return [_number(value) for value in column]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
