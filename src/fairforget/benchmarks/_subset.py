"""A part of a benchmark instead of the whole, the same one on every machine: whole clusters, chosen by hash within strata."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from fairforget.data.parts import home_strata
from fairforget.settings import Settings

if TYPE_CHECKING:
    from fairforget.benchmarks._base import Item

_SALT = "subset"


class SubsetSettings(Settings):
    """How much of a benchmark is measured."""

    share: float = Field(default=1.0, gt=0, le=1)
    """Share of the clusters of each stratum that is measured, chosen by hash: the same on every machine, and 0.2 is a part of 0.4."""
    limit: int | None = Field(default=None, ge=1)
    """Largest number of items of each stratum: whole clusters in the order of their hash, at least one."""


def subset(items: Sequence[Item], settings: SubsetSettings) -> list[Item]:
    """The items of the chosen clusters, in the order in which they came.

    Args:
        items: of one part of a benchmark.
        settings: share of the clusters, and limit of items, within each stratum.
    """
    if settings.share == 1 and settings.limit is None:
        return list(items)
    clusters = [item.cluster for item in items]
    members: defaultdict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for cluster, stratum in zip(clusters, home_strata(clusters, [item.stratum for item in items]), strict=True):
        members[stratum][cluster] += 1
    kept: set[str] = set()
    for sizes in members.values():
        ordered = sorted(sizes, key=lambda cluster: (hashlib.sha256(f"{_SALT}:{cluster}".encode()).digest(), cluster))
        ordered = ordered[: max(1, round(len(ordered) * settings.share))]
        total = 0
        for place, cluster in enumerate(ordered):
            total += sizes[cluster]
            if place and settings.limit is not None and total > settings.limit:
                break
            kept.add(cluster)
    return [item for item in items if item.cluster in kept]
