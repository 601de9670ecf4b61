"""Tests of paired differences as benchmarks publish them: paired t, or Wilcoxon's signed ranks where the differences are not normal.

They take pairs for independent, which pairs of one template or one word are not; the interval that resamples clusters does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

NORMAL_LEVEL = 0.05
"""Differences pass for normal where Shapiro and Wilk's p is at least this (Bartl et al. 2020)."""

_LARGEST_SHAPIRO = 5000  # beyond this SciPy's p value is not accurate, and the t test needs no normality any more


@dataclass(frozen=True)
class LocationTest:
    """Whether paired differences are centred on 0.

    Attributes:
        kind: ``paired t`` or ``Wilcoxon``.
        statistic: t, or the smaller sum W of signed ranks.
        p: two-sided.
        r: Z / sqrt(n) with Z of the signed ranks, positive where differences are; an effect size between -1 and 1.
        shapiro_p: p value by which the test was chosen.
        n: pairs.
    """

    kind: Literal["paired t", "Wilcoxon"]
    statistic: float
    p: float
    r: float
    shapiro_p: float
    n: int


def location_test(differences: NDArray[Any]) -> LocationTest | None:
    """Paired t test where differences pass for normal, else Wilcoxon's signed-rank test (normal approximation, zeros left out).

    Args:
        differences: (n,), of pairs.

    Returns:
        None where there are fewer than three pairs, or the differences are all equal: no test is defined.
    """
    found = np.asarray(differences, dtype=np.float64)
    if len(found) < 3 or not np.ptp(found) > 0:
        return None
    shapiro_p = float(stats.shapiro(found).pvalue) if len(found) <= _LARGEST_SHAPIRO else 1.0
    ranks: Any = stats.wilcoxon(found, method="approx")
    # SciPy's Z has the sign of the smaller sum of ranks in older versions and of the positive one in newer: the direction is taken here.
    positive, negative = signed_rank_sums(found)
    r = math.copysign(abs(float(ranks.zstatistic)), positive - negative) / math.sqrt(len(found))
    if shapiro_p >= NORMAL_LEVEL:
        t: Any = stats.ttest_1samp(found, 0.0)
        return LocationTest("paired t", float(t.statistic), float(t.pvalue), r, shapiro_p, len(found))
    return LocationTest("Wilcoxon", float(ranks.statistic), float(ranks.pvalue), r, shapiro_p, len(found))


def signed_rank_sums(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Sums of the ranks of absolute differences over positive and over negative ones; zeros are left out."""
    kept = differences[differences != 0]
    ranks = stats.rankdata(np.abs(kept))
    return float(ranks[kept > 0].sum()), float(ranks[kept < 0].sum())
