"""The target of the strength search: how far a model's preferences are from neutral, domain by domain, less what is noise.

A mean over all domains lets a bias toward one side in one domain hide one toward the other side in another; a mean of absolute values,
or a plain root mean square, is above 0 for a neutral model merely because it was measured on few items. So squares are averaged, from
which the variance of each domain's mean is subtracted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairforget.errors import DataError
from fairforget.stats.bootstrap import FEWEST_CLUSTERS


@dataclass(frozen=True)
class DomainMargin:
    """Mean signed margin of one domain: its value (nats), cluster-robust variance, clusters and items."""

    mean: float
    variance: float
    clusters: int
    items: int


@dataclass(frozen=True)
class RmsTarget:
    """Root mean square over domains of the mean signed margin.

    Attributes:
        value: sqrt(max(0, mean over domains of (mean^2 - variance))), nats; 0 is neutral.
        standard_error: of the value, nats; ``nan`` with a note where there is none.
        signed_mean: mean over domains of the mean signed margin; its sign shows a reversal.
        signed_standard_error: of the signed mean.
        domains: by name, sorted; also those left out of `value` for having one cluster (variance ``nan``).
        note: why a figure is ``nan``, or which domains were left out; empty otherwise.
    """

    value: float
    standard_error: float
    signed_mean: float
    signed_standard_error: float
    domains: dict[str, DomainMargin]
    note: str = ""


def domain_rms(margins: NDArray[Any], domain: NDArray[Any], cluster: NDArray[Any]) -> RmsTarget:
    """Root mean square over domains of the mean signed margin, noise variance subtracted.

    With m the D domain means and S their cluster-robust covariance (off the diagonal only where domains share clusters), the square is
    Q = mean_d(m_d^2 - S_dd), unbiased for the mean squared true margin, and its variance (4 m'Sm - 2 tr S^2) / D^2 for normal means,
    with no less than the pure-noise part 2 tr S^2 / D^2. The standard error of sqrt(Q) is half the distance between the roots of
    Q + SE(Q) and of max(0, Q - SE(Q)): the delta method's SE(Q) / (2 sqrt(Q)) where Q is well above its noise, and finite at 0.

    Args:
        margins: (N,) score(stereotype) - score(anti-stereotype), nats; ``nan`` for skipped items, which are left out.
        domain: (N,) labels.
        cluster: (N,) labels.

    Raises:
        DataError: lengths differ or a margin is infinite.
    """
    values = np.asarray(margins, dtype=np.float64)
    domains, clusters = np.asarray(domain).astype(str), np.asarray(cluster).astype(str)
    if not values.shape == domains.shape == clusters.shape or values.ndim != 1:
        raise DataError(f"A target needs one domain and one cluster label for each of {len(values)} margins.")
    scored = ~np.isnan(values)
    values, domains, clusters = values[scored], domains[scored], clusters[scored]
    if np.isinf(values).any():
        raise DataError(f"{int(np.isinf(values).sum())} margins are infinite: score these items again or skip them.")
    if len(values) == 0:
        return RmsTarget(np.nan, np.nan, np.nan, np.nan, {}, "nothing was measured")
    names, place = np.unique(domains, return_inverse=True)
    labels, member = np.unique(clusters, return_inverse=True)
    items = np.bincount(place)
    means = np.bincount(place, values) / items
    cell = member * len(names) + place
    shape = (len(labels), len(names))
    influence = np.bincount(cell, (values - means[place]) / items[place], minlength=shape[0] * shape[1]).reshape(shape)
    held = (np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape) > 0).sum(axis=0)
    influence *= np.sqrt(held / np.maximum(held - 1, 1))
    covariance = influence.T @ influence
    usable = held > 1
    summary = {
        str(name): DomainMargin(float(mean), float(variance) if used else np.nan, int(many), int(count))
        for name, mean, variance, used, many, count in zip(names, means, np.diag(covariance), usable, held, items, strict=True)
    }
    notes: list[str] = []
    if not usable.all():
        notes.append(f"{int((~usable).sum())} of {len(names)} domains have one cluster and are left out")
    if not usable.any():
        return RmsTarget(np.nan, np.nan, float(means.mean()), np.nan, summary, "too few clusters (1 in each domain)")
    mean, noise, count = means[usable], covariance[np.ix_(usable, usable)], int(usable.sum())
    square = float(np.mean(mean**2 - np.diag(noise)))
    value = float(np.sqrt(max(square, 0.0)))
    signed, signed_error = float(mean.mean()), float(np.sqrt(noise.sum().clip(min=0.0))) / count
    pure = float(np.sum(noise**2))
    square_error = float(np.sqrt(max(4 * float(mean @ noise @ mean) - 4 * pure, 0.0) + 2 * pure)) / count
    error = (np.sqrt(max(square, 0.0) + square_error) - np.sqrt(max(square - square_error, 0.0))) / 2
    measured = len(np.unique(member[usable[place]]))
    if measured < FEWEST_CLUSTERS:
        notes.insert(0, f"too few clusters ({measured})")
        error = signed_error = np.nan
    elif square_error <= 1e-12 * float(np.mean(values**2)):
        notes.insert(0, "no variation between clusters")
        error = signed_error = np.nan
    return RmsTarget(value, float(error), signed, signed_error, summary, "; ".join(notes))
