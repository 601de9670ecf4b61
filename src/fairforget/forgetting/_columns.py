"""Ledger rows made ready for statistics: sums behind a figure, group membership, and checks of what a ledger is the account of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fairforget.errors import DataError, UsageError
from fairforget.stats import Components, Interval
from fairforget.stats.cluster_sums import Floats

ALL = "all"
"""Name of the row over all items, beside those of groups."""

ACCOUNT = ["run", "stage", "benchmark", "protocol", "part", "task", "role"]
"""What names one account that statistics are made of; its seeds are measurements of the same items."""


def scored(ledger: pl.DataFrame) -> pl.DataFrame:
    """The rows with a score in both states."""
    return ledger.filter(pl.col("skipped").is_null())


def one_account(ledger: pl.DataFrame, wanted: str) -> pl.DataFrame:
    """The scored rows of a ledger of one task at one stage of one run, whose seeds may be several.

    Args:
        ledger: to be checked.
        wanted: what the rows are for, for the message.

    Raises:
        DataError: it holds none.
        UsageError: it holds several.
    """
    accounts = ledger.select(ACCOUNT).unique()
    if accounts.height > 1:
        differ = [name for name in ACCOUNT if accounts[name].n_unique() > 1]
        raise UsageError(
            f"{wanted} is a figure of one task at one stage of one run, but the ledger holds {accounts.height} "
            f"(they differ in {', '.join(differ)}): filter it first."
        )
    rows = scored(ledger)
    if rows.is_empty():
        raise DataError(f"{wanted} needs items that were scored in both states, and the ledger holds none.")
    return rows


def column(ledger: pl.DataFrame, expression: pl.Expr) -> Floats:
    """(N,) values of an expression, null as 0."""
    return ledger.select(expression.cast(pl.Float64).fill_null(0.0).alias("x"))["x"].to_numpy()


def ratios(ledger: pl.DataFrame, numerators: Sequence[Floats], denominators: Sequence[Floats]) -> Components:
    """K ratios of sums over the rows of a ledger, with its clusters and strata."""
    return Components(np.column_stack(numerators), np.column_stack(denominators), *labels(ledger))


def labels(ledger: pl.DataFrame) -> tuple[NDArray[Any], NDArray[Any]]:
    """Cluster and stratum of each row, as whole numbers: comparing 58,000 texts takes longer than all else."""
    cluster, stratum = (ledger[name].fill_null("").rank("dense").to_numpy() for name in ("cluster", "stratum"))
    return cluster, stratum


def group_names(ledger: pl.DataFrame) -> list[str]:
    """All groups, by name."""
    return sorted(set(ledger["groups"].explode().drop_nulls().to_list()))


def membership(ledger: pl.DataFrame, groups: Sequence[str]) -> NDArray[np.bool_]:
    """(N, K): which item is in which group."""
    if not groups:
        return np.zeros((ledger.height, 0), dtype=np.bool_)
    place = {group: number for number, group in enumerate(groups)}
    exploded = ledger.select("groups").with_row_index("row").explode("groups").filter(pl.col("groups").is_in(list(groups)))
    inside = np.zeros((ledger.height, len(groups)), dtype=np.bool_)
    inside[exploded["row"].to_numpy(), exploded["groups"].replace_strict(place, return_dtype=pl.Int64).to_numpy()] = True
    return inside


def figures(interval: Interval, name: str) -> dict[str, float]:
    """A figure and the ends of its interval under names that begin alike."""
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
