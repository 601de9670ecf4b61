"""Does it matter which of two tasks is tuned first? Two contrasts, as "the opposite order" can be read in two ways.

With safety S and capability C: the **order effect** OE = F(S | S -> C) - F(C | C -> S) compares how much of the first task each order
forgets, on two different sets of items, which are resampled apart. The **end-state contrast** EO = R[C -> S, S] - R[S -> C, S] compares
safety itself at the end of the two orders, on the same items, which are paired.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from fairforget.errors import DataError
from fairforget.forgetting._columns import column, labels, one_account, ratios
from fairforget.forgetting.ledger import KEY
from fairforget.stats import (
    Components,
    Interval,
    McNemar,
    SignFlipTest,
    cluster_bootstrap,
    independent_difference,
    mcnemar,
    sign_flip_permutation,
)


@dataclass(frozen=True)
class OrderEffect:
    """How much more of safety one order forgets than the other of capability, as shares of items.

    Attributes:
        safety: F(S | S -> C).
        capability: F(C | C -> S).
        difference: OE, positive where safety is forgotten more.
    """

    safety: Interval
    capability: Interval
    difference: Interval


@dataclass(frozen=True)
class EndState:
    """One task at the end of two paths, item by item.

    Attributes:
        difference: score at the end of the second path less that of the first, share of items.
        changed: McNemar's test; "lost" counts items that only the first path has right.
        flips: sign-flip test by cluster.
    """

    difference: Interval
    changed: McNemar
    flips: SignFlipTest


def order_effect(
    safety: pl.DataFrame, capability: pl.DataFrame, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> OrderEffect:
    """The order effect OE.

    Args:
        safety: ledger of the safety task at the stage that tuned on capability after safety.
        capability: ledger of the capability task at the stage that tuned on safety after capability.
        resamples: of the intervals.
        level: coverage.
        seed: of the resamples.

    Raises:
        DataError: a ledger has no items that can be right or wrong.
        UsageError: a ledger holds several accounts.
    """
    options: dict[str, Any] = {"resamples": resamples, "level": level, "seed": seed}
    first, second = _net(safety), _net(capability)
    return OrderEffect(
        cluster_bootstrap(first, **options), cluster_bootstrap(second, **options), independent_difference(first, second, **options)
    )


def end_state(first: pl.DataFrame, second: pl.DataFrame, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0) -> EndState:
    """The end-state contrast EO between the ends of two paths, for one task; seeds are matched.

    Args:
        first: ledger of the last stage of the first path (S -> C), one task.
        second: ledger of the last stage of the second path (C -> S), same task.
        resamples: of the interval and the permutation test.
        level: coverage.
        seed: of both.

    Raises:
        DataError: the paths were not audited on the same items.
        UsageError: a ledger holds several accounts.
    """
    key = ["seed", *KEY]
    sides = [one_account(ledger, "An end state").filter(pl.col("correct_after").is_not_null()) for ledger in (first, second)]
    joined = sides[0].join(sides[1].select(*key, "prompt_hash", other="correct_after"), on=key, how="inner", suffix="_other")
    same = joined.height == sides[0].height == sides[1].height and joined["prompt_hash"].eq_missing(joined["prompt_hash_other"]).all()
    if joined.is_empty() or not same:
        raise DataError("The ends of two paths can only be compared on the same items and seeds: audit both on the same data.")
    change = column(joined, pl.col("other") - pl.col("correct_after"))
    cluster, stratum = labels(joined)
    interval = cluster_bootstrap(
        Components(change, np.ones(joined.height), cluster, stratum), resamples=resamples, level=level, seed=seed
    )
    changed = mcnemar(int((change < 0).sum()), int((change > 0).sum()))
    return EndState(interval, changed, sign_flip_permutation(change, cluster, permutations=resamples, seed=seed))


def _net(ledger: pl.DataFrame) -> Components:
    rows = one_account(ledger, "An order effect").filter(pl.col("lost").is_not_null())
    if rows.is_empty():
        raise DataError("An order effect needs items that can be right or wrong, and the ledger has none.")
    return ratios(rows, [column(rows, pl.col("lost") - pl.col("gained"))], [np.ones(rows.height)])
