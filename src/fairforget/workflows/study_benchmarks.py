"""What each configuration does to every benchmark, seeds pooled: the target is one of them, and the strength was searched for it alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from fairforget.benchmarks._evaluate import ALL
from fairforget.tables import read_table
from fairforget.workflows.plan import prepare
from fairforget.workflows.run_folder import RunFolder
from fairforget.workflows.study_jobs import StudyFolder
from fairforget.workflows.study_pool import pool_changes
from fairforget.workflows.study_recipe import Cell
from fairforget.workflows.study_table import DONE, headline

BENCHMARK_SCHEMA: dict[str, pl.DataType] = {
    "model": pl.String(),
    "task": pl.String(),
    "metric": pl.String(),  # the headline of its benchmark
    "unit": pl.String(),
    "neutral": pl.Float64(),  # of an unbiased model; null where there is none
    "configuration": pl.String(),
    "method": pl.String(),
    "seeds": pl.Int64(),
    "planned": pl.Int64(),
    "before": pl.Float64(),
    "change": pl.Float64(),  # paired, mean over seeds
    "low": pl.Float64(),
    "high": pl.Float64(),
    "seed_spread": pl.Float64(),
    "cost": pl.Float64(),  # perplexity ratio, as in the frontier
    "cost_low": pl.Float64(),
    "cost_high": pl.Float64(),
    "budget_percent": pl.Float64(),
}
"""Columns of ``benchmarks.parquet``."""


def benchmark_table(cells: Sequence[Cell], table: pl.DataFrame, frontier: pl.DataFrame, folder: StudyFolder) -> pl.DataFrame:
    """The headline figure of every task: paired change of each configuration, seeds pooled (``study_pool.pool``), beside its cost.

    Args:
        cells: of the study.
        table: what ``study_table`` gave for them.
        frontier: what ``frontier_table`` gave, for costs.
        folder: of the study.

    Returns:
        Rows of ``BENCHMARK_SCHEMA``: configurations in the order of the study, by model, task and metric.
    """
    costs = {row["configuration"]: row for row in frontier.iter_rows(named=True)}
    measured: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for cell, row in zip(cells, table.iter_rows(named=True), strict=True):
        if row["status"] == DONE and cell.recipe is not None:
            for figure in _headlines(cell, folder):
                key = (row["model"], figure["task"], figure["metric"], row["configuration"])
                measured.setdefault(key, []).append(figure)
    rows: list[dict[str, Any]] = []
    for (model, task, metric, configuration), found in measured.items():
        pooled = pool_changes([one["value"] for one in found], [one["error"] for one in found], int(found[0]["clusters"]))
        alone = found[0] if len(found) == 1 and math.isfinite(found[0]["error"]) else None  # one seed keeps its own interval
        own = costs[configuration]
        rows.append({
            "model": model, "task": task, "metric": metric, "configuration": configuration, "before": found[0]["before"],
            "unit": found[0]["unit"], "neutral": found[0]["neutral"], "change": pooled.value,
            "low": alone["low"] if alone else pooled.low, "high": alone["high"] if alone else pooled.high, "seed_spread": pooled.spread,
            **{name: own[name] for name in ("method", "seeds", "planned", "cost", "cost_low", "cost_high", "budget_percent")},
        })
    return pl.DataFrame(rows, schema=BENCHMARK_SCHEMA).with_columns(pl.col(pl.Float64).fill_nan(None))


def _headlines(cell: Cell, folder: StudyFolder) -> list[dict[str, Any]]:
    assert cell.recipe is not None
    chosen = {benchmark.name: headline(benchmark) for benchmark in prepare(cell.recipe).benchmarks}
    metrics = read_table(RunFolder(folder.run(cell.name)).tables / "metrics.parquet").filter(
        (pl.col("group") == ALL) & (pl.col("part") == "test")
    )
    own = metrics.filter(pl.struct("benchmark", "metric").is_in([{"benchmark": name, "metric": metric} for name, metric in chosen.items()]))
    base = {row["task"]: row for row in own.filter(pl.col("state") == "base").iter_rows(named=True)}
    return [
        {
            **{name: row[name] for name in ("task", "metric", "unit", "value", "low", "high", "clusters")}, "error": row["standard_error"],
            "before": base[row["task"]]["value"], "neutral": base[row["task"]]["neutral"],
        }
        for row in own.filter(pl.col("state") == "difference").iter_rows(named=True)
        if row["task"] in base
    ]
