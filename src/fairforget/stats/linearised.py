"""Several figures of the same items with their joint covariance, by the influence of each cluster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairforget.stats.cluster_sums import Floats


@dataclass(frozen=True)
class Linearised:
    """S figures and how much each cluster moves them.

    Attributes:
        values: (S,) the figures; ``nan`` where one is not defined.
        influences: (C, S) influence of each cluster, centred within its stratum and scaled by sqrt(m_h / (m_h - 1)) for the m_h
            clusters of its stratum, so that the covariance is the sum of their squares.
        starts: (H,) first cluster of each stratum.
        sizes: (H,) clusters of each stratum.
        clusters: (S,) clusters that hold measured items of the figure.
        items: (S,) measured items.
        obstacles: why a figure has no standard error; empty where it has one.
    """

    values: Floats
    influences: Floats
    starts: NDArray[np.intp]
    sizes: NDArray[np.intp]
    clusters: NDArray[np.intp]
    items: NDArray[np.intp]
    obstacles: tuple[str, ...]

    @property
    def covariance(self) -> Floats:
        """(S, S): cluster-robust, within strata; figures that share clusters covary."""
        return self.influences.T @ self.influences

    def only(self, chosen: NDArray[np.bool_]) -> Linearised:
        """The figures where `chosen` (S,) holds."""
        kept = tuple(words for words, keep in zip(self.obstacles, chosen, strict=True) if keep)
        return Linearised(
            self.values[chosen], self.influences[:, chosen], self.starts, self.sizes, self.clusters[chosen], self.items[chosen], kept
        )
