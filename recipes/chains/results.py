"""The tables of docs/results/chained-tuning.md from the folder of a chain, as Markdown: `python recipes/chains/results.py runs/chain`."""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl


def main() -> None:
    """Print the tables of one chain."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder / "tables"
    tables = {path.stem: pl.read_parquet(path) for path in folder.glob("*.parquet")}
    levels(tables["scores"])
    forgetting(tables["forgetting"])
    order(tables["order"])
    groups(tables["dispersion"])
    shares(tables["recovery"], tables["gains"])


def levels(scores: pl.DataFrame) -> None:
    """Share right of every task before the first and after each stage."""
    own = scores.filter(pl.col("figure") == "correct")
    tasks = own["task"].unique(maintain_order=True).to_list()
    head("path", "after", *(f"{task}, right" for task in tasks))
    told: set[tuple[float, ...]] = set()
    for (path, stage), rows in own.group_by(["path", "stage"], maintain_order=True):
        # paths share their beginnings: a state is told once
        state = tuple(rows["value"])
        if state not in told:
            told.add(state)
            cells = {row["task"]: f"{100 * row['value']:.1f} % {ends(row, 100)}" for row in rows.iter_rows(named=True)}
            print(f"| {'all' if not stage else path} | {rows['stage_name'][0]} | {' | '.join(cells[task] for task in tasks)} |")
    print()


def forgetting(table: pl.DataFrame) -> None:
    """What became of every task that was taught before."""
    head("path", "task", "after", "lost / gained", "net, points", "p (clusters)", "nats an item")
    own = table.unique(["task", "taught", "by", "lost", "gained", "per_item"], keep="first", maintain_order=True)
    for row in own.iter_rows(named=True):
        print(
            f"| {row['path']} | {row['task']} | {row['by']} | {100 * row['lost']:.1f} / {100 * row['gained']:.1f} | "
            f"{100 * row['forgetting']:+.1f} {ends(row, 100, 'forgetting')} | {row['p_sign_flip']:.3g} | "
            f"{row['per_item']:+.3f} {ends(row, 1, 'per_item')} |"
        )
    print()


def order(table: pl.DataFrame) -> None:
    """Order effect and end-state contrast."""
    head("figure", "points")
    for row in table.iter_rows(named=True):
        print(f"| {row['figure']} ({row['safety']} / {row['capability']}) | {100 * row['value']:+.1f} {ends(row, 100)} |")
    print()


def groups(table: pl.DataFrame) -> None:
    """Dispersion of forgetting over groups."""
    head("path", "task", "after", "groups", "scale", "τ", "omnibus p", "largest less smallest (noise alone)")
    for row in table.unique(["task", "by", "axis", "scale", "tau", "p_value"], keep="first", maintain_order=True).iter_rows(named=True):
        factor, unit = (100, "points") if row["unit"] == "share" else (1, "nats a token")
        print(
            f"| {row['path']} | {row['task']} | {row['by']} | {row['groups']} ({row['axis']}) | {unit} | {factor * row['tau']:.3g} "
            f"{ends(row, factor, 'tau', sign='')} | {row['p_value']:.3g} | {factor * row['gap']:.3g} ({factor * row['expected_gap']:.3g}) |"
        )
    print()


def shares(recovery: pl.DataFrame, gains: pl.DataFrame) -> None:
    """Recovery by replay, and share of the gain lost, over all items."""
    head("path", "task", "figure", "share")
    for name, table in (("brought back by replay", recovery), ("of what was taught, lost", gains)):
        for row in table.filter(pl.col("group") == "all").iter_rows(named=True) if not table.is_empty() else ():
            share = f"{100 * row['share']:.0f} % {ends(row, 100, 'share')}" if row["defined"] else row["note"]
            print(f"| {row['path']} | {row['task']} | {name} | {share} |")


def head(*names: str) -> None:
    """The first two lines of a Markdown table."""
    print(f"| {' | '.join(names)} |\n|{' --- |' * len(names)}")


def ends(row: dict[str, float], factor: float, name: str = "", sign: str = "+") -> str:
    """The interval of a figure in brackets; nothing where there is none."""
    low, high = (row[f"{name}_{end}" if name else end] for end in ("low", "high"))
    if low is None or low != low:
        return ""
    digits = 1 if factor == 100 else 3
    return f"[{factor * low:{sign}.{digits}f}, {factor * high:{sign}.{digits}f}]"


if __name__ == "__main__":
    main()
