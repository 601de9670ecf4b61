"""Seconds and memory of the ledger's statistics: 58,492 items (BBQ), 11 groups, 10,000 shared resamples, on a ledger made at random.

What the figures mean and how they were taken: bench/README.md.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from fairforget.forgetting import biased_forgetting, build_ledger, net_forgetting, summary
from fairforget.tables import ITEM_SCHEMA


def audits(items: int, groups: int, clusters: int, seed: int = 0) -> list[pl.DataFrame]:
    """Two item tables: each cluster lies in one category, which is its group and stratum; clusters differ in difficulty."""
    rng = np.random.default_rng(seed)
    cluster = np.sort(rng.integers(0, clusters, items))
    hard = rng.uniform(0.2, 0.9, clusters)[cluster]
    before = rng.random(items) < hard
    after = np.where(rng.random(items) < 0.2, rng.random(items) < hard - 0.1, before)
    place = pl.int_range(items, eager=True)
    group = pl.Series(cluster % groups).cast(pl.String)
    return [
        pl.DataFrame(schema=ITEM_SCHEMA).clear(items).with_columns(
            benchmark=pl.lit("bbq"), protocol=pl.lit("choice"), task=pl.lit("bbq"), role=pl.lit("ability"), part=pl.lit("test"),
            item=place.cast(pl.String), cluster=pl.Series(cluster).cast(pl.String), stratum=group, groups=pl.concat_list(group),
            texts=pl.concat_list(pl.lit("one"), pl.lit("two"), pl.lit("three")), correct=pl.Series(right).cast(pl.Float64),
        )
        for right in (before, after)
    ]


def timed(name: str, work: Callable[[], Any], rows: list[tuple[str, float, float]]) -> Any:
    """Run and note wall and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    found = work()
    rows.append((name, time.perf_counter() - wall, time.process_time() - processor))
    return found


def main() -> int:
    """Print a table; exit code 1 where the statistics take over 5 s of processor time or the process over 1 GiB."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=58_492)
    parser.add_argument("--groups", type=int, default=11)
    parser.add_argument("--clusters", type=int, default=261)
    parser.add_argument("--resamples", type=int, default=10_000)
    options = parser.parse_args()
    rows: list[tuple[str, float, float]] = []
    before, after = audits(options.items, options.groups, options.clusters)
    ledger = timed("build and balance the ledger", lambda: build_ledger(before, after), rows)
    timed("sums by task and group", lambda: summary(ledger), rows)
    found = timed("biased forgetting", lambda: biased_forgetting(ledger, resamples=options.resamples), rows)
    timed("net forgetting and its tests", lambda: net_forgetting(ledger, resamples=options.resamples), rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("| step | wall (s) | processor (s) |\n| --- | ---: | ---: |")
    for name, wall, processor in rows:
        print(f"| {name} | {wall:.2f} | {processor:.2f} |")
    print(f"\npeak memory {peak:.0f} MiB; tau {found.dispersion.value:.4f}, {options.items} items, {options.groups} groups, "
          f"{options.clusters} clusters, {options.resamples} resamples")
    return int(rows[2][2] > 5 or peak > 1024)


if __name__ == "__main__":
    sys.exit(main())
