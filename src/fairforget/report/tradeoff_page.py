"""The page of the trade-off study: verdicts first, paths of bias against forgetting, what goes with what, strata, and every run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field

from fairforget.errors import FairforgetError
from fairforget.files import write_text
from fairforget.report import number_words
from fairforget.report.page import Figures, render
from fairforget.report.run_folder import BenchmarkRecord, DatasetRecord, Record, Verdict, read_record
from fairforget.report.tradeoff_charts import coupling_chart, mean_paths, path_chart
from fairforget.tables import read_table

TRADEOFF_RECORD = "tradeoff.json"
PAGE = "tradeoff.html"
PLAIN = "plain"
_ANALYSES = ("coupling", "slopes", "arms", "sizes", "objective", "mitigations", "strata")
_SAID = 8
"""Rows named in the text alternative of a chart."""


class TradeoffRecord(Record):
    """``tradeoff.json``: what was run, with which versions."""

    recipe: str = ""
    axes: dict[str, list[str]] = Field(default_factory=dict[str, list[str]])
    seeds: list[int] = Field(default_factory=list[int])
    steps: list[int] = Field(default_factory=list[int])
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


def write_tradeoff_page(folder: Path) -> Path:
    """Write ``tradeoff.html`` into the folder of a study, from its record and tables alone.

    Returns:
        The path of the page.

    Raises:
        FairforgetError: the folder holds no such study, or the page cannot be written.
        DataError: the record or a table is damaged.
    """
    if not (folder / TRADEOFF_RECORD).is_file():
        raise FairforgetError(
            f"{folder} holds no trade-off study (no {TRADEOFF_RECORD}): give the folder that `fairforget study tradeoff` wrote."
        )
    figures = Figures({})
    context = _context(folder, figures)
    page = folder / PAGE
    write_text(page, render("tradeoff.html.j2", context, figures))
    return page


def _context(folder: Path, figures: Figures) -> dict[str, Any]:
    record = read_record(folder / TRADEOFF_RECORD, TradeoffRecord)
    tables, recipe = folder / "tables", folder / "tradeoff.yaml"
    runs = read_table(tables / "runs.parquet", ("run", "status"))
    checkpoints = read_table(tables / "checkpoints.parquet", ("model", "step", "overall"))
    found = read_table(tables / "findings.parquet", ("finding", "decision"))
    analyses = {name: _optional(tables / f"{name}.parquet") for name in _ANALYSES}
    models = checkpoints["model"].unique(maintain_order=True).to_list()
    return {
        "title": "The trade-off between bias and forgetting",
        "record": record,
        "verdict": read_record(tables / "verdict.json", Verdict) if (tables / "verdict.json").is_file() else None,
        "recipe": recipe.read_text(encoding="utf-8") if recipe.is_file() else None,
        "content_warnings": [dataset.warning for dataset in record.datasets if dataset.warning],
        "cautions": list(dict.fromkeys(benchmark.caution for benchmark in record.benchmarks if benchmark.caution)),
        "findings": [_finding(row) for row in found.iter_rows(named=True)],
        "models": [_model(model, checkpoints, analyses, figures) for model in models],
        "runs": [_run(row) for row in runs.iter_rows(named=True)],
    }


def _optional(path: Path) -> pl.DataFrame:
    return read_table(path) if path.is_file() else pl.DataFrame({"model": pl.Series([], dtype=pl.String)})


def _finding(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "interval": _words(row["value"], row["low"], row["high"], "")}


def _model(model: str, checkpoints: pl.DataFrame, analyses: dict[str, pl.DataFrame], figures: Figures) -> dict[str, Any]:
    own = checkpoints.filter(pl.col("model") == model)
    plain = own.filter(pl.col("mitigation") == PLAIN)
    tables = {name: table.filter(pl.col("model") == model) for name, table in analyses.items()}
    arms = mean_paths(plain, "arm")
    drawn = [_path_figure(arms, "arm", "arms", figures)]
    mitigated: list[dict[str, Any]] = []
    for (arm,), rows in own.group_by(["arm"], maintain_order=True):
        if rows["mitigation"].n_unique() > 1:
            means = mean_paths(rows, "mitigation")
            figure = _path_figure(means, "mitigation", f"mitigations on {arm}", figures)
            mitigated.append({"arm": arm, "figures": [figure] if figure else []})
    points = plain.filter((pl.col("step") > 0) & pl.col("downstream_change").is_not_null())
    scatter = figures.add(
        coupling_chart(points),
        f"Chart of the change of the downstream score against overall forgetting, {points.height} checkpoints. The table below holds the "
        "correlations.",
    )
    return {
        "name": model,
        "figures": [figure for figure in drawn if figure],
        "ends": [_end(row) for row in arms.filter(pl.col("step") == pl.col("step").max()).iter_rows(named=True)],
        "scatter": [scatter] if scatter else [],
        "coupling": [_coupling(row) for row in tables["coupling"].iter_rows(named=True)],
        "slopes": [_slope(row) for row in tables["slopes"].iter_rows(named=True)],
        "arms": [_compared(row) for row in tables["arms"].iter_rows(named=True)],
        "sizes": [_compared(row) for row in tables["sizes"].iter_rows(named=True)],
        "objective": [_objective(row) for row in tables["objective"].iter_rows(named=True)],
        "mitigations": [_compared(row) for row in tables["mitigations"].iter_rows(named=True)],
        "mitigated": mitigated,
        "strata": _strata(tables["strata"]),
    }


def _path_figure(means: pl.DataFrame, by: str, what: str, figures: Figures) -> dict[str, str] | None:
    last = means.filter(pl.col("step") == pl.col("step").max()).head(_SAID)
    said = "; ".join(
        f"{row[by]}, {row['size']} texts: margin shift {number_words.number(row['margin_shift'], 'nats', signed=True)}, overall forgetting "
        f"{number_words.number(row['overall'], 'nats', signed=True)}"
        for row in last.iter_rows(named=True)
    )
    text = f"Chart of paths of {what}, margin shift against overall forgetting, means over seeds. At the last step {said}."
    return figures.add(path_chart(means, by), text)


def _end(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "arm": row["arm"], "size": row["size"], "seeds": row["seeds"], "bias": number_words.number(row["bias"], "%"),
        **{name: number_words.number(row[name], "nats", signed=True) for name in ("margin_shift", "selective", "overall", "kl")},
        "downstream": number_words.number(row["downstream_change"], "ppl", signed=True),
    }


def _coupling(row: dict[str, Any]) -> dict[str, Any]:
    name = "mean of the tasks" if row["score"] == "downstream_change" else row["score"].removeprefix("downstream.")
    return {
        "score": name, "points_of": row["points_of"], "figure": row["figure"],
        "value": _words(row["value"], row["low"], row["high"], "nats"),
        "over": f"{row['points']} checkpoints, {row['clusters']} {row['over']}s", "note": row["note"],
    }


def _slope(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "x": {"selective": "selectivity", "margin_shift": "margin shift"}.get(row["x"], row["x"]), "of": row["points_of"],
        "value": _words(row["value"], row["low"], row["high"], "nats"), "over": f"{row['clusters']} {row['over']}s", "note": row["note"],
    }


def _compared(row: dict[str, Any]) -> dict[str, Any]:
    unit = "ppl" if row["figure"] == "downstream_change" else "nats"
    return {
        "arm": row.get("arm", ""), "compared": row["compared"], "with": row["with"], "figure": _figure(row["figure"]),
        "at": number_words.number(row["at"], "nats"), "first": number_words.number(row["first"], unit, signed=True),
        "second": number_words.number(row["second"], unit, signed=True),
        "difference": _words(row["difference"], row["low"], row["high"], unit), "pairs": row["pairs"],
        "short": row["first_short"] + row["second_short"], "note": row["note"],
    }


def _objective(row: dict[str, Any]) -> dict[str, Any]:
    unit = "ppl" if row["figure"] == "downstream_change" else "nats"
    return {
        "arm": row["arm"], "against": row["against"], "figure": _figure(row["figure"]), "step": row["step"],
        "difference": _words(row["difference"], row["low"], row["high"], unit), "pairs": row["pairs"], "note": row["note"],
    }


def _strata(strata: pl.DataFrame) -> list[dict[str, Any]]:
    """Means over seeds at the last step, plain arms."""
    if "stratum" not in strata.columns:
        return []
    last = strata.filter((pl.col("mitigation") == PLAIN) & (pl.col("step") == pl.col("step").max()))
    means = last.group_by("arm", "size", "stratum", maintain_order=True).agg(
        pl.col("tokens").mean(), pl.col("share").mean(), pl.col("per_token").mean(), pl.col("contribution").mean(),
        pl.col("per_token").min().alias("least"), pl.col("per_token").max().alias("most"), pl.col("seed").n_unique().alias("seeds"),
    )
    return [
        {
            "arm": row["arm"], "size": row["size"], "stratum": row["stratum"], "share": number_words.number(100 * row["share"], "%"),
            "per_token": number_words.number(row["per_token"], "nats", signed=True),
            "range": number_words.bounds(row["least"], row["most"], "nats", signed=True),
            "contribution": number_words.number(row["contribution"], "nats", signed=True),
        }
        for row in means.iter_rows(named=True)
    ]


def _run(row: dict[str, Any]) -> dict[str, Any]:
    return {"name": row["run"], "status": row["status"], "reason": row["reason"], "seconds": row["seconds"]}


def _figure(name: str) -> str:
    return {"overall": "overall forgetting", "downstream_change": "downstream score, change"}.get(name, name)


def _words(value: float | None, low: float | None, high: float | None, unit: str) -> str:
    ends: Sequence[float | None] = (low, high)
    interval = "" if None in ends else number_words.bounds(low, high, unit, signed=True)
    return f"{number_words.number(value, unit, signed=True)} {interval}".strip()
