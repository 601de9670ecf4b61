"""The tables of docs/results/methods.md from one study or more: each configuration over its seeds, and less the one that the study names.

python recipes/studies/methods_results.py runs/methods-masked
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import polars as pl

from fairforget.workflows.study_pool import pool_changes

COLUMNS = (
    ("crows-pairs", "margin", "CrowS-Pairs margin, nats"),
    ("crows-pairs", "pct_stereotype", "CrowS-Pairs, points"),
    ("stereoset-intrasentence", "margin", "StereoSet margin, nats"),
    ("stereoset-intrasentence", "ss", "StereoSet SS, points"),
    ("stereoset-intrasentence", "lms", "StereoSet LMS, points"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="+")
    for study in parser.parse_args().studies:
        cells = pl.read_parquet(study / "tables" / "study.parquet").filter(pl.col("status") != "excluded")
        print("| method | seeds | strength | perplexity | " + " | ".join(title for _, _, title in COLUMNS) + " |")
        print("|" + " --- |" * (4 + len(COLUMNS)))
        done = cells.filter(pl.col("status") == "done")
        if done.height:
            first = done.row(0, named=True)
            base = figures(study, first["cell"], "base")
            cost = shown(base.filter(pl.col("metric") == "perplexity").row(0, named=True), ".1f")
            told = (shown(row, ".2f") for row in picked(base))
            print(f"| *{first['model']}, base* | | 0 | {cost} | {' | '.join(told)} |")
        for (configuration,), group in cells.group_by(["configuration"], maintain_order=True):
            print(configuration_row(study, str(configuration), group))
        print()
        contrasts(pl.read_parquet(study / "tables" / "contrasts.parquet"))


def configuration_row(study: Path, name: str, cells: pl.DataFrame) -> str:
    """Changes of a configuration, the mean over its seeds with an interval that holds the luck of items and of seeds."""
    done = cells.filter(pl.col("status") == "done")
    if not done.height:
        return f"| {name} | 0 of {cells.height} | not run: {cells['reason'][0]} |" + " |" * (1 + len(COLUMNS))
    seeds = f"{done.height}" + f" of {cells.height}" * (done.height < cells.height)
    strengths = done["strength"].to_list()
    strength = f"{strengths[0]:.2g}" if len(set(strengths)) == 1 else f"{min(strengths):.2g} to {max(strengths):.2g}"
    if not any(strengths):
        return f"| {name} | {seeds} | 0 | no strength keeps the budget: the base |" + " |" * len(COLUMNS)
    changes = [figures(study, cell, "difference") for cell in done["cell"]]
    ratios = [change.filter(pl.col("metric") == "perplexity_ratio").row(0, named=True) for change in changes]
    ratio = pooled(ratios, ratio=True)
    cost = f"{100 * (ratio['value'] - 1):+.1f} % ({100 * (ratio['low'] - 1):+.1f}, {100 * (ratio['high'] - 1):+.1f})"
    told = [shown(pooled(list(rows)), "+.2f", change=True) for rows in zip(*(picked(change) for change in changes), strict=True)]
    return f"| {name} | {seeds} | {strength} | {cost} | {' | '.join(told)} |"


def contrasts(table: pl.DataFrame) -> None:
    """Every configuration less the named one, p adjusted by Holm over all of them."""
    if table.is_empty():
        return
    print(f"| method less {table['against'][0]} | seeds | " + " | ".join(f"{title} | p" for _, _, title in COLUMNS) + " |")
    print("|" + " --- |" * (2 + 2 * len(COLUMNS)))
    for (configuration,), group in table.group_by(["configuration"], maintain_order=True):
        rows = picked(group)
        told = " | ".join(f"{shown({**row, 'value': row['change']}, '+.2f', change=True)} | {adjusted(row['p_holm'])}" for row in rows)
        print(f"| {configuration} | {group['seeds'][0]} | {told} |")


def adjusted(p: float | None) -> str:
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def figures(study: Path, cell: str, state: str) -> pl.DataFrame:
    metrics = pl.read_parquet(study / "runs" / cell / "tables" / "metrics.parquet")
    return metrics.filter((pl.col("part") == "test") & (pl.col("group") == "all") & (pl.col("state") == state))


def picked(rows: pl.DataFrame) -> list[dict[str, Any]]:
    return [rows.filter((pl.col("task") == task) & (pl.col("metric") == metric)).row(0, named=True) for task, metric, _ in COLUMNS]


def pooled(rows: list[dict[str, Any]], *, ratio: bool = False) -> dict[str, Any]:
    if len(rows) == 1:
        return rows[0]
    found = pool_changes([row["value"] for row in rows], [row["standard_error"] for row in rows], rows[0]["clusters"], ratio=ratio)
    return {"value": found.value, "low": found.low, "high": found.high}


def shown(row: dict[str, Any], form: str, *, change: bool = False) -> str:
    """A figure with its interval, in bold where the interval of a change leaves out 0."""
    if row["low"] is None:
        return f"{row['value']:{form}}"
    text = f"{row['value']:{form}} ({row['low']:{form}}, {row['high']:{form}})"
    return f"**{text}**" if change and (row["low"] > 0 or row["high"] < 0) else text


if __name__ == "__main__":
    main()
