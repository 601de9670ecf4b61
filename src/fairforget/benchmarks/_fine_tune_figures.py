"""Figures of fine-tuned models: mean over seeds of a function of each seed's ratios, so that intervals over items come out.

Every figure but Spearman's is a function of ratios of sums over rows. A seed's ratios are sums over its rows divided by the number of *all*
rows, with the seed's share of the rows beside them: so a seed that a group does not hold has zeros and not 0 / 0, and the same figure
serves all seeds together and each seed alone.

Spearman's correlation depends on ranks, which resampling changes. A row's value of it is rho + n drho/dw, w the row's weight and n the
number of rows of the seed (infinitesimal jackknife): the mean of these values is rho itself, and the mean of a resample is rho of the
resample to first order, new ranks included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fairforget.benchmarks._base import MetricDefinition

Floats = NDArray[np.float64]

_SMALLEST_SHARE = 1e-3
"""A seed with a smaller share of the rows is not there; a numerical derivative moves a share of 0 by less."""


def over_seeds(
    name: str, applies: pl.Expr, seeds: Sequence[int], columns: Sequence[pl.Expr], function: Callable[[Floats], Floats], unit: str,
    description: str,
) -> MetricDefinition:
    """A metric that is the mean over seeds of a function of means over the seed's rows.

    Args:
        name: as printed.
        applies: rows that the figure is about.
        seeds: all seeds.
        columns: K expressions whose means over a seed's rows the function reads.
        function: maps means (..., K) to values (...).
        unit: of the figure.
        description: one sentence with the formula's source.
    """
    numerators: list[pl.Expr] = []
    for seed in seeds:
        inside = pl.col("groups").list.contains(seed_group(seed)).cast(pl.Float64)
        numerators += [inside, *(inside * column for column in columns)]
    size = 1 + len(columns)

    def mean(ratios: Floats) -> Floats:
        by_seed = ratios.reshape(*ratios.shape[:-1], len(seeds), size)
        share = by_seed[..., 0]
        there = share > _SMALLEST_SHARE
        with np.errstate(divide="ignore", invalid="ignore"):
            values = function(by_seed[..., 1:] / np.where(there, share, 1.0)[..., None])
            return np.where(there, values, 0.0).sum(axis=-1) / there.sum(axis=-1)

    counted = pl.when(applies).then(1.0)
    return MetricDefinition(
        name, tuple(pl.when(applies).then(column) for column in numerators), (counted,) * len(numerators), unit, "higher",  # type: ignore[arg-type]
        function=mean, description=f"{description} Mean over seeds.",
    )


def mean_of(name: str, parts: Sequence[tuple[MetricDefinition, float]], description: str) -> MetricDefinition:
    """A metric that is the mean of others, each times a factor, on a table of all their tasks."""
    sizes = [len(part.numerators) for part, _ in parts]
    ends = np.cumsum(sizes).tolist()

    def mean(ratios: Floats) -> Floats:
        figures = [
            factor * part.function(ratios[..., end - size : end]) for (part, factor), size, end in zip(parts, sizes, ends, strict=True)
        ]
        return np.stack(figures, axis=-1).mean(axis=-1)

    return MetricDefinition(
        name, tuple(one for part, _ in parts for one in part.numerators), tuple(one for part, _ in parts for one in part.denominators), "%",
        "higher", function=mean, description=description, scope="task",
    )


def seed_group(seed: int) -> str:
    """The group of a seed's rows."""
    return f"seed {seed}"


def matthews(means: Floats) -> Floats:
    """Matthews correlation (Matthews 1975; phi) from shares (..., 3): true positives, predicted positives, positives."""
    both, predicted, positive = np.moveaxis(means, -1, 0)
    return (both - predicted * positive) / np.sqrt(predicted * (1 - predicted) * positive * (1 - positive))


def f1(means: Floats) -> Floats:
    """F1 of the positive class from the same shares, 0 to 100."""
    both, predicted, positive = np.moveaxis(means, -1, 0)
    return 200 * both / (predicted + positive)


def macro_f1(means: Floats) -> Floats:
    """Mean of the F1 of both classes from the same shares, 0 to 100."""
    both, predicted, positive = np.moveaxis(means, -1, 0)
    return 50 * (2 * both / (predicted + positive) + 2 * (1 - predicted - positive + both) / (2 - predicted - positive))


def pearson(means: Floats) -> Floats:
    """Pearson's correlation from means (..., 5) of x, y, x^2, y^2 and xy."""
    x, y, xx, yy, xy = np.moveaxis(means, -1, 0)
    return (xy - x * y) / np.sqrt((xx - x**2) * (yy - y**2))


def spearman_values(x: Floats, y: Floats) -> Floats | None:
    """Each row's value of Spearman's correlation, whose mean is the correlation (ties share their ranks); None where it is undefined.

    With mid-distribution functions F and G, rho = E[(F - 1/2)(G - 1/2)] / sqrt(E[(F - 1/2)^2] E[(G - 1/2)^2]); a row's weight moves these
    means themselves and, through F and G, the places of all other rows.

    Args:
        x: (n,) one figure of each row.
        y: (n,) the other.
    """
    from scipy.stats import rankdata  # here, so that benchmarks can be listed without it

    u, v = (((rankdata(values) - 0.5) / len(values)) - 0.5 for values in (x, y))
    shared, first, second = float((u * v).mean()), float((u**2).mean()), float((v**2).mean())
    if not len(x) or first == 0 or second == 0:
        return None
    rho = shared / np.sqrt(first * second)
    of_shared = u * v + _moved(x, v) + _moved(y, u) - 3 * shared
    of_first = u**2 + 2 * _moved(x, u) - 3 * first
    of_second = v**2 + 2 * _moved(y, v) - 3 * second
    return rho + of_shared / np.sqrt(first * second) - rho / 2 * (of_first / first + of_second / second)


def _moved(x: Floats, values: Floats) -> Floats:
    """For each row i the mean over rows k of [x_i < x_k] values_k, ties a half: how i's weight moves the distribution function at k."""
    _, place = np.unique(x, return_inverse=True)
    totals = np.bincount(place, values)
    above = totals.sum() - np.cumsum(totals)
    return (above + totals / 2)[place] / len(x)
