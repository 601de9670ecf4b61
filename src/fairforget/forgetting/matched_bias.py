"""Arms compared where they took away equally much bias, or after equally many steps.

An arm that learnt less forgot less, so arms are not to be compared at equal steps alone: each path (bias reduction over steps) is walked
to the first place where it reaches a level, and its other figures are interpolated linearly there. Differences are paired by size and
seed, and seeds are resampled (:func:`fairforget.stats.cluster_bootstrap`); fewer than five seeds are told as a range.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from fairforget.errors import DataError
from fairforget.stats import Components, Interval, cluster_bootstrap
from fairforget.stats.cluster_sums import Floats

PAIR = ("size", "seed")
"""Runs of two arms that are compared with each other are alike in these."""

MATCHED_SCHEMA: dict[str, pl.DataType] = {
    "figure": pl.String(),
    "at": pl.Float64(),  # level that both paths are walked to; null where there is none in common
    "first": pl.Float64(),  # mean over the pairs
    "second": pl.Float64(),
    "difference": pl.Float64(),  # first - second
    "low": pl.Float64(),
    "high": pl.Float64(),
    "pairs": pl.Int64(),
    "clusters": pl.Int64(),  # seeds
    "first_short": pl.Int64(),  # runs that never get to the level, and so are in no pair
    "second_short": pl.Int64(),
    "note": pl.String(),
}
"""Columns of what :func:`matched_comparison` returns."""


def at_level(path: pl.DataFrame, level: float, *, along: str = "margin_shift", figures: Sequence[str] = ("overall",)) -> dict[str, float]:
    """The figures of one path where it first reaches a level, interpolated linearly between checkpoints.

    Args:
        path: a row per checkpoint of one run, the untouched base (step 0) among them.
        level: of the column `along`.
        along: column that is walked along, by ``step``.
        figures: columns to be interpolated; each over the checkpoints that have it.

    Returns:
        A value by figure, ``nan`` where the path never gets there; the step too, under ``step``.
    """
    found: dict[str, float] = {}
    for figure in dict.fromkeys(("step", *figures)):
        rows = path.filter(pl.col(figure).is_not_null() & pl.col(along).is_not_null()).sort("step")
        walked, values = rows[along].to_numpy().astype(np.float64), rows[figure].to_numpy().astype(np.float64)
        found[figure] = _crossing(walked, values, level)
    return found


def common_level(paths: pl.DataFrame, *, share: float = 0.5, along: str = "margin_shift", by: str = "arm") -> float:
    """A share of the smallest of the arms' median largest reach: a level that most runs of every arm get to.

    Args:
        paths: as for :func:`matched_comparison`.
        share: of that reach; above 1 most runs of some arm do not get there.
        along: the reduction of bias.
        by: column that names arms.

    Returns:
        ``nan`` where some arm's runs mostly never leave the base in the wanted direction.
    """
    reach = paths.group_by(by, *PAIR).agg(pl.col(along).max().alias("reach")).group_by(by).agg(pl.col("reach").median())
    least: Any = reach["reach"].min()
    return share * float(least) if least is not None and least > 0 else float("nan")


def matched_comparison(
    paths: pl.DataFrame, first: str, second: str, *, by: str = "arm", at: float | None = None, along: str = "margin_shift",
    figures: Sequence[str] = ("overall", "downstream"), resamples: int = 10_000, level: float = 0.95, seed: int = 0,
) -> pl.DataFrame:
    """Two arms at an equal reduction of bias: differences of their figures, paired by size and seed.

    Args:
        paths: a row per checkpoint with the columns `by`, ``size``, ``seed``, ``step``, `along` and the figures.
        first: an arm.
        second: the arm it is compared with.
        by: column that names arms.
        at: level of `along`; :func:`common_level` of the two when None.
        along: the reduction of bias that is to be equal.
        figures: columns to be compared.
        resamples: of the seeds.
        level: coverage.
        seed: of the resamples.

    Returns:
        A row per figure, ``MATCHED_SCHEMA``.

    Raises:
        DataError: there are no runs of one of the arms.
    """
    own = {name: paths.filter(pl.col(by) == name) for name in (first, second)}
    for name, rows in own.items():
        if rows.is_empty():
            raise DataError(f"There are no runs of '{name}' to compare at equal bias.")
    chosen = common_level(pl.concat(own.values()), along=along, by=by) if at is None else at
    if not np.isfinite(chosen):
        note = "no reduction of bias that both reach"
        empty: dict[str, Any] = {"pairs": 0, "clusters": 0, "first_short": 0, "second_short": 0, "note": note}
        return pl.DataFrame([{"figure": figure, **empty} for figure in figures], schema=MATCHED_SCHEMA)
    walked = {
        name: {key: at_level(path, chosen, along=along, figures=figures) for key, path in rows.group_by(PAIR)} for name, rows in own.items()
    }
    found: list[dict[str, Any]] = []
    for figure in figures:
        values = {name: {key: entry[figure] for key, entry in runs.items()} for name, runs in walked.items()}
        keys = sorted(key for key in values[first] if np.isfinite(values[first][key]) and np.isfinite(values[second].get(key, np.nan)))
        sides = [np.array([values[name][key] for key in keys]) for name in (first, second)]
        interval = over_seeds_difference(sides[0] - sides[1], [key[1] for key in keys], resamples=resamples, level=level, seed=seed)
        short = [sum(not np.isfinite(value) for value in values[name].values()) for name in (first, second)]
        found.append({
            "figure": figure, "at": chosen, "first": _mean(sides[0]), "second": _mean(sides[1]), "difference": _finite(interval.value),
            "low": _finite(interval.low), "high": _finite(interval.high), "pairs": len(keys), "clusters": interval.clusters,
            "first_short": short[0], "second_short": short[1], "note": interval.note,
        })
    return pl.DataFrame(found, schema=MATCHED_SCHEMA)


def difference_by_step(
    paths: pl.DataFrame, first: str, second: str, *, figure: str = "overall", by: str = "arm", resamples: int = 10_000,
    level: float = 0.95, seed: int = 0,
) -> pl.DataFrame:
    """Two arms at equal steps, paired by size and seed: of CDA against its control, what the fairness objective itself cost.

    Args:
        paths: as for :func:`matched_comparison`.
        first: an arm, e.g. ``cda2``.
        second: the arm that it is compared with, e.g. ``cda0``, the same sentences without any swap.
        figure: column to be compared.
        by: column that names arms.
        resamples: of the seeds.
        level: coverage.
        seed: of the resamples.

    Returns:
        A row per step that both have: ``step``, ``first``, ``second`` (means), ``difference`` with its ends, ``pairs``, ``clusters``
        (seeds) and ``note``.
    """
    key = [*PAIR, "step"]
    sides = [paths.filter((pl.col(by) == name) & pl.col(figure).is_not_null()).select(*key, figure) for name in (first, second)]
    joined = sides[0].join(sides[1], on=key, suffix="_second").sort("step", *PAIR)
    found: list[dict[str, Any]] = []
    for (step,), rows in joined.group_by(["step"], maintain_order=True):
        values = rows[figure].to_numpy() - rows[f"{figure}_second"].to_numpy()
        interval = over_seeds_difference(values, rows["seed"].to_list(), resamples=resamples, level=level, seed=seed)
        found.append({
            "step": step, "first": rows[figure].mean(), "second": rows[f"{figure}_second"].mean(), "difference": interval.value,
            "low": _finite(interval.low), "high": _finite(interval.high), "pairs": rows.height, "clusters": interval.clusters,
            "note": interval.note,
        })
    schema = {
        "step": pl.Int64(), **{name: pl.Float64() for name in ("first", "second", "difference", "low", "high")}, "pairs": pl.Int64(),
        "clusters": pl.Int64(), "note": pl.String(),
    }
    return pl.DataFrame(found, schema=schema)


def over_seeds_difference(
    values: Sequence[float] | Floats, seeds: Sequence[int], *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Mean of values that belong to seeds, seeds resampled; fewer than five are told as a range in the note, without an interval.

    Args:
        values: one per pair of runs.
        seeds: the seed of each.
        resamples: of the seeds.
        level: coverage.
        seed: of the resamples.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers):
        return Interval(np.nan, np.nan, np.nan, np.nan, 0, 0, "no pair of runs")
    labels = np.asarray(seeds)
    parts = Components(numbers, np.ones_like(numbers), labels, np.zeros(len(numbers), dtype=np.int64))
    interval = cluster_bootstrap(parts, resamples=resamples, level=level, seed=seed)
    if np.isfinite(interval.low):
        return interval
    means = [float(numbers[labels == one].mean()) for one in np.unique(labels)]
    told = f"{len(means)} seed{'s' * (len(means) != 1)}, {min(means):.4g} to {max(means):.4g}"
    return Interval(interval.value, np.nan, np.nan, np.nan, len(means), len(numbers), told)


def _crossing(along: Floats, values: Floats, level: float) -> float:
    """Value where a broken line first reaches a level from below."""
    reached = np.flatnonzero(along >= level)
    if not len(along) or not len(reached):
        return float("nan")
    place = int(reached[0])
    if place == 0:
        return float(values[0])
    share = (level - along[place - 1]) / (along[place] - along[place - 1])
    return float(values[place - 1] + share * (values[place] - values[place - 1]))


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
