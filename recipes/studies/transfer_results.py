"""The table of docs/results/transfer.md for a real model, from the study transfer-masked: every domain after each unlearning.

python recipes/studies/transfer_results.py runs/transfer-masked
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

from fairforget.forgetting import transfer_table

TASKS = ("stereoset-intrasentence", "crows-pairs")
SAME = {
    "profession": ("profession",), "race": ("race", "race-color"), "gender": ("gender",), "religion": ("religion",), "sexism": ("gender",),
}
"""Domains that are the unlearned one under the name of either benchmark; sexist posts are about gender."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    study: Path = parser.parse_args().study
    print("| method | unlearned | strength | measured | items | b₀, points | b, points | \\|b₀\\| − \\|b\\|, points | share of b₀ gone |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for cell in pl.read_parquet(study / "tables" / "study.parquet").iter_rows(named=True):
        start = f"| {cell['axis.method']} | {cell['axis.unlearned']} |"
        if cell["status"] == "excluded":
            continue
        if cell["status"] != "done":
            print(f"{start} not run: {cell['reason']} |" + " |" * 6)
            continue
        ledger = pl.read_parquet(study / "runs" / cell["cell"] / "tables" / "ledger.parquet")
        for task in TASKS:
            own = ledger.filter(pl.col("task") == task)
            names = sorted({group for group in own["groups"].explode().drop_nulls() if not group.startswith("direction: ")})
            for row in transfer_table(own, groups=names).iter_rows(named=True):
                itself = " (itself)" if row["group"] in SAME[cell["axis.unlearned"]] else ""
                ratio = "–" if row["ratio"] is None else f"{row['ratio']:.0%}" + (", crossed neutral" if row["crossed"] else "")
                cells = " | ".join(told(row, name) for name in ("before", "after", "fall"))
                print(f"{start} {cell['strength']:.2f} | {task}: {row['group']}{itself} | {row['n']} | {cells} | {ratio} |")


def told(row: dict[str, float], name: str) -> str:
    """A figure with its interval, in bold where the interval leaves out 0."""
    value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    text = f"{value:+.1f}" + (f" ({low:+.1f}, {high:+.1f})" if low == low else "")
    return f"**{text}**" if low > 0 or high < 0 else text


if __name__ == "__main__":
    main()
