"""A figure that was measured on the same items in several runs: what is due to the items and what to the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from fairforget.errors import DataError
from fairforget.stats.bootstrap import Interval, StatisticFunction, cluster_bootstrap
from fairforget.stats.cluster_sums import Components

FEWEST_SEEDS = 5
"""Under this many seeds their spread is told as a range and is not part of the interval."""


@dataclass(frozen=True)
class SeededInterval:
    """A figure pooled over seeds.

    Attributes:
        interval: over items alone, with the range over seeds in its note, for fewer than five seeds; over items and seeds from five on.
        by_seed: the figure of each seed, in the order of the seeds.
    """

    interval: Interval
    by_seed: dict[int, float]


def over_seeds(
    components: Components, seeds: NDArray[Any], function: StatisticFunction | None = None, *, resamples: int = 10_000,
    level: float = 0.95, seed: int = 0,
) -> SeededInterval:
    """Interval of a figure pooled over runs, rows being (seed, item).

    A cluster holds its items in every run, so the clusters' variance is that of the pooled figure. From five seeds on the variance of
    the seeds' figures over their number is added (what both share is counted twice, which is cautious), and the interval is a t
    interval with Satterthwaite's degrees of freedom. Fewer seeds say too little about their spread.

    Args:
        components: one row per seed and item.
        seeds: (N,) whole numbers.
        function: as in :func:`fairforget.stats.cluster_bootstrap`.
        resamples: as there.
        level: as there.
        seed: of the resamples.

    Raises:
        DataError: there is not one seed per row.
    """
    labels = np.asarray(seeds)
    if labels.shape != (len(components.cluster),):
        raise DataError(f"{len(components.cluster)} rows need one seed each, not {labels.shape}.")
    pooled = cluster_bootstrap(components, function, resamples=resamples, level=level, seed=seed)
    by_seed: dict[int, float] = {}
    for name in np.unique(labels):
        own = labels == name
        part = Components(components.numerators[own], components.denominators[own], components.cluster[own], components.stratum[own])
        by_seed[int(name)] = cluster_bootstrap(part, function, resamples=100, level=level, seed=seed).value
    return SeededInterval(with_seeds(pooled, list(by_seed.values()), level=level), by_seed)


def with_seeds(interval: Interval, by_seed: Sequence[float], *, level: float = 0.95) -> Interval:
    """An interval over items made one over items and seeds, from five seeds on; with the seeds' range in its note for two to four.

    Args:
        interval: of the figure pooled over seeds.
        by_seed: the figure of each seed.
        level: coverage.
    """
    count, values = len(by_seed), np.array(by_seed, dtype=np.float64)
    if count < 2:
        return interval
    if count < FEWEST_SEEDS or not interval.standard_error > 0 or not np.isfinite(values).all():
        told = f"range over {count} seeds {np.nanmin(values):.4g} to {np.nanmax(values):.4g}" if np.isfinite(values).any() else ""
        return replace(interval, note="; ".join(part for part in (interval.note, told) if part))
    of_items, of_seeds = interval.standard_error**2, float(values.var(ddof=1)) / count
    error = float(np.sqrt(of_items + of_seeds))
    degrees = (of_items + of_seeds) ** 2 / (of_items**2 / max(interval.clusters - 1, 1) + of_seeds**2 / (count - 1))
    width = float(stdtrit(degrees, (1 + level) / 2)) * error
    note = "; ".join(part for part in (interval.note, f"over items and {count} seeds") if part)
    return replace(interval, low=interval.value - width, high=interval.value + width, standard_error=error, note=note)
