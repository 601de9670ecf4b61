"""Collapse of words beside bias, cell by cell, for studies whose cells measure both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from fairforget.benchmarks._evaluate import ALL, MARGIN_RMS
from fairforget.tables import read_table
from fairforget.workflows.run_folder import RunFolder
from fairforget.workflows.study_jobs import StudyFolder
from fairforget.workflows.study_recipe import Cell
from fairforget.workflows.study_table import DONE

BENCHMARK = "geometry"

COLLAPSE_SCHEMA: dict[str, pl.DataType] = {
    "cell": pl.String(),  # null for a base
    "configuration": pl.String(),  # "base" for a base
    "model": pl.String(),
    "seed": pl.Int64(),  # null for a base
    "strength": pl.Float64(),
    "words": pl.String(),  # name of the word set
    "unc3": pl.Float64(),
    "unc3_low": pl.Float64(),
    "unc3_high": pl.Float64(),
    "nc3_mean": pl.Float64(),
    "task": pl.String(),  # of a bias benchmark with margins
    "distance": pl.Float64(),  # of its margins from neutral, root mean square over domains, nats
    "distance_low": pl.Float64(),
    "distance_high": pl.Float64(),
}
"""Columns of ``collapse.parquet``: a row per finished cell (and base), word set and bias task."""

BASE, EDITED = "base", "edited"


def collapse_table(cells: Sequence[Cell], table: pl.DataFrame, folder: StudyFolder) -> pl.DataFrame:
    """(U)NC3 and NC3 beside the distance from neutral of every task with margins, of finished cells that measured `geometry` and of bases.

    Args:
        cells: of the study.
        table: what ``study_table`` gave for them.
        folder: of the study.

    Returns:
        Rows of ``COLLAPSE_SCHEMA``, each base's before those of its cells; none where no cell measured `geometry`.
    """
    rows: list[dict[str, Any]] = []
    bases: set[str] = set()
    for cell, row in zip(cells, table.iter_rows(named=True), strict=True):
        if row["status"] != DONE:
            continue
        metrics = read_table(RunFolder(folder.run(cell.name)).tables / "metrics.parquet").filter(
            (pl.col("part") == "test") & (pl.col("group") == ALL)
        )
        if row["model"] not in bases and (found := list(_beside(metrics.filter(pl.col("state") == BASE)))):
            bases.add(row["model"])
            rows += [{"configuration": BASE, "model": row["model"], "strength": 0.0} | figures for figures in found]
        facts = {name: row[name] for name in ("cell", "configuration", "model", "seed", "strength")}
        rows += [facts | figures for figures in _beside(metrics.filter(pl.col("state") == EDITED))]
    found = pl.DataFrame([{name: row.get(name) for name in COLLAPSE_SCHEMA} for row in rows], schema=COLLAPSE_SCHEMA)
    return found.with_columns(pl.col(pl.Float64).fill_nan(None))


def _beside(metrics: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Figures of one state: each word set beside each bias task."""
    geometry = metrics.filter(pl.col("benchmark") == BENCHMARK)
    means = dict(geometry.filter(pl.col("metric") == "nc3_mean").select("task", "value").iter_rows())
    for words in geometry.filter(pl.col("metric") == "unc3").iter_rows(named=True):
        for bias in metrics.filter(pl.col("metric") == MARGIN_RMS).iter_rows(named=True):
            yield {
                "words": words["task"].removeprefix(f"{BENCHMARK}-"), "nc3_mean": means.get(words["task"]), "task": bias["task"],
                **{f"unc3{end}": words[name] for end, name in (("", "value"), ("_low", "low"), ("_high", "high"))},
                **{f"distance{end}": bias[name] for end, name in (("", "value"), ("_low", "low"), ("_high", "high"))},
            }
