"""The three parts of a benchmark: `train` (trained on), `select` (strength, settings and stopping are chosen on it), `test` (reported).

Whole clusters go to one part, so that nothing near to a reported item was ever seen before; clusters are dealt out within strata, so
that every part has its share of each. The order is by hash: the same cluster lands in the same part on every machine and in any
order of the input.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

TRAIN_SELECT_TEST: Mapping[str, float] = {"train": 0.4, "select": 0.2, "test": 0.4}
"""Shares of a benchmark that may be trained on."""

SELECT_TEST: Mapping[str, float] = {"select": 0.5, "test": 0.5}
"""Shares of a benchmark that is never trained on."""


def assign_parts(clusters: Sequence[str], strata: Sequence[str], shares: Mapping[str, float], salt: str = "fairforget") -> list[str]:
    """Deal clusters out to parts within strata.

    Within a stratum the clusters are ordered by sha256 of `salt` and cluster, and cut where the cumulative share of clusters is reached
    (a half cluster falls to the later part, so `test` gains by rounding, not `select`).

    Args:
        clusters: cluster of each item, length N.
        strata: stratum of each item, length N. A cluster met in several strata belongs to its home stratum, see :func:`home_strata`.
        shares: share of the clusters per part, in order; they sum to 1.
        salt: another salt gives another cut.

    Returns:
        Part of each item, length N; items of one cluster have one part.

    Raises:
        ValueError: lengths differ, or the shares are negative or do not sum to 1.
    """
    if any(share < 0 for share in shares.values()) or not math.isclose(sum(shares.values()), 1):
        raise ValueError(f"the shares of the parts must be at least 0 and sum to 1, not {dict(shares)}")
    members: defaultdict[str, set[str]] = defaultdict(set)
    for cluster, stratum in zip(clusters, home_strata(clusters, strata), strict=True):
        members[stratum].add(cluster)
    part: dict[str, str] = {}
    for inside in members.values():
        ordered = sorted(inside, key=lambda cluster: (hashlib.sha256(f"{salt}:{cluster}".encode()).digest(), cluster))
        start, cumulative = 0, 0.0
        for name, share in shares.items():
            cumulative += share
            end = math.ceil(round(len(ordered) * cumulative - 0.5, 9))
            part.update(dict.fromkeys(ordered[start:end], name))
            start = end
    return [part[cluster] for cluster in clusters]


def home_strata(clusters: Sequence[str], strata: Sequence[str]) -> list[str]:
    """The one stratum of each item's cluster: where most of its items lie, the alphabetically first of equals.

    Cluster methods (the cut into parts, resampling within strata) need every cluster inside one stratum.

    Raises:
        ValueError: lengths differ.
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for cluster, stratum in zip(clusters, strata, strict=True):
        counts[cluster][stratum] += 1
    home = {cluster: min(count, key=lambda stratum: (-count[stratum], stratum)) for cluster, count in counts.items()}
    return [home[cluster] for cluster in clusters]


def connected_rows(keys: Sequence[set[str]]) -> list[int]:
    """Connected components of rows that share a key: for each row the first row of its component."""
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for row, names in enumerate(keys):
        for name in names:
            rows_of[name].append(row)
    first = [-1] * len(keys)
    for start in range(len(keys)):
        waiting = [start]
        while waiting:
            row = waiting.pop()
            if first[row] < 0:
                first[row] = start
                waiting.extend(other for name in keys[row] for other in rows_of[name])
    return first
