"""The page of a study: words first, the frontier of bias against cost, and every cell, those that failed or were not run too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field

from fairforget.errors import FairforgetError
from fairforget.files import write_text
from fairforget.report import number_words
from fairforget.report.difference_chart import difference_chart
from fairforget.report.page import Figures, render
from fairforget.report.run_folder import BenchmarkRecord, DatasetRecord, Record, Verdict, read_record
from fairforget.report.study_charts import CHANGE_TITLE, collapse_chart, frontier_chart, scaling_chart
from fairforget.tables import read_table

STUDY_RECORD = "study.json"
PAGE = "frontier.html"
COST_FIGURE = "log perplexity ratio"
_SHOWN = 12
"""Configurations named in the text alternative of a chart."""


class StudyRecord(Record):
    """``study.json``: what was run, with which versions."""

    study: str = "frontier"
    recipe: str = ""
    axes: dict[str, list[str]] = Field(default_factory=dict[str, list[str]])
    seeds: list[int] = Field(default_factory=list[int])
    strengths: list[float | str] = Field(default_factory=list[float | str])
    cells: dict[str, int] = Field(default_factory=dict[str, int])
    benchmarks: list[BenchmarkRecord] = Field(default_factory=list[BenchmarkRecord])
    datasets: list[DatasetRecord] = Field(default_factory=list[DatasetRecord])
    versions: dict[str, str] = Field(default_factory=dict[str, str])
    git: dict[str, Any] | None = None
    command: str | None = None
    started: str | None = None
    seconds: float | None = None
    model: None = None
    """The shared templates ask for what a single run has, as also:"""
    other_model: None = None
    edit_hash: None = None
    seed: None = None


def write_study_page(folder: Path) -> Path:
    """Write ``frontier.html`` into the folder of a study, from its record and tables alone.

    Returns:
        The path of the page.

    Raises:
        FairforgetError: the folder holds no study, or the page cannot be written.
        DataError: the record or a table is damaged.
    """
    if not (folder / STUDY_RECORD).is_file():
        raise FairforgetError(f"{folder} holds no study (no {STUDY_RECORD}): give the folder that `fairforget study` wrote.")
    figures = Figures({})
    context = _context(folder, figures)
    page = folder / PAGE
    write_text(page, render("study.html.j2", context, figures))
    return page


def _context(folder: Path, figures: Figures) -> dict[str, Any]:
    record = read_record(folder / STUDY_RECORD, StudyRecord)
    tables = folder / "tables"
    cells = read_table(tables / "study.parquet", ("cell", "status"))
    frontier = read_table(tables / "frontier.parquet", ("configuration", "on_frontier"))
    verdict = tables / "verdict.json"
    recipe = folder / "study.yaml"
    panels = [_panel(group, figures) for _, group in frontier.group_by(["model", "target"], maintain_order=True)]
    numbers = {row["configuration"]: row["number"] for panel in panels for row in panel["rows"]}
    return {
        "title": f"Study of {_things(record)}",
        "record": record,
        "verdict": read_record(verdict, Verdict) if verdict.is_file() else None,
        "recipe": recipe.read_text(encoding="utf-8") if recipe.is_file() else None,
        "content_warnings": [dataset.warning for dataset in record.datasets if dataset.warning],
        "cautions": list(dict.fromkeys(benchmark.caution for benchmark in record.benchmarks if benchmark.caution)),
        "panels": panels,
        "scaling": _scaling(tables, figures),
        "contrasts": _contrasts(tables, figures),
        "collapse": _collapse(tables, figures),
        "cells": [_cell(row) for row in cells.iter_rows(named=True)],
        "headlines": _headlines(cells, tables, numbers, figures),
    }


def _things(record: StudyRecord) -> str:
    counts = [f"{len(names)} {axis}{'s' * (len(names) != 1)}" for axis, names in record.axes.items()]
    return ", ".join([*counts, f"{len(record.seeds)} seed{'s' * (len(record.seeds) != 1)}"])


def _panel(group: pl.DataFrame, figures: Figures) -> dict[str, Any]:
    """One model and target: its chart, and its configurations from the largest fall on."""
    rows = group.sort("change", nulls_last=True).to_dicts()
    for number, row in enumerate(rows, start=1):
        row |= {"number": number, "label": row["configuration"], **_words(row)}
    first = rows[0]
    budgets = {row["budget_percent"] for row in rows}
    budget = first["budget_percent"] if len(budgets) == 1 else None
    said = "; ".join(f"{row['number']} {row['label']}: {row['change_words']} at {row['cost_words']}" for row in rows[:_SHOWN])
    rest = f"; and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    line = f" The budget line stands at {budget:g} %." if budget is not None else ""
    text = f"Chart of {CHANGE_TITLE} against perplexity cost, with 95 % intervals. {said}{rest}.{line} The table below holds every figure."
    figure = figures.add(frontier_chart(rows, first["unit"], budget), text)
    return {"model": first["model"], "target": first["target"], "rows": rows, "figures": [figure] if figure else []}


def _words(row: dict[str, Any]) -> dict[str, str]:
    unit = row["unit"]
    interval = number_words.bounds(row["low"], row["high"], unit, signed=True)
    spread = row["seed_spread"]
    return {
        "change_words": f"{number_words.quantity(row['change'], unit, signed=True)} {interval or '(no interval)'}",
        "cost_words": _percent_words(row["cost"], row["cost_low"], row["cost_high"]),
        "spread_words": number_words.MISSING if spread is None else number_words.quantity(spread, unit),
        "cost_spread_words": _share(row["cost_seed_spread"]),
    }


def _share(spread: float | None) -> str:
    return number_words.MISSING if spread is None else f"{number_words.number(100 * spread, '%')} %"


def _percent_words(ratio: float | None, low: float | None, high: float | None) -> str:
    if not number_words.is_number(ratio):
        return number_words.MISSING
    value, least, most = (100 * (end - 1) if end is not None and number_words.is_number(end) else None for end in (ratio, low, high))
    return f"{number_words.number(value, '%', signed=True)} % {number_words.bounds(least, most, '%', signed=True)}".strip()


def _cell(row: dict[str, Any]) -> dict[str, Any]:
    unit = row["unit"]
    return {
        "name": row["cell"],
        "status": row["status"],
        "verdict": row["verdict"],
        "reason": row["reason"],
        "link": f"{row['folder']}/report.html" if row["folder"] else None,
        "strength": row["strength"],
        "searched": row["searched"],
        "levels": f"{number_words.number(row['target_before'], unit)} → {number_words.quantity(row['target_after'], unit)}",
        "change": number_words.quantity(row["target_change"], unit, signed=True),
        "interval": number_words.bounds(row["target_low"], row["target_high"], unit, signed=True),
        "cost": _percent_words(row["perplexity_ratio"], row["perplexity_low"], row["perplexity_high"]),
        "seconds": row["seconds"],
    }


def _headlines(cells: pl.DataFrame, folder: Path, numbers: dict[str, int], figures: Figures) -> list[dict[str, Any]]:
    """The headline figure of each task: its change against the cost, a chart a model, and every cell."""
    path = folder / "benchmarks.parquet"
    pooled = read_table(path, ("configuration", "change")) if path.is_file() else pl.DataFrame(schema=["task", "metric", "model"])
    keys = [name.removesuffix(".difference") for name in cells.columns if name.endswith(".difference")]
    tables: list[dict[str, Any]] = []
    for key in keys:
        rows = [
            {
                "name": row["cell"],
                "before": number_words.number(row[f"{key}.before"], "ppl"),
                "after": number_words.number(row[f"{key}.after"], "ppl"),
                "difference": number_words.number(row[f"{key}.difference"], "ppl", signed=True),
                "interval": number_words.bounds(row[f"{key}.difference_low"], row[f"{key}.difference_high"], "ppl", signed=True),
            }
            for row in cells.iter_rows(named=True)
            if row[f"{key}.before"] is not None
        ]
        task, _, metric = key.rpartition(".")
        own = pooled.filter((pl.col("task") == task) & (pl.col("metric") == metric))
        drawn = [_cost_figure(group.to_dicts(), numbers, figures) for _, group in own.group_by(["model"], maintain_order=True)]
        tables.append({"task": task, "metric": metric, "rows": rows, "figures": [figure for figure in drawn if figure is not None]})
    return tables


def _cost_figure(rows: list[dict[str, Any]], numbers: dict[str, int], figures: Figures) -> dict[str, str] | None:
    """Change of a headline figure against perplexity, numbered as on the frontier of the target."""
    for row in rows:
        row |= {"number": numbers[row["configuration"]], "label": row["configuration"], "on_frontier": False}
    first = rows[0]
    budgets = {row["budget_percent"] for row in rows}
    level = f"before: {number_words.quantity(first['before'], first['unit'])}"
    neutral = "" if first["neutral"] is None else f", neutral: {number_words.quantity(first['neutral'], first['unit'])}"
    said = "; ".join(
        f"{row['number']} {row['label']}: {number_words.quantity(row['change'], row['unit'], signed=True)} "
        f"{number_words.bounds(row['low'], row['high'], row['unit'], signed=True)}" for row in rows[:_SHOWN]
    )
    chart = frontier_chart(rows, first["unit"], first["budget_percent"] if len(budgets) == 1 else None, f"change of {first['metric']}")
    text = f"Chart of the change of {first['task']} {first['metric']} against perplexity cost, {first['model']} ({level}{neutral}). {said}."
    figure = figures.add(chart, f"{text} The table below holds every cell.")
    return None if figure is None else {**figure, "caption": f"{first['model']}, {level}{neutral}; numbers are those of the frontier"}


def _scaling(tables: Path, figures: Figures) -> dict[str, Any] | None:
    path, points_path = tables / "scaling.parquet", tables / "scaling-points.parquet"
    if not path.is_file() or not points_path.is_file():
        return None
    lines, points = read_table(path, ("figure", "slope")), read_table(points_path, ("figure", "parameters"))
    if lines.is_empty():
        return None
    drawn: list[dict[str, str]] = []
    for (figure, target), group in lines.group_by(["figure", "target"], maintain_order=True):
        own = points.filter((pl.col("figure") == figure) & (pl.col("target") == target))
        title = str(figure) if figure == COST_FIGURE else f"change of {target} ({group['unit'][0]})"
        chart = figures.add(
            scaling_chart(own.to_dicts(), group.to_dicts(), title),
            f"Chart of {title} against the number of parameters, with 95 % intervals and fitted lines. The table below holds every slope.",
        )
        drawn += [chart] if chart else []
    return {"figures": drawn, "rows": [_line(row) for row in lines.to_dicts()]}


def _contrasts(tables: Path, figures: Figures) -> dict[str, Any] | None:
    """Variants against the one that the study names: the target drawn, every other figure as a table."""
    path = tables / "contrasts.parquet"
    contrasts = read_table(path, ("configuration", "against")) if path.is_file() else pl.DataFrame()
    if contrasts.is_empty():
        return None
    drawn: list[dict[str, str]] = []
    for (unit,), group in contrasts.filter(pl.col("target")).group_by(["unit"], maintain_order=True):
        rows = [{"label": row["configuration"], "value": row["change"], "low": row["low"], "high": row["high"]} for row in group.to_dicts()]
        said = "; ".join(f"{row['configuration']}: {_change_words(row)}" for row in group.head(_SHOWN).to_dicts())
        chart = figures.add(
            difference_chart(rows, f"further change of the distance from neutral ({unit}); left of 0 is less bias", unit=str(unit)),
            f"Chart of what each configuration changes further, paired by item, with 95 % intervals. {said}. The tables hold every figure.",
        )
        drawn += [chart] if chart else []
    headlines = tables / "benchmarks.parquet"
    main = set(read_table(headlines, ("task", "metric")).select("task", "metric").iter_rows()) if headlines.is_file() else set()
    shown: list[dict[str, Any]] = [
        {"task": task, "metric": metric, "main": (task, metric) in main or bool(group["target"][0]), "rows": [
            {"configuration": row["configuration"], "against": row["against"], "words": _change_words(row), "seeds": row["seeds"],
             "planned": row["planned"], "p": row["p_holm"], "note": row["note"]}
            for row in group.to_dicts()
        ]}
        for (task, metric), group in contrasts.group_by(["task", "metric"], maintain_order=True)
    ]
    return {
        "figures": drawn, "tables": [table for table in shown if table["main"]], "others": [table for table in shown if not table["main"]],
    }


def _change_words(row: dict[str, Any]) -> str:
    signed = row["unit"] != "ratio"
    interval = number_words.bounds(row["low"], row["high"], row["unit"], signed=signed)
    return f"{number_words.quantity(row['change'], row['unit'], signed=signed)} {interval or '(no interval)'}"


def _collapse(tables: Path, figures: Figures) -> dict[str, Any] | None:
    """(U)NC3 of the first word set against bias, a chart for each model and task; every word set as a table."""
    path = tables / "collapse.parquet"
    found = read_table(path, ("configuration", "unc3")) if path.is_file() else pl.DataFrame()
    if found.is_empty():
        return None
    words = found["words"][0]
    panels: list[dict[str, Any]] = []
    for (model,), group in found.group_by(["model"], maintain_order=True):
        drawn: list[dict[str, str]] = []
        for (task,), own in group.filter(pl.col("words") == words).group_by(["task"], maintain_order=True):
            chart = figures.add(
                collapse_chart(own.to_dicts(), f"{task}: distance from neutral (nats)"),
                f"Chart of (U)NC3 of the words {words} against the distance of {task} from neutral, {model}: {own.height} points, "
                "one for each cell and the base. The table holds every figure.",
            )
            drawn += [chart] if chart else []
        sets = group.unique(["configuration", "seed", "strength", "words"], maintain_order=True)
        panels.append({"model": model, "words": words, "figures": drawn, "rows": [
            {
                "name": row["cell"] or row["configuration"], "words": row["words"], "unc3": number_words.number(row["unc3"]),
                "interval": number_words.bounds(row["unc3_low"], row["unc3_high"]), "nc3": number_words.number(row["nc3_mean"]),
            }
            for row in sets.iter_rows(named=True)
        ]})
    return {"panels": panels}


def _line(row: dict[str, Any]) -> dict[str, Any]:
    name = row["figure"] if row["figure"] == COST_FIGURE else f"{row['figure']} ({row['target']}, {row['unit']})"
    ends: Sequence[float | None] = (row["low"], row["high"])
    interval = "" if None in ends else f"[{row['low']:+.3g}, {row['high']:+.3g}]"
    return {**row, "name": name, "slope_words": f"{row['slope']:+.3g}", "interval": interval}
