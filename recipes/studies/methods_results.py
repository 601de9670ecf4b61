"""The table of docs/results/methods.md from one study or more: each cell that the recipe asks for, or why it was not run.

python recipes/studies/methods_results.py runs/methods-masked
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

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
    arguments = parser.parse_args()
    print("| cell | strength | perplexity | " + " | ".join(title for _, _, title in COLUMNS) + " |")
    print("|" + " --- |" * (3 + len(COLUMNS)))
    for study in arguments.studies:
        first = True
        for cell in pl.read_parquet(study / "tables" / "study.parquet").iter_rows(named=True):
            path = study / "runs" / cell["cell"] / "tables" / "metrics.parquet"
            if cell["status"] == "excluded":
                continue
            if cell["status"] != "done":
                print(f"| {cell['cell']} | not run: {cell['reason']} |" + " |" * (1 + len(COLUMNS)))
                continue
            metrics = pl.read_parquet(path).filter((pl.col("part") == "test") & (pl.col("group") == "all"))
            if first:
                print(f"| *{cell['model']}, base* | 0 | {figure(metrics, 'base', 'perplexity-wikitext2', 'perplexity', '.1f')} | "
                      + " | ".join(figure(metrics, "base", task, metric, ".2f") for task, metric, _ in COLUMNS) + " |")
                first = False
            low, high = (f"{100 * (cell[name] - 1):+.1f}" for name in ("perplexity_low", "perplexity_high"))
            changes = " | ".join(figure(metrics, "difference", task, metric, "+.2f") for task, metric, _ in COLUMNS)
            ratio = f"{100 * (cell['perplexity_ratio'] - 1):+.1f} % ({low}, {high})"
            print(f"| {cell['cell']} | {cell['strength']:.2g} | {ratio} | {changes} |")


def figure(metrics: pl.DataFrame, state: str, task: str, metric: str, form: str) -> str:
    """A figure with its interval, in bold where the interval of a change leaves out 0."""
    found = metrics.filter((pl.col("state") == state) & (pl.col("task") == task) & (pl.col("metric") == metric))
    if not found.height:
        return "–"
    value, low, high = found.select("value", "low", "high").row(0)
    text = f"{value:{form}} ({low:{form}}, {high:{form}})"
    return f"**{text}**" if state == "difference" and (low > 0 or high < 0) else text


if __name__ == "__main__":
    main()
