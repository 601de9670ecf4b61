"""How much of a reduction is left under stress: paired changes, and a share with Fieller's interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from scipy.special import stdtrit

from fairforget.benchmarks._targets import perplexity_ratio, target_change, target_value
from fairforget.report import number_words
from fairforget.stats import Interval

NO_STRESS = "none"
BASE, EDITED = "base", "edited"

STRESS_SCHEMA: dict[str, pl.DataType] = {
    "stress": pl.String(),  # "none", "relearn-30", "int8", "paraphrase" ...
    "state": pl.String(),  # "edited", or "base" under the same stress
    "target": pl.Float64(),  # distance from neutral
    "signed": pl.Float64(),
    "reversed": pl.Boolean(),  # on the other side of neutral than the base, by more than its standard error
    "from_base": pl.Float64(),  # paired change against the base without stress; null for other items than the base's
    "from_base_low": pl.Float64(),
    "from_base_high": pl.Float64(),
    "from_edited": pl.Float64(),  # against the edited model without stress; above 0, bias came back
    "from_edited_low": pl.Float64(),
    "from_edited_high": pl.Float64(),
    "from_stressed_base": pl.Float64(),  # against the base under the same stress
    "from_stressed_base_low": pl.Float64(),
    "from_stressed_base_high": pl.Float64(),
    "share_left": pl.Float64(),  # of the reduction; 1 is all of it
    "share_low": pl.Float64(),
    "share_high": pl.Float64(),
    "perplexity": pl.Float64(),  # ratio to the base
    "perplexity_low": pl.Float64(),
    "perplexity_high": pl.Float64(),
    "perplexity_from_edited": pl.Float64(),  # ratio to the edited model
    "perplexity_from_edited_low": pl.Float64(),
    "perplexity_from_edited_high": pl.Float64(),
    "n": pl.Int64(),
    "clusters": pl.Int64(),
    "note": pl.String(),
}
"""Columns of ``stress.parquet``."""


@dataclass(frozen=True)
class Measured:
    """One state under one stress: the item tables of the target and, where there is one, of perplexity."""

    stress: str
    state: str
    target: pl.DataFrame
    cost: pl.DataFrame | None
    other_items: bool = False
    """Whether the target's items are not those of the unstressed states."""


def fieller(
    numerator: float, denominator: float, variances: tuple[float, float], covariance: float, quantile: float
) -> tuple[float, float]:
    """Interval of a ratio of two normal estimates (Fieller 1954, J. R. Statist. Soc. B 16).

    All θ with (N - θ D)² ≤ q² (V_N - 2 θ C + θ² V_D).

    Args:
        numerator: N.
        denominator: D.
        variances: of N and D.
        covariance: of N and D.
        quantile: of the t distribution, e.g. 1.96.

    Returns:
        The ends; ``nan`` where D is not distinguishable from 0, and the set has no ends.
    """
    square = quantile**2
    a = denominator**2 - square * variances[1]
    b = numerator * denominator - square * covariance
    c = numerator**2 - square * variances[0]
    root = b * b - a * c
    if not (a > 0 and root >= 0):
        return math.nan, math.nan
    return (b - math.sqrt(root)) / a, (b + math.sqrt(root)) / a


def stress_table(measured: Sequence[Measured], metric: str, *, resamples: int = 10_000, seed: int = 0) -> pl.DataFrame:
    """A row per state and stress.

    The share of the reduction that is left is (d_base - d_stressed) / (d_base - d_edited) for distances d on the same items, with
    Fieller's interval from the three paired standard errors; for other items it is their own reduction, against the base on them, over the
    one on the usual items, the two taken as independent, which makes the interval rather too wide.

    Args:
        measured: all states, the unstressed ones among them.
        metric: target metric.
        resamples: bootstrap resamples of the intervals.
        seed: of the resamples.
    """
    options = {"resamples": resamples, "seed": seed}
    found = {(one.stress, one.state): one for one in measured}
    base, edited = found[NO_STRESS, BASE], found[NO_STRESS, EDITED]
    reduction = _change(base, edited, metric, options)
    at_base = target_value(base.target, metric)
    rows: list[dict[str, Any]] = []
    for one in measured:
        now = target_value(one.target, metric)
        row: dict[str, Any] = {
            "stress": one.stress, "state": one.state, "target": now.distance, "signed": now.signed, "n": one.target.height,
            "clusters": one.target["cluster"].n_unique(),
            "reversed": at_base.signed * now.signed < 0 and abs(now.signed) > now.standard_error,
        }
        partner = found.get((one.stress, BASE))
        own = _change(partner, one, metric, options) if partner is not None and one.state == EDITED else None
        from_base = None if one.other_items or one is base else _change(base, one, metric, options)
        from_edited = None if one.other_items or one.state == BASE or one is edited else _change(edited, one, metric, options)
        row |= _ends("from_base", from_base) | _ends("from_edited", from_edited) | _ends("from_stressed_base", own)
        if one.state == EDITED and one is not edited:
            row |= _share(own, reduction) if one.other_items else _share(from_base, reduction, from_edited)
        row |= _ends("perplexity", _ratio(base, one, options))
        row |= _ends("perplexity_from_edited", _ratio(edited, one, options) if one.state == EDITED else None)
        rows.append(row)
    return pl.DataFrame([{name: row.get(name) for name in STRESS_SCHEMA} for row in rows], schema=STRESS_SCHEMA)


def _change(before: Measured, after: Measured, metric: str, options: Mapping[str, Any]) -> Interval:
    extra = {} if metric == "margin" else options
    return target_change(before.target, after.target, metric, **extra)


def _ratio(before: Measured, after: Measured, options: Mapping[str, Any]) -> Interval | None:
    if before.cost is None or after.cost is None or before is after:
        return None
    return perplexity_ratio(before.cost, after.cost, **options)


def _share(change: Interval | None, reduction: Interval, back: Interval | None = None) -> dict[str, Any]:
    """Share of the reduction; `back` is the change from the edited state, which with the other two gives their covariance."""
    if change is None or not math.isfinite(reduction.value) or reduction.value >= 0:
        return {"note": "the edit brought no reduction, so none can be left"}
    share = change.value / reduction.value
    variances = (change.standard_error**2, reduction.standard_error**2)
    covariance = 0.0 if back is None else (variances[0] + variances[1] - back.standard_error**2) / 2
    quantile = float(stdtrit(max(reduction.clusters - 1, 1), 0.975))
    if back is not None and back.value == 0 and not back.standard_error > 0:
        return {"share_left": share, "share_low": share, "share_high": share, "note": "every figure is that of the edited model"}
    low, high = fieller(change.value, reduction.value, variances, covariance, quantile)
    note = "" if math.isfinite(low) else "no interval for the share: the reduction itself is not distinguishable from none"
    return {"share_left": share, "share_low": _finite(low), "share_high": _finite(high), "note": note}


def _ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    if interval is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: _finite(interval.value), f"{name}_low": _finite(interval.low), f"{name}_high": _finite(interval.high)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


HEADERS = ("stress", "state", "target", "from base", "from edited", "from base, same stress", "share left", "perplexity", "note")
"""Perplexity is against the base without stress."""


def stress_words(row: Mapping[str, Any], unit: str) -> list[str]:
    """A row of the table as text, under ``HEADERS``."""
    changes: list[str] = []
    for name in ("from_base", "from_edited", "from_stressed_base"):
        interval = number_words.bounds(row[f"{name}_low"], row[f"{name}_high"], unit, signed=True)
        changes.append(f"{number_words.quantity(row[name], unit, signed=True)} {interval}".strip())
    share = number_words.MISSING
    if row["share_left"] is not None:
        value, low, high = (None if row[name] is None else 100 * row[name] for name in ("share_left", "share_low", "share_high"))
        share = f"{number_words.number(value, '%')} % {number_words.bounds(low, high, '%')}".strip()
    cost = number_words.MISSING
    if row["perplexity"] is not None:
        value, low, high = (
            None if row[name] is None else 100 * (row[name] - 1) for name in ("perplexity", "perplexity_low", "perplexity_high")
        )
        cost = f"{number_words.number(value, '%', signed=True)} % {number_words.bounds(low, high, '%', signed=True)}".strip()
    note = "; ".join(part for part in ("past neutral" if row["reversed"] else "", row["note"] or "") if part)
    return [
        row["stress"], row["state"], number_words.quantity(row["target"], unit), *changes, share, cost, note,
    ]


def stress_markdown(table: pl.DataFrame, unit: str) -> str:
    """The table as Markdown."""
    lines = [" | ".join(HEADERS), " | ".join("---" for _ in HEADERS)]
    lines += [" | ".join(stress_words(row, unit)) for row in table.iter_rows(named=True)]
    return "\n".join(f"| {line} |" for line in lines) + "\n"
