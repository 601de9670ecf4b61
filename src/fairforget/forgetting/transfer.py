"""Does unlearning one bias lower others? What became of each domain's bias, from a ledger (after Lu et al. 2024, arXiv 2407.16951)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from fairforget.errors import UsageError
from fairforget.forgetting._columns import Floats, column, figures, group_names, membership, one_account, ratios
from fairforget.stats import Interval, cluster_bootstrap


@dataclass(frozen=True)
class TransferRatio:
    """R = (|b₀| − |b|) / |b₀| of one domain.

    Attributes:
        value: the share of the bias that is gone: 1 where none is left, below 0 where it grew; ``nan`` where there was none.
        crossed: whether the bias changed its direction: R then says how near neutral it came from the other side.
    """

    value: float
    crossed: bool


def transfer_ratio(before: float, after: float) -> TransferRatio:
    """Share of a signed bias that is gone.

    Args:
        before: b₀, distance from neutral with its sign.
        after: b of the same domain after some domain was unlearned.
    """
    if before == 0:
        return TransferRatio(math.nan, crossed=False)
    return TransferRatio((abs(before) - abs(after)) / abs(before), before * after < 0)


def transfer_table(
    ledger: pl.DataFrame, *, groups: Sequence[str] | None = None, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> pl.DataFrame:
    """How much nearer to neutral each domain's share of stereotypes came.

    b = 100 (share of items whose stereotype is preferred, ties a half) − 50. Near neutral |b| is above 0 by noise alone, before as after,
    so falls between two such values are small whatever happened; read ``before`` with its interval beside.

    Args:
        ledger: of one bias task at one stage; seeds of one run are pooled.
        groups: domains; all that the ledger has when None.
        resamples: of the intervals.
        level: coverage.
        seed: of the resamples.

    Returns:
        A row per domain: ``group``, ``n``, ``clusters``; ``before`` and ``after`` (b, points, with ends); ``fall`` = |b₀| − |b| (points,
        paired interval); ``ratio``, null where ``before`` cannot be told from 0; ``crossed``; ``note``.

    Raises:
        DataError: no item has a preference.
        UsageError: a ledger of several accounts.
    """
    rows = one_account(ledger, "Transfer").filter(pl.col("prefers_stereotype_before").is_not_null())
    options: dict[str, Any] = {"resamples": resamples, "level": level, "seed": seed}
    found: list[dict[str, Any]] = []
    for group in group_names(rows) if groups is None else groups:
        inside = rows.filter(pl.col("groups").list.contains(group))
        biases = [100 * column(inside, pl.col(f"prefers_stereotype_{state}")) - 50 for state in ("before", "after")]
        every = np.ones(inside.height)
        both = ratios(inside, biases, [every, every])
        own = [cluster_bootstrap(ratios(inside, [values], [every]), **options) for values in biases]
        fall = cluster_bootstrap(both, _fall, **options)
        told = own[0].low > 0 or own[0].high < 0
        ratio = transfer_ratio(own[0].value, own[1].value)
        notes = [own[0].note, "" if told else "the bias before cannot be told from 0, so there is no ratio"]
        found.append({
            "group": group, "n": inside.height, "clusters": own[0].clusters, **figures(own[0], "before"), **figures(own[1], "after"),
            **figures(fall, "fall"), "ratio": ratio.value if told else None, "crossed": ratio.crossed,
            "note": "; ".join(note for note in notes if note),
        })
    return pl.DataFrame(found, schema_overrides={"ratio": pl.Float64()}, infer_schema_length=None)


def mean_transfer(
    ledger: pl.DataFrame, groups: Sequence[str], *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Mean over domains of |b₀| − |b|, points, with its paired interval: did the domains that were not unlearned come nearer to neutral?

    Domains count alike, whatever their number of items; an item of several domains stands in each.

    Args:
        ledger: as in :func:`transfer_table`.
        groups: the domains.
        resamples: of the interval.
        level: coverage.
        seed: of the resamples.

    Raises:
        DataError: no item has a preference.
        UsageError: a ledger of several accounts, or no domain.
    """
    if not groups:
        raise UsageError("A mean over domains needs at least one domain.")
    rows = one_account(ledger, "Transfer").filter(pl.col("prefers_stereotype_before").is_not_null())
    member = list(membership(rows, groups).astype(np.float64).T)
    biases = [100 * column(rows, pl.col(f"prefers_stereotype_{state}")) - 50 for state in ("before", "after")]
    columns = ratios(rows, [inside * values for values in biases for inside in member], member * 2)

    def mean_fall(means: Floats) -> Floats:
        before, after = np.split(np.abs(means), 2, axis=-1)
        return (before - after).mean(axis=-1)

    return cluster_bootstrap(columns, mean_fall, resamples=resamples, level=level, seed=seed)


def _fall(means: Floats) -> Floats:
    return np.abs(means[..., 0]) - np.abs(means[..., 1])
