"""Tests for the same items measured in two states: McNemar, sign flips by cluster, equivalence (TOST)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, stdtr

from fairforget.errors import DataError, UsageError
from fairforget.stats.bootstrap import FEWEST_CLUSTERS, Interval

_CHUNK_ELEMENTS = 2**20


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of as many lost as gained items.

    Attributes:
        lost: items right before and wrong after.
        gained: items wrong before and right after.
        p_exact: two-sided exact binomial p-value; never rejects too often, but too seldom.
        p_mid: mid-p value, half the weight on the observed table (Fagerland, Lydersen and Laake 2013, BMC Med. Res. Methodol. 13:91).
        note: "no item changed" where both counts are 0 (both p-values are 1 then); empty otherwise.
    """

    lost: int
    gained: int
    p_exact: float
    p_mid: float
    note: str = ""


@dataclass(frozen=True)
class SignFlipTest:
    """Permutation test of a mean difference of 0 that flips the sign of whole clusters.

    Attributes:
        mean: mean difference over items, in the unit of the differences; ``nan`` without items.
        p_value: two-sided; ``nan`` without items.
        permutations: sign patterns looked at.
        exact: whether these were all there are.
        clusters: number of clusters.
        note: "too few clusters (k)" under five, where no p-value under 2 / 2^k can occur; why there is no p-value; empty otherwise.
    """

    mean: float
    p_value: float
    permutations: int
    exact: bool
    clusters: int
    note: str = ""


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests of a difference that is smaller than a margin.

    Attributes:
        margin: the largest difference that counts as none, in the unit of the interval.
        p_below: p-value against a difference of -margin or less.
        p_above: p-value against a difference of +margin or more.
        p_value: the larger of both.
        equivalent: whether `p_value` is at most alpha; False where there is none.
        note: why there is no p-value; empty otherwise.
    """

    margin: float
    p_below: float
    p_above: float
    p_value: float
    equivalent: bool
    note: str = ""


def mcnemar(lost: int, gained: int) -> McNemar:
    """Exact and mid-p McNemar test from the two counts of items that changed; assumes independent items.

    Raises:
        UsageError: a count is negative or not a whole number.
    """
    if lost < 0 or gained < 0 or int(lost) != lost or int(gained) != gained:
        raise UsageError(f"McNemar's test takes whole numbers of changed items of 0 or more, not {lost} and {gained}.")
    changed, fewer = int(lost + gained), int(min(lost, gained))
    if changed == 0:
        return McNemar(0, 0, 1.0, 1.0, "no item changed")
    below = float(bdtr(fewer, changed, 0.5))
    point = below - (float(bdtr(fewer - 1, changed, 0.5)) if fewer else 0.0)
    return McNemar(int(lost), int(gained), min(1.0, 2 * below), min(1.0, 2 * below - point))


def sign_flip_permutation(differences: NDArray[Any], cluster: NDArray[Any], *, permutations: int = 10_000, seed: int = 0) -> SignFlipTest:
    """Two-sided sign-flip test of the mean paired difference, by cluster.

    Under no change, before and after of a cluster could be exchanged, which flips the sign of its sum (Winkler et al. 2014,
    NeuroImage 92). All 2^k patterns are enumerated where they are no more than `permutations`; else patterns are drawn, and the
    observed one counts as one of them.

    Args:
        differences: (N,) after - before.
        cluster: (N,) labels.
        permutations: sign patterns, at least 100.
        seed: of the drawn patterns.

    Raises:
        DataError: lengths differ or a difference is not finite.
        UsageError: too few permutations.
    """
    values, labels = np.asarray(differences, dtype=np.float64), np.asarray(cluster)
    if values.ndim != 1 or values.shape != labels.shape:
        raise DataError(f"A sign-flip test needs one cluster label per difference, not {labels.shape} for {values.shape}.")
    if not np.isfinite(values).all():
        broken = int((~np.isfinite(values)).sum())
        raise DataError(f"{broken} differences are not finite numbers: leave out items that were skipped in one state.")
    if permutations < 100:
        raise UsageError(f"permutations = {permutations}: a permutation test needs at least 100.")
    if len(values) == 0:
        return SignFlipTest(np.nan, np.nan, 0, False, 0, "nothing was measured")
    _, codes = np.unique(labels.astype(str) if labels.dtype == object else labels, return_inverse=True)
    sums = np.bincount(codes, values)
    clusters = len(sums)
    observed, mean = abs(float(sums.sum())), float(values.mean())
    note = f"too few clusters ({clusters})" if clusters < FEWEST_CLUSTERS else ""
    # Equal sums in another order of addition differ by rounding; they are as extreme as the observed one.
    limit = observed - 1e-12 * float(np.abs(sums).sum())
    exact = clusters <= 62 and 2**clusters <= permutations
    total = 2**clusters if exact else permutations
    generator = np.random.default_rng(seed)
    extreme, rows = 0, max(1, _CHUNK_ELEMENTS // clusters)
    for first in range(0, total, rows):
        count = min(rows, total - first)
        drawn = _all_flips(first, count, clusters) if exact else generator.random((count, clusters)) < 0.5
        extreme += int((np.abs((1.0 - 2.0 * drawn) @ sums) >= limit).sum())
    p_value = extreme / total if exact else (extreme + 1) / (total + 1)
    return SignFlipTest(mean, p_value, total, exact, clusters, note)


def _all_flips(first: int, count: int, clusters: int) -> NDArray[np.bool_]:
    """Sign patterns number `first` to `first + count`, one a row, as bits."""
    return (np.arange(first, first + count)[:, None] >> np.arange(clusters)) & 1 == 1


def tost(interval: Interval, margin: float, *, alpha: float = 0.05, degrees_of_freedom: float | None = None) -> Equivalence:
    """Equivalence to 0 within a margin, by two one-sided t tests (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15).

    Args:
        interval: of a difference; its value and standard error are used.
        margin: above 0, in the unit of the interval.
        alpha: size of the test.
        degrees_of_freedom: of the t distribution; clusters - 1 if not given.

    Returns:
        The test; p-values are ``nan`` and `equivalent` is False where the interval has no standard error.

    Raises:
        UsageError: the margin is not above 0, or alpha not between 0 and 0.5.
    """
    if not margin > 0 or not 0 < alpha < 0.5:
        raise UsageError(f"margin = {margin}, alpha = {alpha}: an equivalence test needs a margin above 0 and an alpha between 0 and 0.5.")
    if not interval.standard_error > 0:
        return Equivalence(margin, np.nan, np.nan, np.nan, False, interval.note or "no standard error")
    degrees = interval.clusters - 1 if degrees_of_freedom is None else degrees_of_freedom
    p_below = float(stdtr(degrees, -(interval.value + margin) / interval.standard_error))
    p_above = float(stdtr(degrees, (interval.value - margin) / interval.standard_error))
    p_value = max(p_below, p_above)
    return Equivalence(margin, p_below, p_above, p_value, p_value <= alpha)
