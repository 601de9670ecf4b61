"""What one variant of an axis adds to another: cells that are alike but for it, compared item by item, seeds pooled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from fairforget.benchmarks._evaluate import METRIC_SCHEMA, paired_changes
from fairforget.benchmarks._targets import target_change
from fairforget.stats import holm
from fairforget.tables import read_table, write_table
from fairforget.workflows.plan import prepare
from fairforget.workflows.recipe import Recipe
from fairforget.workflows.run_folder import RunFolder
from fairforget.workflows.study_jobs import StudyFolder, finished
from fairforget.workflows.study_pool import pool_changes
from fairforget.workflows.study_recipe import Cell

CONTRAST_SCHEMA: dict[str, pl.DataType] = {
    "configuration": pl.String(),
    "against": pl.String(),  # the configuration that it is compared with
    "benchmark": pl.String(),
    "task": pl.String(),
    "metric": pl.String(),
    "unit": pl.String(),
    "better": pl.String(),  # "neutral", "higher" or "lower"
    "target": pl.Boolean(),  # the distance from neutral that the strength was searched for
    "seeds": pl.Int64(),  # with both cells finished
    "planned": pl.Int64(),
    "change": pl.Float64(),  # second minus first, mean over seeds; of a ratio the geometric mean
    "low": pl.Float64(),
    "high": pl.Float64(),
    "seed_spread": pl.Float64(),  # standard deviation between seeds (of a ratio's logarithm); null for one seed
    "p": pl.Float64(),  # two-sided, of no difference
    "p_holm": pl.Float64(),  # adjusted over all configurations that are compared on this figure
    "clusters": pl.Int64(),
    "note": pl.String(),
}
"""Columns of ``contrasts.parquet``."""

DISTANCE = "distance from neutral"
RATIO = "ratio"


def contrast_table(cells: Sequence[Cell], folder: StudyFolder, against: Mapping[str, str]) -> pl.DataFrame:
    """Every figure over all items, of each cell less that of the cell that is alike but for one axis.

    Both cells were measured on the same items, so differences are paired; what depends on the luck of the items is shared by the seeds
    (``study_pool.pool``).

    Args:
        cells: of the study.
        folder: of the study.
        against: the axis, and the variant that the others are compared with; empty for no comparison.

    Returns:
        Rows of ``CONTRAST_SCHEMA``, in the order of the cells.
    """
    rows: list[dict[str, Any]] = []
    pairs: dict[tuple[str, str], list[tuple[Cell, Cell]]] = {}
    for first, second in _alike(cells, against):
        pairs.setdefault((second.configuration, first.configuration), []).append((first, second))
    for (configuration, other), own in pairs.items():
        done = [pair for pair in own if all(finished(folder, cell) for cell in pair)]
        if not done:
            continue
        changes = pl.concat([_changes(folder, *pair) for pair in done])
        for (benchmark, task, metric), group in changes.group_by(["benchmark", "task", "metric"], maintain_order=True):
            facts = {"configuration": configuration, "against": other, "benchmark": benchmark, "task": task, "metric": metric}
            rows.append(facts | {"planned": len(own)} | _pooled(group))
    table = pl.DataFrame(rows, schema=CONTRAST_SCHEMA)
    return _adjusted(table)


def _alike(cells: Sequence[Cell], against: Mapping[str, str]) -> Iterator[tuple[Cell, Cell]]:
    """Each cell of another variant, after the cell of the named one that is alike in all else."""

    def rest(cell: Cell, axis: str) -> tuple[Any, ...]:
        return (*((name, value) for name, value in cell.axes.items() if name != axis), cell.seed, cell.strength)

    for axis, variant in against.items():
        named = {rest(cell, axis): cell for cell in cells if cell.axes[axis] == variant and cell.recipe is not None}
        for cell in cells:
            other = named.get(rest(cell, axis))
            if cell.recipe is not None and other is not None and cell is not other:
                yield other, cell


def _changes(folder: StudyFolder, first: Cell, second: Cell) -> pl.DataFrame:
    """Paired differences of two finished cells, kept beside the second one's tables until one of them is run again."""
    runs = [RunFolder(folder.run(cell.name)) for cell in (first, second)]
    kept = runs[1].tables / f"against-{first.name}.parquet"
    if kept.exists() and kept.stat().st_mtime_ns > max(run.record.stat().st_mtime_ns for run in runs):
        return read_table(kept, list(METRIC_SCHEMA))
    assert second.recipe is not None
    changes = _measured(second.recipe, [run.read_items("edited", "test") for run in runs])
    write_table(changes, kept)
    return changes


def _measured(recipe: Recipe, states: Sequence[pl.DataFrame]) -> pl.DataFrame:
    plan = prepare(recipe)
    frames: list[pl.DataFrame] = []
    for benchmark in plan.benchmarks:
        before, after = (table.filter(pl.col("benchmark") == benchmark.name) for table in states)
        options = {"resamples": recipe.resamples, "seed": recipe.seed}
        changes = paired_changes(benchmark, before, after, **options)
        if benchmark is plan.target:
            change = target_change(before, after, plan.metric, **options)
            unit = next(one.unit for one in benchmark.metrics() if one.name == plan.metric)
            changes = pl.concat([pl.DataFrame([{
                "state": "difference", "benchmark": benchmark.name, "task": benchmark.name, "metric": DISTANCE, "group": "all",
                "value": change.value, "low": change.low, "high": change.high, "standard_error": change.standard_error, "unit": unit,
                "better": "lower", "n": change.items, "clusters": change.clusters, "note": change.note,
            }], schema=METRIC_SCHEMA), changes])
        frames.append(changes)
    return pl.concat(frames)


def _pooled(group: pl.DataFrame) -> dict[str, Any]:
    first = group.row(0, named=True)
    found = pool_changes(group["value"].to_list(), group["standard_error"].to_list(), int(first["clusters"]), ratio=first["unit"] == RATIO)
    change, low, high = found.value, found.low, found.high
    if group.height == 1 and math.isfinite(first["standard_error"]):
        low, high = first["low"], first["high"]  # one seed keeps its own interval
    return {
        "unit": first["unit"], "better": first["better"], "target": first["metric"] == DISTANCE, "seeds": group.height,
        "change": change, "low": _finite(low), "high": _finite(high), "seed_spread": found.spread, "p": _finite(found.p),
        "clusters": first["clusters"], "note": "; ".join(dict.fromkeys(note for note in group["note"] if note)),
    }


def _adjusted(table: pl.DataFrame) -> pl.DataFrame:
    """Holm over the configurations that are compared on one figure."""
    frames = [
        group.with_columns(
            pl.Series("p_holm", holm([math.nan if p is None else p for p in group["p"]]), dtype=pl.Float64).fill_nan(None)
        )
        for _, group in table.with_row_index().group_by(["task", "metric"], maintain_order=True)
    ]
    return pl.concat(frames).sort("index").drop("index") if frames else table


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
