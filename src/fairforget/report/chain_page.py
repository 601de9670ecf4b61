"""The page of a chain: words first, every task after every stage, what was forgotten by task and by group, orders, and the items lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import Field

from fairforget.errors import DataError, FairforgetError
from fairforget.files import write_text
from fairforget.report import number_words
from fairforget.report.attribution_charts import attribution_caption, attribution_chart
from fairforget.report.chain_charts import relearning_chart, strength_path_chart
from fairforget.report.difference_chart import difference_chart
from fairforget.report.forgetting_charts import task_matrix_chart
from fairforget.report.forgotten import biased_groups, forgetting_rows, interval, points, ratio, scaled
from fairforget.report.page import Figures, render
from fairforget.report.run_folder import BenchmarkRecord, DatasetRecord, ModelRecord, Record, Verdict, read_record
from fairforget.tables import read_table

RECORD, PAGE = "run.json", "chain.html"
QUESTIONS = "questions.parquet"
"""Prompts of the audited questions, in the folder of the base."""
TABLES = (
    "ledger", "scores", "matrix", "forgetting", "groups", "dispersion", "transitions", "likelihood", "selective", "order", "gains",
    "recovery", "metrics", "changes", "strengths", "matched", "curvature", "coupling", "attribution", "completeness", "relearning",
    "relearned",
)
NODES = 8
"""Nodes of the attribution where the chain's recipe does not say."""
LISTED = 40
"""Most lost items listed for each stage and task."""

ALL = "all"

_CORRECT, _BIAS = "correct", "prefers_stereotype"


class Kind(Record):
    """What any ``run.json`` says of itself."""

    kind: str = ""


class ChainRecord(Record):
    """``run.json`` of a chain."""

    kind: str
    model: ModelRecord | None = None
    paths: dict[str, list[str]] = Field(default_factory=dict[str, list[str]])
    tasks: dict[str, list[str]] = Field(default_factory=dict[str, list[str]])
    stages: dict[str, list[dict[str, Any]]] = Field(default_factory=dict[str, list[dict[str, Any]]])
    seeds: list[int] = Field(default_factory=list[int])
    tuning: dict[str, Any] = Field(default_factory=dict[str, Any])
    probe: dict[str, Any] = Field(default_factory=dict[str, Any])
    benchmarks: list[BenchmarkRecord] = Field(default_factory=list[BenchmarkRecord])
    datasets: list[DatasetRecord] = Field(default_factory=list[DatasetRecord])
    versions: dict[str, str] = Field(default_factory=dict[str, str])
    git: dict[str, Any] | None = None
    command: str | None = None
    started: str | None = None
    seconds: float | None = None
    other_model: None = None
    """The shared templates ask for what a single run has, as also:"""
    edit_hash: None = None
    seed: None = None


def holds_chain(folder: Path) -> bool:
    """Whether a folder holds a finished chain."""
    path = folder / RECORD
    return path.is_file() and path.read_text(encoding="utf-8").lstrip().startswith("{") and read_record(path, Kind).kind == "chain"


def write_chain_page(folder: Path) -> Path:
    """Write ``chain.html`` into the folder of a chain, from its record and tables alone.

    Returns:
        The path of the page.

    Raises:
        FairforgetError: the folder holds no chain, or the page cannot be written.
        DataError: the record or a table is damaged.
    """
    if not (folder / RECORD).is_file():
        raise FairforgetError(f"{folder} holds no finished chain (no {RECORD}): give the folder that `fairforget chain` wrote.")
    figures = Figures({})
    page = folder / PAGE
    write_text(page, render("chain.html.j2", _context(folder, figures), figures))
    return page


def _context(folder: Path, figures: Figures) -> dict[str, Any]:
    record = read_record(folder / RECORD, ChainRecord)
    tables = {path.stem: read_table(path) for path in sorted((folder / "tables").glob("*.parquet"))}
    missing = [name for name in TABLES if name not in tables]
    if missing:
        raise DataError(f"{folder / 'tables'} lacks {', '.join(missing)}: run the same chain again, it keeps what is finished.")
    verdict, recipe = folder / "tables" / "verdict.json", folder / "recipe.yaml"
    return {
        "title": f"Chain of {len(record.paths)} paths on {record.model.name if record.model else 'a model'}",
        "record": record,
        "verdict": read_record(verdict, Verdict) if verdict.is_file() else None,
        "recipe": recipe.read_text(encoding="utf-8") if recipe.is_file() else None,
        "content_warnings": [dataset.warning for dataset in record.datasets if dataset.warning],
        "cautions": list(dict.fromkeys(benchmark.caution for benchmark in record.benchmarks if benchmark.caution)),
        "matrices": _matrices(tables["scores"], tables["matrix"], record, figures),
        "scores": [_score(row) for row in tables["scores"].iter_rows(named=True)],
        "forgetting": _forgetting(tables["forgetting"], figures),
        "transitions": _transitions(tables["transitions"]),
        "changes": _changes(tables["changes"], figures),
        "likelihood": [_likelihood(row) for row in tables["likelihood"].iter_rows(named=True)],
        "selective": [_selective(row) for row in tables["selective"].iter_rows(named=True)],
        "order": _order(tables["order"], figures),
        "biased": _groups(tables, figures),
        "shares": [_share(row, "recovery") for row in tables["recovery"].iter_rows(named=True)]
        + [_share(row, "gain") for row in tables["gains"].iter_rows(named=True)],
        "strengths": _strengths(tables["strengths"], record, figures),
        "matched": [_matched(row) for row in tables["matched"].iter_rows(named=True)],
        "curvature": [_curvature(row) for row in tables["curvature"].iter_rows(named=True)],
        "bounded": not tables["curvature"].is_empty() and tables["curvature"]["bound"].is_not_null().any(),
        "coupling": tables["coupling"].filter(pl.col("note") == "descriptive").to_dicts(),
        "attributions": _attributions(tables, int(record.probe.get("nodes", NODES)), figures),
        "relearning": _relearning(tables, figures),
        "lost": _lost(folder, tables["ledger"], tables["forgetting"]),
    }


def _matrices(scores: pl.DataFrame, matrix: pl.DataFrame, record: ChainRecord, figures: Figures) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for (path,), own in scores.filter(pl.col("figure") == _CORRECT).group_by(["path"], maintain_order=True):
        stages = record.paths.get(str(path), [])
        tasks = own["task"].unique(maintain_order=True).to_list()
        held = {(row["stage"], row["task"]): row["value"] for row in own.iter_rows(named=True)}
        facts = {} if matrix.is_empty() else {row["task"]: row for row in matrix.filter(pl.col("path") == path).iter_rows(named=True)}
        levels = [[held.get((stage, task), np.nan) for task in tasks] for stage in range(len(stages) + 1)]
        learned = [(facts[task]["taught"] or 0) - 1 if task in facts else -1 for task in tasks]
        chart = task_matrix_chart(levels[1:], tasks, stages, base=levels[0], learned=learned)
        said = "; ".join(f"{task}: {', '.join(number_words.quantity(100 * row[place], '%') for row in levels)}"
                         for place, task in enumerate(tasks))
        figure = figures.add(chart, f"Task matrix of {path}: share right before and after each stage. {said}.")
        rows = [
            {"task": task, "taught": stages[fact["taught"] - 1] if fact["taught"] else "–",
             **{name: points(fact[name]) for name in ("forgetting_first", "forgetting_max", "forgetting_from_base")},
             **{name: ratio(fact[name]) for name in ("retention", "gain_normalised")}, "note": fact["note"]}
            for task, fact in facts.items()
        ]
        transfer = next(iter(facts.values()), {})
        found.append({
            "path": str(path), "figures": [figure] if figure else [], "rows": rows, "bwt": points(transfer.get("bwt")),
            "fwt": points(transfer.get("fwt")),
        })
    return found


def _score(row: dict[str, Any]) -> dict[str, Any]:
    share = row["figure"] in (_CORRECT, _BIAS)
    factor, unit = (100.0, "%") if share else (1.0, "nats")
    value, low, high = (factor * row[name] if number_words.is_number(row[name]) else None for name in ("value", "low", "high"))
    name = {_CORRECT: "right", _BIAS: "stereotypes preferred"}.get(row["figure"], "negative log-likelihood an item")
    seeds = ""
    if number_words.is_number(row.get("seed_low")):
        seeds = f"{number_words.number(factor * row['seed_low'], unit)} to {number_words.number(factor * row['seed_high'], unit)}"
    return {
        **row, "figure_name": name, "value_words": number_words.quantity(value, unit), "interval": number_words.bounds(low, high, unit),
        "seeds": seeds,
    }


def _forgetting(table: pl.DataFrame, figures: Figures) -> dict[str, Any]:
    return forgetting_rows(table, lambda row: f"{row['path']}\n{row['task']} after {row['by']}", figures)


def _transitions(table: pl.DataFrame) -> list[dict[str, Any]]:
    """What became of the answers over all stages of the paths that have more than one: the codes and how many items have each."""
    found: list[dict[str, Any]] = []
    for (path, task), own in table.group_by(["run", "task"], maintain_order=True) if not table.is_empty() else ():
        if len(own["code"][0]) > 2:
            codes = [{"code": row["code"], "n": row["n"], "share": row["n"] / own["n"].sum()} for row in own.iter_rows(named=True)]
            found.append({"path": path, "task": task, "codes": codes})
    return found


def headline_changes(changes: pl.DataFrame) -> pl.DataFrame:
    """Changes of the figures that stand for their benchmarks; a stage that several paths go through is told for the first of them."""
    shared = ["stage", "stage_name", "task", "before", "after", "change"]
    return changes.filter(pl.col("headline") & (pl.col("group") == ALL)).unique(shared, keep="first", maintain_order=True)


def _changes(table: pl.DataFrame, figures: Figures) -> dict[str, Any]:
    """Benchmarks beside the tasks: what each stage made of them; the chart is of the figures that stand for them."""
    charts: list[Any] = []
    for (unit, _), own in headline_changes(table).group_by(["unit", "metric"], maintain_order=True):
        tasks = own["task"].n_unique() > 1
        still = 1.0 if unit == "ratio" else 0.0  # a ratio is drawn as a change in per cent
        drawn: list[dict[str, Any]] = [
            {
                "label": f"{row['path']}: {row['stage_name']}{', ' + row['task'] if tasks else ''}",
                **{name: None if row[column] is None else row[column] - still
                   for name, column in (("value", "change"), ("low", "low"), ("high", "high"))},
            }
            for row in own.iter_rows(named=True)
        ]
        measured = {"%": "percentage points", "ratio": "per cent"}.get(str(unit), unit or "no unit")
        words = f"change of {str(own['metric'][0]).removesuffix('_ratio')}{'' if tasks else ' of ' + own['task'][0]}, {measured}"
        chart = figures.add(
            difference_chart(drawn, words, unit="%" if unit == "ratio" else str(unit), factor=100.0 if unit == "ratio" else 1.0),
            f"Chart of the {words}, by path and stage, with 95 % intervals. The table holds every figure.",
        )
        charts += [chart] if chart else []
    rows = [
        {
            **row, "label": row["task"] if row["group"] == ALL else f"{row['task']}, {row['group']}",
            **{f"{state}_words": number_words.quantity(row[state], row["level_unit"]) for state in ("before", "after")},
            "change_words": number_words.quantity(row["change"], row["unit"], signed=row["unit"] != "ratio"),
            "interval": number_words.bounds(row["low"], row["high"], row["unit"], signed=row["unit"] != "ratio"),
        }
        for row in table.iter_rows(named=True)
    ]
    return {"figures": charts, "rows": rows}


def _likelihood(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "item_words": f"{number_words.quantity(row['per_item'], 'nats', signed=True)} {interval(row, 'per_item', 1, 'nats')}",
        "token_words": f"{number_words.quantity(row['per_token'], 'nats', signed=True)} {interval(row, 'per_token', 1, 'nats')}",
        "kl_words": number_words.MISSING if row["kl"] is None
        else f"{number_words.quantity(row['kl'], 'nats')} {number_words.bounds(row['kl_low'], row['kl_high'], 'nats')}",
    }


def _selective(row: dict[str, Any]) -> dict[str, Any]:
    figures = ("stereotype", "anti_stereotype", "unrelated", "neutral", "margin_shift", "selective")
    return {**row, **{f"{name}_words": f"{scaled(row[name], 1, 'nats')} {interval(row, name, 1, 'nats')}" for name in figures}}


def _order(table: pl.DataFrame, figures: Figures) -> dict[str, Any] | None:
    if table.is_empty():
        return None
    rows = table.to_dicts()
    drawn = [
        {"label": f"{row['figure']}\n{row['safety']} / {row['capability']}", **{name: row[name] for name in ("value", "low", "high")}}
        for row in rows
    ]
    chart = figures.add(
        difference_chart(drawn, "percentage points", unit="%", factor=100.0),
        "Chart of the order effect and the end-state contrast with 95 % intervals. The table below holds every figure.",
    )
    for row in rows:
        row["words"] = f"{points(row['value'])} {interval(row, '', 100, '%')}"
    return {"figures": [chart] if chart else [], "rows": rows}


def _groups(tables: dict[str, pl.DataFrame], figures: Figures) -> list[dict[str, Any]]:
    about = ("path", "task", "taught", "until")
    return biased_groups(
        tables["dispersion"], tables["groups"], about, lambda fact: f"{fact['task']} by the stage {fact['by']} of {fact['path']}", figures
    )


def _share(row: dict[str, Any], kind: str) -> dict[str, Any]:
    name = f"{row['stage']} brought back" if kind == "recovery" else "later stages took away of what was taught"
    return {
        "path": row["path"], "task": row["task"], "group": row["group"], "name": name, "n": row["n"],
        "share": f"{ratio(row['share'])} {interval(row, 'share', 100, '%')}" if row["defined"] else number_words.MISSING,
        "note": row["note"],
    }


def _strengths(table: pl.DataFrame, record: ChainRecord, figures: Figures) -> dict[str, Any] | None:
    """Forgotten against taught along the strength, for the first task that was taught and that of the second stage."""
    if table.is_empty():
        return None
    means = table.group_by(["path", "strength", "task"], maintain_order=True).agg(
        pl.col("nll_change").mean(), pl.col("forgetting").mean(), pl.col("reduction").mean(), pl.col("seed").n_unique().alias("seeds")
    )
    rows = [
        {
            **row, "right": points(row["forgetting"]), "nats": number_words.quantity(row["nll_change"], "nats", signed=True),
            "nearer": number_words.quantity(row["reduction"], "nats", signed=True),
        }
        for row in means.sort("path", "strength", "task").iter_rows(named=True)
    ]
    first, second = (record.tasks.get(stage.get("task") or "", [None])[0] for stage in record.stages[means["path"][0]][:2])
    done = (pl.col("task") == second, -pl.col("nll_change")) if second else (pl.col("reduction").is_not_null(), pl.col("reduction"))
    walked = means.filter(done[0]).sort("task").unique(["path", "strength"], keep="first", maintain_order=True)
    lost = means.filter((pl.col("task") == first) & pl.col("nll_change").is_not_null())
    if first is None or walked.is_empty() or lost.is_empty():
        return {"figures": [], "rows": rows}
    name = walked["task"][0]
    wide = walked.select("path", "strength", taught=done[1]).join(
        lost.select("path", "strength", forgotten="nll_change"), on=["path", "strength"]
    )
    drawn = wide.drop_nulls().to_dicts()
    drawn += [{"path": path, "strength": 0.0, "taught": 0.0, "forgotten": 0.0} for path in dict.fromkeys(row["path"] for row in drawn)]
    axis = f"{name}: nats an item gained by the stage" if second else f"{name}: nats by which its mean margin came nearer to 0"
    chart = figures.add(
        strength_path_chart(drawn, axis, first),
        f"Chart of what was forgotten of {first} against what the stage did to {name}, along its strength. The table below holds every "
        "figure.",
    )
    return {"figures": [chart] if chart else [], "rows": rows}


def _matched(row: dict[str, Any]) -> dict[str, Any]:
    percent = row["figure"] == "forgetting"
    factor, unit = (100.0, "%") if percent else (1.0, "nats")
    return {
        "path": row["path"], "figure": "net, points" if percent else "nats an item",
        "at": number_words.MISSING if row["at"] is None else f"{row['at']:.3g} {row['along']}",
        **{name: scaled(row[name], factor, unit) for name in ("first", "second")},
        "difference": f"{scaled(row['difference'], factor, unit)} {interval(row, '', factor, unit)}",
        "note": "; ".join(filter(None, (row["note"], f"{row['first_short']} runs never got there" if row["first_short"] else ""))),
    }


def _curvature(row: dict[str, Any]) -> dict[str, Any]:
    names = ("spectral_radius", "lambda_min", "trace_per_parameter", "slope", "half_curvature", "predicted", "measured", "bound")
    words = {f"{name}_words": number_words.MISSING if row[name] is None else f"{row[name]:+.3g}" for name in names}
    return {**row, **words, "net": points(row["forgetting"]), "whole": row["group"] == ALL}


def _attributions(tables: dict[str, pl.DataFrame], nodes: int, figures: Figures) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    table, sums = tables["attribution"], tables["completeness"]
    for (path,), own in table.group_by(["path"], maintain_order=True) if not table.is_empty() else ():
        complete = sums.filter(pl.col("path") == path).to_dicts()
        caption = attribution_caption(complete, nodes)
        chart = figures.add(attribution_chart(own.to_dicts()), f"Heat map of {path}: {caption} The table holds every figure.")
        groups = own["group"].unique(maintain_order=True).to_list()
        wide = own.pivot("group", index="place", values="nats", maintain_order=True)
        found.append({
            "path": str(path), "figures": [chart] if chart else [], "caption": caption, "groups": groups,
            "rows": [{"place": row["place"], "cells": [f"{row[group]:+.4f}" for group in groups]} for row in wide.iter_rows(named=True)],
        })
    return found


def _relearning(tables: dict[str, pl.DataFrame], figures: Figures) -> dict[str, Any] | None:
    curves, back = tables["relearning"], tables["relearned"]
    if curves.is_empty():
        return None
    means = curves.group_by("start", "steps", maintain_order=True).agg(pl.col("correct").mean(), pl.col("nll").mean()).to_dicts()
    alternative = "Chart of the share right against optimiser steps of learning the task again. The table holds every figure."
    chart = figures.add(relearning_chart(means), alternative)
    steps = {
        str(start): ", ".join("not reached" if value is None else f"{value:.1f}" for value in own["steps"])
        for (start,), own in back.group_by(["start"], maintain_order=True)
    }
    goal = back["wanted"].drop_nulls()
    return {
        "figures": [chart] if chart else [], "steps": steps, "goal": points(goal[0]).lstrip("+") if len(goal) else number_words.MISSING,
        "rows": [row | {"right": number_words.quantity(100 * row["correct"], "%")} for row in means],
    }


def _lost(folder: Path, ledger: pl.DataFrame, forgetting: pl.DataFrame) -> list[dict[str, Any]]:
    """Items that were right when their task had been taught and wrong after the next stage, by group, with both answers."""
    if forgetting.is_empty():
        return []
    texts = read_table(folder / "base" / "items.parquet").select("benchmark", "task", "item", "texts")
    prompts = folder / "base" / QUESTIONS
    if prompts.is_file():
        texts = texts.join(read_table(prompts), on=["benchmark", "task", "item"], how="left")
    else:
        texts = texts.with_columns(prompt=pl.lit(None, pl.String))
    found: list[dict[str, Any]] = []
    for row in forgetting.filter(pl.col("until") == pl.col("taught") + 1).iter_rows(named=True):
        rows = ledger.filter(
            (pl.col("run") == row["path"]) & (pl.col("task") == row["task"]) & (pl.col("stage") == row["until"])
            & (pl.col("transition") == "lost")
        ).sort("nll_change", descending=True)
        exploded = rows.select("groups").explode("groups").drop_nulls()
        counted = exploded.group_by("groups").len().sort("len", "groups", descending=[True, False])
        listed = rows.head(LISTED).join(texts, on=["benchmark", "task", "item"], how="left", maintain_order="left")
        found.append({
            "path": row["path"], "task": row["task"], "by": row["by"], "count": rows.height,
            "by_group": ", ".join(f"{group} {count}" for group, count in counted.head(12).iter_rows()),
            "items": [
                {"item": item["item"], "seed": item["seed"], "groups": ", ".join(item["groups"] or []), "prompt": item["prompt"],
                 "before": _answer(item, "before"), "after": _answer(item, "after"),
                 "change": number_words.quantity(item["nll_change"], "nats", signed=True)}
                for item in listed.iter_rows(named=True)
            ],
        })
    return found


def _answer(item: dict[str, Any], side: str) -> str:
    place, texts = item[f"answer_{side}"], item["texts"] or []
    return texts[place] if place is not None and place < len(texts) else "a tie"
