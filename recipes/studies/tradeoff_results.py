"""The tables of docs/results/tradeoff.md from one trade-off study or more: verdicts, ends of paths, coupling, comparisons.

python recipes/studies/tradeoff_results.py runs/tradeoff-organisms runs/tradeoff-masked
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import polars as pl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="+")
    for study in parser.parse_args().studies:
        tables = {path.stem: pl.read_parquet(path) for path in sorted((study / "tables").glob("*.parquet"))}
        runs = tables["runs"]
        print(f"\n## {study.name}\n\n{runs.filter(pl.col('status') == 'done').height} of {runs.height} runs.\n")
        show(("finding", "verdict", "figure", "value"), [
            (f"{row['finding']}: {row['claim']}", row["decision"], row["figure"], told(row, "value")) for row in rows(tables, "findings")
        ])
        show(("arm", "mitigation", "texts", "seeds", "bias", "margin shift", "selectivity", "overall forgetting", "KL", "downstream"),
             ends(tables["checkpoints"]))
        show(("score", "points of", "figure", "value", "over"), [
            (row["score"], row["points_of"], row["figure"], told(row, "value"), f"{row['clusters']} {row['over']}s")
            for row in widest(rows(tables, "coupling")) if row["points_of"] == "all arms" or "pearson" in str(row["figure"])
        ])
        show(("slope of overall forgetting on", "points", "value", "over"), [
            (row["x"], row["points_of"], told(row, "value"), f"{row['clusters']} {row['over']}s") for row in widest(rows(tables, "slopes"))
        ])
        show(("less the control", "figure", "step", "difference", "pairs"), [
            (row["arm"], row["figure"], row["step"], told(row, "difference"), row["pairs"]) for row in rows(tables, "objective")
        ])
        for name in ("arms", "sizes", "mitigations"):
            show(("at equal bias", "figure", "margin shift", "first", "second", "difference", "pairs", "do not get there"), [
                (f"{row.get('arm', '')} {row['compared']} − {row['with']}".strip(), row["figure"], figure(row["at"]), figure(row["first"]),
                 figure(row["second"]), told(row, "difference"), row["pairs"], row["first_short"] + row["second_short"])
                for row in rows(tables, name)
            ])


def rows(tables: dict[str, pl.DataFrame], name: str) -> list[dict[str, object]]:
    """Rows of a table; none where the study has no such table."""
    return tables[name].to_dicts() if name in tables else []


def widest(found: list[dict[str, object]]) -> list[dict[str, object]]:
    """Rows that resample whole seeds, or runs where there are too few seeds: the wider claim of the two."""
    seeds = any(row["over"] == "seed" for row in found)
    return [row for row in found if row["over"] == "seed" or not seeds]


def ends(checkpoints: pl.DataFrame) -> list[tuple[object, ...]]:
    """Means over seeds at the last checkpoint."""
    names = ("bias", "margin_shift", "selective", "overall", "kl", "downstream_change")
    means = checkpoints.filter(pl.col("step") == pl.col("step").max()).group_by("arm", "mitigation", "size", maintain_order=True).agg(
        pl.len().alias("seeds"), *(pl.col(name).mean() for name in names)
    )
    facts = ("arm", "mitigation", "size", "seeds")
    return [(*(row[name] for name in facts), *(figure(row[name]) for name in names)) for row in means.iter_rows(named=True)]


def figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def told(row: dict[str, object], name: str) -> str:
    """A figure with its interval, in bold where the interval leaves out 0; its note where it has none."""
    value, low, high = row[name], row["low"], row["high"]
    if not (isinstance(low, float) and isinstance(high, float)):
        return f"{figure(value)} ({row.get('note') or 'no interval'})"  # type: ignore[arg-type]
    text = f"{figure(value)} [{figure(low)}, {figure(high)}]"  # type: ignore[arg-type]
    return f"**{text}**" if low > 0 or high < 0 else text


def show(headers: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    if lines:
        for line in (headers, ["---"] * len(headers), *lines):
            print("| " + " | ".join(map(str, line)) + " |")
        print()


if __name__ == "__main__":
    main()
