"""The tables of docs/results/collapse.md from a study: bias against the base, collapse of fairness and other words, and what (U)NC3 adds.

python recipes/studies/collapse_results.py runs/study-collapse
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from fairforget.tables import read_table
from fairforget.workflows.study_pool import Pooled, pool, pool_changes

FIGURES = (
    ("crows-pairs", "margin_rms", "CrowS-Pairs, nats from neutral"),
    ("crows-pairs", "pct_stereotype", "CrowS-Pairs, points"),
    ("stereoset-intrasentence", "margin_rms", "StereoSet, nats from neutral"),
    ("stereoset-intrasentence", "ss", "StereoSet SS, points"),
    ("stereoset-intrasentence", "lms", "StereoSet LMS, points"),
    ("winobias-lm", "gap", "WinoBias-LM gap, points"),
    ("bec-pro", "gender_difference", "BEC-Pro difference, nats"),
)
SETS = ("gender", "random", "matched")
PERPLEXITY = "perplexity_ratio"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    folder: Path = parser.parse_args().study
    cells = pl.read_parquet(folder / "tables" / "study.parquet").filter(pl.col("status") == "done")
    configurations: dict[str, list[str]] = {}
    for cell in cells.iter_rows(named=True):
        configurations.setdefault(cell["configuration"], []).append(cell["cell"])
    strengths = dict(cells.group_by("configuration").agg(pl.col("strength").mean()).iter_rows())
    base_and_bias(folder, configurations, strengths)
    collapse(folder, configurations)
    contrasts(folder)


def base_and_bias(folder: Path, configurations: dict[str, list[str]], strengths: dict[str, float]) -> None:
    """Levels of the base, and paired changes of every configuration."""
    first = metrics(folder, next(iter(configurations.values()))[0]).filter(pl.col("state") == "base")
    rows = [["*base*", "", "", "", *(level(first, task, metric) for task, metric, _ in FIGURES)]]
    for name, own in configurations.items():
        cost = changes(folder, own, "perplexity", PERPLEXITY)
        figures = [told(changes(folder, own, task, metric)) for task, metric, _ in FIGURES]
        rows.append([name, str(len(own)), f"{strengths[name]:.2f}", percent(cost), *figures])
    show(["configuration", "seeds", "strength", "perplexity", *(title for _, _, title in FIGURES)], rows)


def collapse(folder: Path, configurations: dict[str, list[str]]) -> None:
    """(U)NC3 and NC3 of each word set, and how much more that of the first fell than that of the controls, document by document."""
    first = metrics(folder, next(iter(configurations.values()))[0]).filter(pl.col("state") == "base")
    headers = ["configuration", *(f"(U)NC3 of {words} words" for words in SETS), "NC3 of gender words"]
    headers += [f"gender less {words}" for words in SETS[1:]]
    levels = [level(first, f"geometry-{words}", "unc3", 4) for words in SETS]
    rows = [["*base*", *levels, level(first, "geometry-gender", "nc3_mean", 4), "", ""]]
    for name, own in configurations.items():
        rows.append([
            name, *(told(changes(folder, own, f"geometry-{words}", "unc3"), 4) for words in SETS),
            told(changes(folder, own, "geometry-gender", "nc3_mean"), 4), *(told(beyond(folder, own, words), 4) for words in SETS[1:]),
        ])
    show(headers, rows)


def beyond(folder: Path, cells: Sequence[str], control: str) -> Pooled | None:
    """Change of (U)NC3 of gender words less that of a control, seeds pooled: documents are those of both sets."""
    values, errors, count = [], [], 0
    for cell in cells:
        shares = [unc3_by_document(folder, cell, words) for words in ("gender", control)]
        both = shares[0].join(shares[1], on="cluster", suffix="_control")
        differences = (both["change"] - both["change_control"]).to_numpy()
        count = len(differences)
        values.append(float(differences.mean()))
        errors.append(float(differences.std(ddof=1) / math.sqrt(count)))
    return pool(values, errors, count) if values else None


def unc3_by_document(folder: Path, cell: str, words: str) -> pl.DataFrame:
    """Change of a document's value of (U)NC3 (the first score of the benchmark geometry)."""
    tables = folder / "runs" / cell / "tables"
    states: list[pl.DataFrame] = []
    for state in ("base", "edited"):
        items = read_table(tables / f"items-{state}-test.parquet", ("task", "cluster", "scores"))
        own = items.filter((pl.col("task") == f"geometry-{words}") & pl.col("skipped").is_null())
        states.append(own.select("cluster", pl.col("scores").list.first().alias(state)))
    return states[0].join(states[1], on="cluster").select("cluster", (pl.col("edited") - pl.col("base")).alias("change"))


def contrasts(folder: Path) -> None:
    """What each variant adds to the plain method, item by item."""
    found = read_table(folder / "tables" / "contrasts.parquet", ("configuration", "against"))
    wanted = [("perplexity", PERPLEXITY, "perplexity"), *FIGURES, ("geometry-gender", "unc3", "(U)NC3 of gender words")]
    rows: list[list[str]] = []
    for (name, against), own in found.group_by(["configuration", "against"], maintain_order=True):
        row = [f"{name} less {against}"]
        for task, metric, _ in wanted:
            picked = own.filter(pl.col("task").str.starts_with(task) & (pl.col("metric") == metric)).rows(named=True)
            if not picked:
                row.append("–")
                continue
            one = picked[0]
            ends = [math.nan if one[end] is None else one[end] for end in ("change", "low", "high")]
            figure = Pooled(*ends, math.nan, None, math.nan)
            row.append(percent(figure) if metric == PERPLEXITY else told(figure, 4 if metric == "unc3" else 2))
        rows.append(row)
    show(["difference", *(title for _, _, title in wanted)], rows)


def metrics(folder: Path, cell: str) -> pl.DataFrame:
    return read_table(folder / "runs" / cell / "tables" / "metrics.parquet", ("state", "task", "metric")).filter(
        (pl.col("part") == "test") & (pl.col("group") == "all")
    )


def changes(folder: Path, cells: Sequence[str], task: str, metric: str) -> Pooled | None:
    """Paired change against the base, seeds pooled; a ratio as its logarithm."""
    values, errors, clusters = [], [], 2
    for cell in cells:
        of_task = (pl.col("metric") == metric) & pl.col("task").str.starts_with(task)
        own = metrics(folder, cell).filter(of_task & (pl.col("state") == "difference"))
        if not own.height:
            return None
        row = own.row(0, named=True)
        values.append(row["value"])
        errors.append(row["standard_error"])
        clusters = row["clusters"]
    return pool_changes(values, errors, clusters, ratio=metric == PERPLEXITY)


def level(rows: pl.DataFrame, task: str, metric: str, digits: int = 2) -> str:
    own = rows.filter((pl.col("task") == task) & (pl.col("metric") == metric))
    if not own.height:
        return "–"
    value, low, high = own.select("value", "low", "high").row(0)
    return f"{value:.{digits}f} ({low:.{digits}f}, {high:.{digits}f})"


def told(found: Pooled | None, digits: int = 2) -> str:
    """A change with its interval, in bold where that leaves out 0."""
    if found is None or not np.isfinite(found.value):
        return "–"
    text = f"{found.value:+.{digits}f} ({found.low:+.{digits}f}, {found.high:+.{digits}f})"
    return f"**{text}**" if found.low > 0 or found.high < 0 else text


def percent(found: Pooled | None) -> str:
    if found is None:
        return "–"
    value, low, high = (100 * (end - 1) for end in (found.value, found.low, found.high))
    text = f"{value:+.1f} % ({low:+.1f}, {high:+.1f})"
    return f"**{text}**" if low > 0 or high < 0 else text


def show(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print("| " + " | ".join(headers) + " |")
    print("|" + " --- |" * len(headers))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


if __name__ == "__main__":
    main()
