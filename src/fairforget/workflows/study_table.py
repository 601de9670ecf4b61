"""The one table of a study: a row per cell, from the run folders alone, as Parquet, CSV and Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from fairforget.benchmarks import Benchmark
from fairforget.files import atomic_path, write_text
from fairforget.report import number_words
from fairforget.tables import read_table, write_table
from fairforget.workflows.plan import prepare
from fairforget.workflows.recipe import Recipe
from fairforget.workflows.run_folder import RunFolder, read_json
from fairforget.workflows.study_jobs import StudyFolder, facts_of, failure_sentence, finished
from fairforget.workflows.study_recipe import Cell

DONE, FAILED, NOT_RUN = "done", "failed", "not run"

CELL_SCHEMA: dict[str, pl.DataType] = {
    "cell": pl.String(),
    "configuration": pl.String(),  # its variants without the seed
    "status": pl.String(),  # "done", "failed" or "not run"
    "verdict": pl.String(),  # kind of the verdict
    "reason": pl.String(),  # why it failed or was not run; of a run, why this strength
    "seed": pl.Int64(),
    "model": pl.String(),
    "family": pl.String(),
    "parameters": pl.Int64(),
    "method": pl.String(),
    "strength": pl.Float64(),  # chosen or given
    "searched": pl.Boolean(),
    "target": pl.String(),
    "unit": pl.String(),
    "target_before": pl.Float64(),  # distance from neutral on `test`
    "target_after": pl.Float64(),
    "target_change": pl.Float64(),  # paired; below 0 is nearer to neutral
    "target_low": pl.Float64(),
    "target_high": pl.Float64(),
    "target_error": pl.Float64(),  # standard error
    "target_clusters": pl.Int64(),
    "perplexity_ratio": pl.Float64(),  # after / before, paired
    "perplexity_low": pl.Float64(),
    "perplexity_high": pl.Float64(),
    "perplexity_error": pl.Float64(),
    "perplexity_clusters": pl.Int64(),
    "budget_percent": pl.Float64(),
    "seconds": pl.Float64(),
    "folder": pl.String(),  # relative to the study's
}
"""Columns of every study; the axes follow, then the headline figures of each task."""

HEADLINE_PARTS = ("before", "after", "difference", "difference_low", "difference_high")


def study_table(cells: Sequence[Cell], folder: StudyFolder) -> pl.DataFrame:
    """One row per cell, in the order of the cells.

    Columns are those of ``CELL_SCHEMA``, ``axis.NAME`` for each axis, and for the headline metric of each task (the first of its
    benchmark that has a neutral point, else the first) ``TASK.METRIC.before``, ``.after``, ``.difference``, ``.difference_low`` and
    ``.difference_high``.

    Args:
        cells: all cells of the study, excluded ones too.
        folder: of the study.
    """
    axes = list(dict.fromkeys(axis for cell in cells for axis in cell.axes))
    rows: list[dict[str, Any]] = []
    figures: dict[str, None] = {}
    for cell in cells:
        row = _row(cell, folder)
        found = _headlines(cell.recipe, folder, cell) if cell.recipe is not None and row["status"] == DONE else {}
        figures.update(dict.fromkeys(found))
        rows.append({**row, **{f"axis.{axis}": cell.axes.get(axis) for axis in axes}, **found})
    schema = {**CELL_SCHEMA, **{f"axis.{axis}": pl.String() for axis in axes}, **dict.fromkeys(figures, pl.Float64())}
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)


def _row(cell: Cell, folder: StudyFolder) -> dict[str, Any]:
    row: dict[str, Any] = {"cell": cell.name, "configuration": cell.configuration, "seed": cell.seed}
    row |= {"strength": cell.strength, "searched": cell.strength is None}
    if cell.recipe is None:
        return row | {"status": NOT_RUN, "reason": cell.excluded}
    row |= {"model": cell.recipe.model.ref, "method": cell.recipe.method.name, "budget_percent": cell.recipe.budget.get("perplexity")}
    if not finished(folder, cell):
        failure = failure_sentence(folder, cell.name)
        return row | {"status": FAILED if failure else NOT_RUN, "reason": failure or "not reached yet; the same command goes on"}
    facts = facts_of(folder, cell)
    evidence: Mapping[str, Any] = facts["evidence"]
    change, ratio = evidence["change"], evidence["ratio"] or {}
    unchanged = facts["strength"] == 0
    return row | {
        "status": DONE,
        "verdict": _verdict_kind(folder, cell),
        "reason": evidence["search_reason"],
        "model": cell.axes.get("model") or facts["model"]["name"],
        "family": facts["model"]["family"],
        "parameters": facts["model"]["parameters"],
        "strength": facts["strength"],
        "target": evidence["target"],
        "unit": evidence["unit"],
        "target_before": evidence["before"]["distance"],
        "target_after": evidence["after"]["distance"],
        "target_change": change["value"],
        # an edit of strength 0 is the base to the last bit, so there is nothing to be unsure of
        "target_low": 0.0 if unchanged else change["low"],
        "target_high": 0.0 if unchanged else change["high"],
        "target_error": 0.0 if unchanged else change["standard_error"],
        "target_clusters": change["clusters"],
        "perplexity_ratio": ratio.get("value"),
        "perplexity_low": 1.0 if unchanged and ratio else ratio.get("low"),
        "perplexity_high": 1.0 if unchanged and ratio else ratio.get("high"),
        "perplexity_error": 0.0 if unchanged and ratio else ratio.get("standard_error"),
        "perplexity_clusters": ratio.get("clusters"),
        "seconds": facts["seconds"],
        "folder": str(folder.run(cell.name).relative_to(folder.path)),
    }


def _verdict_kind(folder: StudyFolder, cell: Cell) -> str:
    return str(read_json(RunFolder(folder.run(cell.name)).tables / "verdict.json")["kind"])


def _headlines(recipe: Recipe, folder: StudyFolder, cell: Cell) -> dict[str, float | None]:
    metrics = read_table(RunFolder(folder.run(cell.name)).tables / "metrics.parquet")
    chosen = {benchmark.name: headline(benchmark) for benchmark in prepare(recipe).benchmarks}
    found: dict[str, float | None] = {}
    for row in metrics.filter(pl.col("group") == "all").iter_rows(named=True):
        if row["metric"] != chosen.get(row["benchmark"]):
            continue
        key = f"{row['task']}.{row['metric']}"
        if row["state"] == "difference":
            ends = {"difference": row["value"], "difference_low": row["low"], "difference_high": row["high"]}
        else:
            ends = {"before" if row["state"] == "base" else "after": row["value"]}
        found |= {f"{key}.{end}": value if number_words.is_number(value) else None for end, value in ends.items()}
    keys = dict.fromkeys(name.rpartition(".")[0] for name in found)
    return {f"{key}.{part}": found.get(f"{key}.{part}") for key in keys for part in HEADLINE_PARTS}


def headline(benchmark: Benchmark) -> str:
    """The metric that stands for a benchmark in the table of a study: its first with a neutral point, else its first."""
    definitions = benchmark.metrics()
    return next((definition.name for definition in definitions if definition.neutral is not None), definitions[0].name)


def write_study_table(table: pl.DataFrame, folder: StudyFolder) -> None:
    """Write ``study.parquet``, ``study.csv`` and ``study.md`` into the folder's ``tables``."""
    write_table(table, folder.tables / "study.parquet")
    with atomic_path(folder.tables / "study.csv") as temporary:
        table.write_csv(temporary)
    write_text(folder.tables / "study.md", study_markdown(table))


def study_markdown(table: pl.DataFrame) -> str:
    """The main columns as a Markdown table, with intervals in brackets."""
    headers = ("cell", "strength", "verdict", "target", "before → after", "change (paired)", "perplexity", "time")
    lines = [" | ".join(headers), " | ".join("---" for _ in headers)]
    lines += [
        " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cell_words(row)) for row in table.iter_rows(named=True)
    ]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def cell_words(row: Mapping[str, Any]) -> list[str]:
    """A row of the table as text: cell, strength, verdict or what kept it from being run, target, levels, change, cost, time."""
    if row["status"] != DONE:
        return [row["cell"], number_words.MISSING, f"{row['status']}: {row['reason']}", *[number_words.MISSING] * 5]
    unit = row["unit"]
    levels = f"{number_words.number(row['target_before'], unit)} → {number_words.quantity(row['target_after'], unit)}"
    change = number_words.quantity(row["target_change"], unit, signed=True)
    interval = number_words.bounds(row["target_low"], row["target_high"], unit, signed=True)
    return [
        row["cell"], f"{row['strength']:.3g}", row["verdict"], row["target"], levels, f"{change} {interval}".strip(), cost_words(row),
        number_words.duration(row["seconds"]),
    ]


def cost_words(row: Mapping[str, Any]) -> str:
    """The change of perplexity in per cent with its interval; a dash where it was not measured."""
    if row["perplexity_ratio"] is None:
        return number_words.MISSING
    value, low, high = (
        None if row[name] is None or not math.isfinite(row[name]) else 100 * (row[name] - 1)
        for name in ("perplexity_ratio", "perplexity_low", "perplexity_high")
    )
    return f"{number_words.number(value, '%', signed=True)} % {number_words.bounds(low, high, '%', signed=True)}".strip()
