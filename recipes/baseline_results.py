"""The tables of docs/results/baseline.md from audits of several models with one suite: every figure with its interval, then by group.

python recipes/baseline_results.py runs/baseline-minilm-mlm runs/baseline-smollm2-135m
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fairforget.tables import read_table

ALL = "all"
Key = tuple[str, str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    runs: list[Path] = parser.parse_args().runs
    names = [str(json.loads((run / "run.json").read_text(encoding="utf-8"))["model"]["name"]) for run in runs]
    tables = [read_table(run / "tables" / "metrics.parquet", ("task", "metric", "group")).filter(pl.col("part") == "test") for run in runs]
    found: list[dict[Key, dict[str, Any]]] = [
        {(row["task"], row["metric"], row["group"]): row for row in table.iter_rows(named=True)} for table in tables
    ]
    keys = list(dict.fromkeys(key for one in found for key in one))
    headers = ["figure", "neutral", *(f"{name} | items, clusters" for name in names)]
    show(["task", *headers], (row(key, found) for key in keys if key[2] == ALL))
    for task in dict.fromkeys(key[0] for key in keys):
        own = [key for key in keys if key[0] == task and key[2] != ALL]
        told = [key for key in own if any(key in one and not math.isnan(one[key]["low"]) for one in found)]
        left = len({key[2] for key in own} - {key[2] for key in told})
        if told:
            few = f"; {left} groups have too few clusters for an interval in any figure" if left else ""
            print(f"<details><summary>{task} by group{few}</summary>\n")
            show(["group", *headers], (row(key, found, by_group=True) for key in told))
            print("</details>\n")


def row(key: Key, found: Sequence[Mapping[Key, Mapping[str, Any]]], *, by_group: bool = False) -> list[str]:
    """One figure of all models."""
    task, metric, group = key
    first = next(one[key] for one in found if key in one)
    neutral = "" if first["neutral"] is None else f"{first['neutral']:g}"
    unit = {"%": ", %", "": ""}.get(first["unit"], f", {first['unit']}")
    figures = [figure(one[key]) if key in one else "– | " for one in found]
    return [group if by_group else task, f"{metric}{unit}", neutral, *figures]


def figure(values: Mapping[str, Any]) -> str:
    """Value with its interval, bold where that leaves out the neutral value, and what it stands on."""
    value, low, high, neutral = (math.nan if values[name] is None else float(values[name]) for name in ("value", "low", "high", "neutral"))
    counts = f"{values['n']}, {values['clusters']}" if values["clusters"] is not None else f"{values['n']}"
    if math.isnan(value):
        return f"undefined: {values['note'].split(';')[0]} | {counts}"
    if math.isnan(low):
        reason = f" ({values['note'].split(';')[0]})" if values["note"] else ""
        return f"{number(value)}{reason} | {counts}"
    text = f"{number(value)} [{number(low)}, {number(high)}]"
    return f"{f'**{text}**' if low > neutral or high < neutral else text} | {counts}"


def number(value: float) -> str:
    """Four significant digits at most, two decimals at most from 1 on."""
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.1e}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def show(headers: Sequence[str], rows: Iterator[list[str]]) -> None:
    line = " | ".join(headers)
    print(f"| {line} |")
    print("|" + " --- |" * (line.count("|") + 1))
    for cells in rows:
        print(f"| {' | '.join(cells)} |")
    print()


if __name__ == "__main__":
    main()
