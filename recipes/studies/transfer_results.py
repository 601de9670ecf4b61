"""The tables of docs/results/transfer.md for a real model, from the study transfer-masked.

python recipes/studies/transfer_results.py runs/transfer-masked              # a row for each unlearning and benchmark
python recipes/studies/transfer_results.py runs/transfer-masked --every      # every domain after each unlearning
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from fairforget.forgetting import mean_transfer, transfer_table

TASKS = ("stereoset-intrasentence", "crows-pairs")
SAME = {
    "profession": ("profession",), "race": ("race", "race-color"), "gender": ("gender",), "religion": ("religion",), "sexism": ("gender",),
}
"""Domains that are the unlearned one under the name of either benchmark; sexist posts are about gender."""

FALL = "\\|b₀\\| − \\|b\\|"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--every", action="store_true", help="a row for every domain")
    arguments = parser.parse_args()
    for line in every_domain(arguments.study) if arguments.every else summary(arguments.study):
        print(line)


def cells(study: Path) -> Iterator[tuple[dict[str, Any], str, pl.DataFrame, list[str]]]:
    """Each finished cell with each benchmark's ledger and domains."""
    for cell in pl.read_parquet(study / "tables" / "study.parquet").filter(pl.col("status") == "done").iter_rows(named=True):
        ledger = pl.read_parquet(study / "runs" / cell["cell"] / "tables" / "ledger.parquet")
        for task in TASKS:
            own = ledger.filter(pl.col("task") == task)
            yield cell, task, own, sorted({group for group in own["groups"].explode().drop_nulls() if not group.startswith("direction: ")})


def summary(study: Path) -> Iterator[str]:
    """What became of the unlearned domain, and of the mean of all others."""
    head = ("method", "unlearned", "strength", "measured", "its own b₀", f"its own {FALL}", "others", f"their mean {FALL}", "beyond noise")
    yield f"| {' | '.join(head)} |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for cell, task, ledger, names in cells(study):
        own = [name for name in names if name in SAME[cell["axis.unlearned"]]]
        others = [name for name in names if name not in own]
        table = transfer_table(ledger, groups=names)
        row = next(table.filter(pl.col("group").is_in(own)).iter_rows(named=True), None)
        itself = "– | –" if row is None else f"{told(row, 'before')} | {told(row, 'fall')}"
        mean = mean_transfer(ledger, others)
        moved = table.filter(pl.col("group").is_in(others)).with_columns(pl.col("fall_low", "fall_high").fill_nan(None))
        fell = moved.filter(pl.col("fall_low") > 0)["group"].to_list()
        rose = moved.filter(pl.col("fall_high") < 0)["group"].to_list()
        words = "; ".join(f"{how}: {', '.join(groups)}" for how, groups in (("nearer", fell), ("further", rose)) if groups)
        figure = told({"fall": mean.value, "fall_low": mean.low, "fall_high": mean.high}, "fall")
        start = f"| {cell['axis.method']} | {cell['axis.unlearned']} | {cell['strength']:.2f} | {task}"
        yield f"{start} | {itself} | {len(others)} | {figure} | {words or 'none'} |"


def every_domain(study: Path) -> Iterator[str]:
    """Every domain after each unlearning."""
    head = ("method", "unlearned", "strength", "measured", "items", "b₀", "b", FALL, "share of b₀ gone")
    yield f"| {' | '.join(head)} |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for cell, task, ledger, names in cells(study):
        for row in transfer_table(ledger, groups=names).iter_rows(named=True):
            itself = " (itself)" if row["group"] in SAME[cell["axis.unlearned"]] else ""
            ratio = "–" if row["ratio"] is None else f"{row['ratio']:.0%}" + (", crossed neutral" if row["crossed"] else "")
            figures = " | ".join(told(row, name) for name in ("before", "after", "fall"))
            start = f"| {cell['axis.method']} | {cell['axis.unlearned']} | {cell['strength']:.2f} | {task}: {row['group']}{itself}"
            yield f"{start} | {row['n']} | {figures} | {ratio} |"


def told(row: dict[str, float], name: str) -> str:
    """A figure with its interval, in bold where the interval leaves out 0."""
    value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    text = f"{value:+.1f}" + (f" ({low:+.1f}, {high:+.1f})" if low == low else "")
    return f"**{text}**" if low > 0 or high < 0 else text


if __name__ == "__main__":
    main()
