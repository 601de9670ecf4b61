"""Item tables made ready for statistics: sums behind a metric, and two states brought to the same rows."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fairforget.benchmarks._base import MetricDefinition
from fairforget.errors import DataError
from fairforget.stats.bootstrap import Components


def components(table: pl.DataFrame, definition: MetricDefinition) -> Components:
    """The sums behind a metric, row by row; rows that were skipped count nothing."""
    numerators, denominators = definition.columns(table)
    kept = scored_rows(table)[:, None]
    return Components(numerators * kept, denominators * kept, table["cluster"].to_numpy(), table["stratum"].to_numpy())


def scored_rows(table: pl.DataFrame) -> NDArray[np.bool_]:
    """Which rows have a score."""
    return table["skipped"].is_null().to_numpy()


def pair(before: pl.DataFrame, after: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The two tables with the same items in the same order; an item skipped in one state is skipped in both.

    Raises:
        DataError: they hold different items, so that a difference would not be one of states, or an item twice.
    """
    keys = ["benchmark", "task", "item"]
    for table in (before, after):
        if table.select(pl.struct(keys).is_duplicated().any()).item():
            raise DataError("An item table holds an item twice, so it cannot be paired: it must hold one part of one run.")
    before, after = before.sort(keys), after.sort(keys)
    if not before.select(keys).equals(after.select(keys)):
        raise DataError(
            f"The two item tables cannot be paired: {before.join(after, on=keys, how='anti').height} items are only in the first and "
            f"{after.join(before, on=keys, how='anti').height} only in the second; audit both states with the same benchmarks and settings."
        )
    reason = [left if left is not None else right for left, right in zip(before["skipped"], after["skipped"], strict=True)]
    skipped = pl.Series("skipped", reason, dtype=pl.String)
    return before.with_columns(skipped), after.with_columns(skipped)
