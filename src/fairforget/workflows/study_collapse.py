"""Collapse of words beside bias, cell by cell, for studies whose cells measure both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from fairforget.tables import read_table
from fairforget.workflows.run_folder import RunFolder
from fairforget.workflows.study_jobs import StudyFolder
from fairforget.workflows.study_recipe import Cell
from fairforget.workflows.study_table import DONE

BENCHMARK = "geometry"
FIGURES = ("unc3", "nc3_mean")

COLLAPSE_SCHEMA: dict[str, pl.DataType] = {
    "cell": pl.String(),  # null for a base
    "configuration": pl.String(),
    "model": pl.String(),
    "words": pl.String(),  # name of the word set
    "seed": pl.Int64(),
    "strength": pl.Float64(),
    "unc3": pl.Float64(),
    "unc3_low": pl.Float64(),
    "unc3_high": pl.Float64(),
    "nc3_mean": pl.Float64(),
    "target": pl.String(),
    "unit": pl.String(),
    "distance": pl.Float64(),  # of the target from neutral
    "change": pl.Float64(),  # of that distance against the base, paired; 0 for the base
    "low": pl.Float64(),
    "high": pl.Float64(),
}
"""Columns of ``collapse.parquet``: a row per finished cell and word set, and one per base and word set."""

BASE = "base"


def collapse_table(cells: Sequence[Cell], table: pl.DataFrame, folder: StudyFolder) -> pl.DataFrame:
    """(U)NC3, NC3 and the distance of the target from neutral, of every finished cell that measured `geometry`, and of the bases.

    Args:
        cells: of the study.
        table: what ``study_table`` gave for them.
        folder: of the study.

    Returns:
        Rows of ``COLLAPSE_SCHEMA``, each base's before those of its cells; none where no cell measured `geometry`.
    """
    rows: list[dict[str, Any]] = []
    bases: set[tuple[str, str]] = set()
    for cell, row in zip(cells, table.iter_rows(named=True), strict=True):
        if row["status"] != DONE:
            continue
        found = _figures(RunFolder(folder.run(cell.name)))
        facts = {name: row[name] for name in ("model", "target", "unit", "seed")}
        for (state, words), figures in found.items():
            key = (row["model"], words)
            if state == BASE and key not in bases:
                bases.add(key)
                rows.append(facts | figures | {
                    "configuration": BASE, "words": words, "seed": None, "strength": 0.0, "distance": row["target_before"], "change": 0.0,
                })
        for words in dict.fromkeys(words for _, words in found):
            figures = found.get(("edited", words)) or found[BASE, words]  # an edit of strength 0 leaves the base
            rows.append(facts | figures | {
                "cell": row["cell"], "configuration": row["configuration"], "words": words, "strength": row["strength"],
                "distance": row["target_after"], "change": row["target_change"], "low": row["target_low"], "high": row["target_high"],
            })
    table = pl.DataFrame([{name: row.get(name) for name in COLLAPSE_SCHEMA} for row in rows], schema=COLLAPSE_SCHEMA)
    return table.with_columns(pl.col(pl.Float64).fill_nan(None))


def _figures(run: RunFolder) -> dict[tuple[str, str], dict[str, float | None]]:
    """By state and word set, in the order of the sets."""
    metrics = read_table(run.tables / "metrics.parquet").filter(
        (pl.col("benchmark") == BENCHMARK) & (pl.col("part") == "test") & (pl.col("group") == "all") & pl.col("metric").is_in(FIGURES)
        & (pl.col("state") != "difference")
    )
    found: dict[tuple[str, str], dict[str, float | None]] = {}
    for row in metrics.iter_rows(named=True):
        own = found.setdefault((row["state"], row["task"].removeprefix(f"{BENCHMARK}-")), {})
        own[row["metric"]] = row["value"]
        if row["metric"] == FIGURES[0]:
            own |= {"unc3_low": row["low"], "unc3_high": row["high"]}
    return {key: figures for key, figures in found.items() if FIGURES[0] in figures}
