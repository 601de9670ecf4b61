"""What a figure is made of, item by item, its sums by cluster, and resamples of the clusters within strata."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fairforget.errors import DataError, UsageError

Floats: TypeAlias = NDArray[np.float64]
Aggregate: TypeAlias = Literal["micro", "macro"]

_CHUNK_ELEMENTS = 2**18  # resamples x clusters held at once: 2 MiB an array, which stays in cache


@dataclass(frozen=True)
class Components:
    """What K ratios of sums are made of, item by item.

    Attributes:
        numerators: (N, K); a column of one ratio may be given as (N,). Ignored where the denominator is 0.
        denominators: (N, K), not negative; 0 takes an item out of that ratio (skipped, or of another group).
        cluster: (N,) labels; what is resampled.
        stratum: (N,) labels; a cluster lies in one stratum.

    Raises:
        DataError: lengths differ, a value is not finite, or a denominator is negative.
    """

    numerators: Floats
    denominators: Floats
    cluster: NDArray[Any]
    stratum: NDArray[Any]

    def __post_init__(self) -> None:
        numerators, denominators = _columns(self.numerators), _columns(self.denominators)
        cluster, stratum = np.asarray(self.cluster), np.asarray(self.stratum)
        if numerators.shape != denominators.shape or not len(numerators) == len(cluster) == len(stratum):
            raise DataError(
                f"The parts of a statistic do not fit together: numerators {numerators.shape}, denominators {denominators.shape}, "
                f"{len(cluster)} cluster and {len(stratum)} stratum labels; give one row per item in each."
            )
        numerators = np.where(denominators == 0, 0.0, numerators)
        broken = int((~np.isfinite(numerators) | ~np.isfinite(denominators)).any(axis=1).sum())
        if broken:
            raise DataError(f"{broken} of {len(cluster)} items have a score that is not a finite number: skip them or score them again.")
        if (denominators < 0).any():
            raise DataError("A denominator of a ratio is negative: counts and weights must be 0 or more.")
        for name, array in (("numerators", numerators), ("denominators", denominators), ("cluster", cluster), ("stratum", stratum)):
            object.__setattr__(self, name, array)

    @property
    def count(self) -> int:
        """K, the number of ratios."""
        return self.numerators.shape[1]

    def beside(self, other: Components) -> Components:
        """The same items measured twice: 2K ratios, those of `self` first.

        Raises:
            DataError: the items are not the same, as their clusters or strata differ.
        """
        if not (np.array_equal(self.cluster, other.cluster) and np.array_equal(self.stratum, other.stratum)):
            raise DataError("The two measurements cannot be paired: their items, or the order of these, differ in cluster or stratum.")
        return Components(
            np.hstack([self.numerators, other.numerators]), np.hstack([self.denominators, other.denominators]), self.cluster, self.stratum
        )


@dataclass(frozen=True)
class ClusterSums:
    """Sums by cluster, clusters ordered by stratum."""

    numerators: Floats  # (C, K)
    denominators: Floats  # (C, K)
    starts: NDArray[np.intp]  # (H,) first cluster of each stratum
    sizes: NDArray[np.intp]  # (H,) clusters in each stratum
    item_denominators: Floats  # (N, K), to count items
    note: str

    @property
    def correction(self) -> Floats:
        """(C, 1): sqrt(m_h / (m_h - 1)) of each cluster's stratum, so that squares of scaled influences add up to the variance."""
        return np.repeat(np.sqrt(self.sizes / np.maximum(self.sizes - 1, 1)), self.sizes)[:, None]


def _columns(values: NDArray[Any]) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    return array[:, None] if array.ndim == 1 else array


def _labels(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Sorted distinct labels and the code of each item; labels of mixed types are compared as text."""
    return np.unique(values.astype(str) if values.dtype == object else values, return_inverse=True)


def cluster_sums(components: Components, aggregate: Aggregate) -> ClusterSums:
    """Sums by cluster, or for ``macro`` each cluster's own ratio over 1.

    Raises:
        DataError: a cluster lies in several strata.
        UsageError: the aggregation is not known.
    """
    if aggregate not in ("micro", "macro"):
        raise UsageError(f"There is no aggregation '{aggregate}': use 'micro' or 'macro'.")
    names, cluster = _labels(components.cluster)
    strata, stratum = _labels(components.stratum)
    home = np.zeros(len(names), dtype=np.intp)
    home[cluster] = stratum
    torn = len(np.unique(cluster[home[cluster] != stratum]))
    if torn:
        raise DataError(f"{torn} of {len(names)} clusters lie in several strata: give every item of a cluster the same stratum.")
    numerators = _sum_by(cluster, components.numerators, len(names))
    denominators = _sum_by(cluster, components.denominators, len(names))
    if aggregate == "macro":
        # The mean of cluster ratios is a ratio of sums too: of the clusters' own ratios over the number of clusters that have one.
        measured = denominators > 0
        numerators = np.divide(numerators, denominators, out=np.zeros_like(numerators), where=measured)
        denominators = measured.astype(np.float64)
    home, pooled = _pool_single_clusters(home, len(strata))
    order = np.argsort(home, kind="stable")
    _, starts, sizes = np.unique(home[order], return_index=True, return_counts=True)
    note = f"{pooled} strata of one cluster pooled" if pooled > 1 else "a stratum of one cluster pooled with another" if pooled else ""
    return ClusterSums(numerators[order], denominators[order], starts, sizes, components.denominators, note)


def _sum_by(cluster: NDArray[np.intp], table: Floats, clusters: int) -> Floats:
    sums = np.empty((clusters, table.shape[1]))
    for k in range(table.shape[1]):
        sums[:, k] = np.bincount(cluster, table[:, k], minlength=clusters)
    return sums


def _pool_single_clusters(home: NDArray[np.intp], strata: int) -> tuple[NDArray[np.intp], int]:
    """Join strata of one cluster: alone each would seem to have no variance (collapsed strata: Cochran 1977, 5A.12)."""
    sizes = np.bincount(home, minlength=strata)
    single = np.flatnonzero(sizes == 1)
    if len(single) == 0 or len(sizes) == 1:
        return home, 0
    into = single[0]
    if len(single) == 1:
        into = int(np.argmin(np.where(sizes > 1, sizes, len(home) + 1)))
    return np.where(np.isin(home, single), into, home), len(single)


def resample_counts(sums: ClusterSums, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield chunks (b, C) of how often each cluster is drawn: multinomial, m_h draws from the m_h clusters of each stratum."""
    generator = np.random.default_rng(seed)
    clusters = int(sums.sizes.sum())
    start, size = np.repeat(sums.starts, sums.sizes), np.repeat(sums.sizes, sums.sizes)
    rows = max(1, _CHUNK_ELEMENTS // max(clusters, 1))
    for first in range(0, resamples, rows):
        count = min(rows, resamples - first)
        # One uniform per draw, row by row: the stream does not depend on the chunk. Counting indices beats binomial sampling tenfold.
        drawn = start + (generator.random((count, clusters)) * size).astype(np.intp)
        flat = drawn + clusters * np.arange(count)[:, None]
        yield np.bincount(flat.ravel(), minlength=count * clusters).reshape(count, clusters).astype(np.float64)
