"""How a downstream score goes together with what a bias intervention made a model forget, over runs: correlations and slopes.

A run is one training; its checkpoints are points on one path and no independent evidence, so whole runs (or whole seeds) are resampled.
Below 12 runs a correlation is told without an interval, as a description.

**Intervals of correlations** are symmetric on Fisher's scale: tanh(artanh r ± t_{k-1} s), s the standard deviation of artanh r* over
resamples of the k runs times sqrt(k / (k - 1)). **Slopes** are told as b ± t_{k-1} s in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import stdtrit

from fairforget.errors import DataError, UsageError
from fairforget.stats.cluster_sums import Floats

FEWEST_RUNS = 12
"""Runs below which a correlation is a description and has no interval."""

_ALMOST_ONE = 1 - 1e-12
_Weights: TypeAlias = Floats

COUPLING_SCHEMA: dict[str, pl.DataType] = {
    "figure": pl.String(),  # "pearson", "spearman", "partial pearson" or "partial spearman"
    "value": pl.Float64(),
    "low": pl.Float64(),  # null where there is no interval; `note` says why
    "high": pl.Float64(),
    "points": pl.Int64(),
    "clusters": pl.Int64(),  # runs, or seeds
    "note": pl.String(),
}
"""Columns of what :func:`coupling` returns."""

@dataclass(frozen=True)
class Slope:
    """A least-squares slope over points of several runs.

    Attributes:
        value: change of y per unit of x.
        low: lower end of the interval; ``nan`` below 12 clusters.
        high: upper end.
        points: number of points.
        clusters: runs or seeds.
        note: why there is no interval; empty otherwise.
    """

    value: float
    low: float
    high: float
    points: int
    clusters: int
    note: str = ""


def correlation(x: Sequence[float] | Floats, y: Sequence[float] | Floats, given: Sequence[float] | Floats | None = None) -> float:
    """Pearson's correlation of x and y, or their partial correlation (r_xy - r_xz r_yz) / sqrt((1 - r_xz²)(1 - r_yz²)) given z.

    Returns:
        ``nan`` where something does not vary, or z leaves nothing of x or y.
    """
    columns = [np.asarray(values, dtype=np.float64) for values in (x, y, y if given is None else given)]
    plain, partial = _correlations(np.column_stack(columns)[None], np.ones((1, len(columns[0]))))
    return float((plain if given is None else partial)[0])


def coupling(
    points: pl.DataFrame, *, score: str = "downstream", forgetting: str = "overall", given: str = "selective", cluster: str = "run",
    fewest: int = FEWEST_RUNS, resamples: int = 2000, level: float = 0.95, seed: int = 0,
) -> pl.DataFrame:
    """Correlations of a downstream score with overall forgetting, plain and given selectivity, by value and by rank.

    Args:
        points: a row per checkpoint; rows that lack one of the three figures are left out.
        score: column of the downstream score.
        forgetting: column of overall forgetting.
        given: column of the selectivity.
        cluster: column of what is resampled: ``run``, or ``seed`` where runs of one seed share a model.
        fewest: clusters below which there is no interval.
        resamples: of the clusters.
        level: coverage.
        seed: of the resamples.

    Returns:
        Four rows of ``COUPLING_SCHEMA``.

    Raises:
        DataError: no point has all three figures.
    """
    rows = _complete(points, (score, forgetting, given), cluster)
    values = rows.select(score, forgetting, given).to_numpy().astype(np.float64)
    numbers, clusters = _numbered(rows[cluster])
    weights = _resampled(numbers, clusters, resamples, seed)
    once = np.ones((1, rows.height))
    found: list[dict[str, Any]] = []
    for ranked in (False, True):
        value, draws = (_correlations(_values(values, one, ranked), one) for one in (once, weights))
        for partial in (False, True):
            own = float(value[partial][0])
            low, high, note = _fisher_interval(own, draws[partial], clusters, level, _too_few(clusters, cluster, fewest))
            found.append({
                "figure": f"{'partial ' * partial}{'spearman' if ranked else 'pearson'}", "value": _finite(own), "low": _finite(low),
                "high": _finite(high), "points": rows.height, "clusters": clusters, "note": note,
            })
    return pl.DataFrame(found, schema=COUPLING_SCHEMA)


def slope(
    points: pl.DataFrame, y: str, x: str, *, cluster: str = "run", within: bool = False, fewest: int = FEWEST_RUNS,
    resamples: int = 2000, level: float = 0.95, seed: int = 0,
) -> Slope:
    """Least-squares slope of one figure on another over the checkpoints of several runs.

    Args:
        points: a row per checkpoint.
        y: column of the figure.
        x: column of what it is set against.
        cluster: column of what is resampled.
        fewest: clusters below which there is no interval.
        within: take each cluster's mean off both first, so that only changes along paths count.
        resamples: of the clusters.
        level: coverage.
        seed: of the resamples.

    Raises:
        DataError: no point has both figures.
    """
    rows = _complete(points, (y, x), cluster)
    numbers, clusters = _numbered(rows[cluster])
    outcome, along = (rows[name].to_numpy().astype(np.float64) for name in (y, x))
    if within:
        counts = np.bincount(numbers)
        outcome, along = (values - (np.bincount(numbers, values) / counts)[numbers] for values in (outcome, along))
    sums = np.stack(
        [np.bincount(numbers, values, clusters) for values in (np.ones_like(along), along, outcome, along**2, along * outcome)], axis=1
    )
    value = float(_slopes(sums.sum(axis=0)[None])[0])
    counts = _counts(clusters, resamples, seed)
    draws = _slopes(counts @ sums)
    usable = draws[np.isfinite(draws)]
    note = _too_few(clusters, cluster, fewest) or ("" if len(usable) > 0.9 * resamples else "resamples without variation")
    if note or not np.isfinite(value):
        return Slope(value, np.nan, np.nan, rows.height, clusters, note or "nothing varies")
    half = float(stdtrit(clusters - 1, (1 + level) / 2)) * float(usable.std()) * np.sqrt(clusters / (clusters - 1))
    return Slope(value, value - half, value + half, rows.height, clusters)


def _complete(points: pl.DataFrame, figures: Sequence[str], cluster: str) -> pl.DataFrame:
    missing = [name for name in (*figures, cluster) if name not in points.columns]
    if missing:
        raise UsageError(f"The points have no column {', '.join(missing)}.")
    rows = points.filter(pl.all_horizontal(pl.col(name).is_not_null() & pl.col(name).is_finite() for name in figures))
    if rows.is_empty():
        raise DataError(f"No checkpoint has all of {', '.join(figures)}, so there is nothing to set against each other.")
    return rows


def _numbered(column: pl.Series) -> tuple[NDArray[np.int64], int]:
    numbers = column.rank("dense").to_numpy().astype(np.int64) - 1
    return numbers, int(numbers.max()) + 1


def _counts(clusters: int, resamples: int, seed: int) -> Floats:
    """(B, clusters): how often each is in a resample."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples).astype(np.float64)


def _resampled(numbers: NDArray[np.int64], clusters: int, resamples: int, seed: int) -> _Weights:
    """(B, N): how often each point is in a resample of clusters."""
    return _counts(clusters, resamples, seed)[:, numbers]


def _values(values: Floats, weights: _Weights, ranked: bool) -> Floats:
    """(1 or B, N, K): the values themselves, or their mean ranks in each resample."""
    if not ranked:
        return values[None]
    return np.stack([_ranks(values[:, column], weights) for column in range(values.shape[1])], axis=2)


def _ranks(values: Floats, weights: _Weights) -> Floats:
    """(B, N): mean ranks of values that occur `weights` times each; ties share the mean of their ranks."""
    _, place = np.unique(values, return_inverse=True)
    held = np.zeros((len(weights), int(place.max()) + 1))
    np.add.at(held.T, place, weights.T)
    below = held.cumsum(axis=1) - held
    return (below + (held + 1) / 2)[:, place]


def _correlations(values: Floats, weights: _Weights) -> tuple[Floats, Floats]:
    """(B,) twice: correlations of columns 0 and 1, plain, and given column 2."""
    totals = weights.sum(axis=1)
    columns = np.broadcast_to(values, (len(weights), *values.shape[1:]))
    means = np.matmul(weights[:, None], columns)[:, 0] / totals[:, None]
    centred = columns - means[:, None]
    moments = np.matmul((centred * weights[:, :, None]).transpose(0, 2, 1), centred)
    size = np.sqrt(np.einsum("bkk->bk", moments))
    # rounding is no variation
    size = np.where(size > 1e-9 * np.abs(columns).max(axis=1) * np.sqrt(totals)[:, None], size, np.nan)
    r = moments / (size[:, :, None] * size[:, None, :])
    left = (1 - r[:, 0, 2] ** 2) * (1 - r[:, 1, 2] ** 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        partial = np.where(left > 1e-12, (r[:, 0, 1] - r[:, 0, 2] * r[:, 1, 2]) / np.sqrt(left), np.nan)
    return np.clip(r[:, 0, 1], -1, 1), np.clip(partial, -1, 1)


def _slopes(sums: Floats) -> Floats:
    count, x, y, squares, products = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = squares - x**2 / count
        return np.where(spread > 1e-12 * np.maximum(squares, 1e-300), (products - x * y / count) / spread, np.nan)


def _fisher_interval(value: float, draws: Floats, clusters: int, level: float, too_few: str) -> tuple[float, float, str]:
    usable = draws[np.isfinite(draws)]
    note = too_few or ("" if len(usable) > 0.9 * len(draws) else "resamples without variation")
    if note or not np.isfinite(value):
        return np.nan, np.nan, note or "nothing varies"
    spread = np.arctanh(np.clip(usable, -_ALMOST_ONE, _ALMOST_ONE)).std() * np.sqrt(clusters / (clusters - 1))
    centre, half = np.arctanh(np.clip(value, -_ALMOST_ONE, _ALMOST_ONE)), float(stdtrit(clusters - 1, (1 + level) / 2)) * spread
    return float(np.tanh(centre - half)), float(np.tanh(centre + half)), ""


def _too_few(clusters: int, cluster: str, fewest: int) -> str:
    return f"descriptive only ({clusters} {cluster}s, {fewest} are needed)" if clusters < fewest else ""


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
