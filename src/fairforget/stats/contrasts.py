"""Contrasts with a condition: a difference of two figures of different items, and a ratio whose denominator must be above 0."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fairforget.errors import UsageError
from fairforget.stats.bootstrap import Interval, cluster_bootstrap
from fairforget.stats.cluster_sums import Components, Floats


@dataclass(frozen=True)
class GuardedRatio:
    """A ratio that is only given where its denominator is surely above 0.

    Attributes:
        ratio: with ``nan`` as value and ends, and a note, where the denominator is not above 0 by its own interval.
        top: interval of the numerator.
        bottom: interval of the denominator.
        defined: whether the denominator's lower end is above 0.
    """

    ratio: Interval
    top: Interval
    bottom: Interval
    defined: bool


def independent_difference(
    first: Components, second: Components, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Interval of first - second for one ratio each, measured on different items: their clusters are resampled apart.

    Raises:
        UsageError: either has more than one ratio.
    """
    if first.count != 1 or second.count != 1:
        raise UsageError(f"An independent difference takes one ratio from each set of items, not {first.count} and {second.count}.")
    sides = (first, second)
    empty = [np.zeros((len(side.cluster), 1)) for side in sides]
    numerators = np.vstack([np.hstack([first.numerators, empty[0]]), np.hstack([empty[1], second.numerators])])
    denominators = np.vstack([np.hstack([first.denominators, empty[0]]), np.hstack([empty[1], second.denominators])])
    cluster, stratum = (
        np.concatenate([np.char.add(f"{place}:", np.asarray(getattr(side, name)).astype(str)) for place, side in enumerate(sides)])
        for name in ("cluster", "stratum")
    )
    return cluster_bootstrap(Components(numerators, denominators, cluster, stratum), _minus, resamples=resamples, level=level, seed=seed)


def guarded_ratio(top: Components, bottom: Components, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0) -> GuardedRatio:
    """Interval of top / bottom, one ratio of sums each on the same items, where the lower end of bottom's interval is above 0.

    Shares of a gain or of a loss mean nothing where the gain or loss itself may be 0: the quotient then has neither mean nor variance.

    Raises:
        DataError: the items differ.
        UsageError: either has more than one ratio.
    """
    if top.count != 1 or bottom.count != 1:
        raise UsageError(f"A guarded ratio takes one ratio above and one below, not {top.count} and {bottom.count}.")
    upper, lower = (cluster_bootstrap(part, resamples=resamples, level=level, seed=seed) for part in (top, bottom))
    ratio = cluster_bootstrap(top.beside(bottom), _over, resamples=resamples, level=level, seed=seed)
    defined = bool(lower.low > 0)
    if not defined:
        why = "not defined: the denominator is not surely above 0"
        ratio = replace(ratio, value=np.nan, low=np.nan, high=np.nan, standard_error=np.nan, note=why)
    return GuardedRatio(ratio, upper, lower, defined)


def _minus(ratios: Floats) -> Floats:
    return ratios[..., 0] - ratios[..., 1]


def _over(ratios: Floats) -> Floats:
    return ratios[..., 0] / ratios[..., 1]
