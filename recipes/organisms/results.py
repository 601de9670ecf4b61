"""Truth against measured: brings the studies of many organisms together in the tables of docs/results/organisms.md.

    fairforget organism make default --out organisms/default --seeds 0-9 --families causal,masked --jobs 2
    for one in organisms/default/*/; do fairforget study $one/study.yaml --out runs/organisms/default/$(basename $one); done
    python recipes/organisms/results.py runs/organisms/default --organisms organisms/default
    python recipes/organisms/results.py runs/organisms/null --organisms organisms/null --null

Every figure is of the `test` part: templates that were neither trained on nor looked at by the search of the strength.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import polars as pl
from scipy import stats

MARGIN_LIMIT = 0.1
"""Nats within which a domain in which nothing was planted must stay (two one-sided tests at 5 %)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, help="folder with a study folder FAMILY-SEED for each organism")
    parser.add_argument("--organisms", type=Path, required=True, help="folder with the organisms themselves")
    parser.add_argument("--null", action="store_true", help="organisms without bias: how often bias is said to be lowered")
    arguments = parser.parse_args()
    rows = [
        row
        for study in sorted(arguments.studies.glob("*-*"))
        if (study / "tables" / "study.parquet").exists()
        for row in study_rows(study, arguments.organisms / study.name)
    ]
    if not rows:
        raise SystemExit(f"{arguments.studies} holds no finished study.")
    table = pl.DataFrame(rows, infer_schema_length=None)
    print(null_table(table) if arguments.null else methods_table(table))


def study_rows(study: Path, organism: Path) -> list[dict[str, Any]]:
    """A row for each method: what was planted and is left, what it cost, and what the verdict said."""
    family, _, seed = study.name.rpartition("-")
    truth = pl.read_parquet(organism / "truth.parquet").filter(pl.col("kind") == "association")
    planted = sorted(truth.filter(pl.col("log_odds") > 0)["domain"].unique())
    empty = sorted(truth.filter(pl.col("log_odds") == 0)["domain"].unique())
    rows: list[dict[str, Any]] = []
    for cell in pl.read_parquet(study / "tables" / "study.parquet").iter_rows(named=True):
        name = cell["cell"].removesuffix(f"-seed{cell['seed']}")  # the variant: a method may stand there with several settings
        row: dict[str, Any] = {"family": family, "seed": int(seed), "method": name, "status": cell["status"]}
        row["why"] = cell.get("reason")
        tables = study / "runs" / cell["cell"] / "tables"
        if (tables / "verdict.json").exists():
            row["verdict"] = json.loads((tables / "verdict.json").read_text(encoding="utf-8"))["kind"]
            metrics = pl.read_parquet(tables / "metrics.parquet").filter(pl.col("part") == "test")
            before, after = (margins(tables / f"items-{state}-test.parquet", planted or empty) for state in ("base", "edited"))
            change = pl.col("state") == "difference"
            ratio = metrics.filter((pl.col("metric") == "perplexity_ratio") & (pl.col("group") == "all"))["value"]
            facts = metrics.filter((pl.col("task") == "organism-facts") & (pl.col("group") == "all"))
            row |= {
                "empty": None, "within": None,
                "before": before.mean(), "after": after.mean(), "items": (1 - after.abs().mean() / before.abs().mean()) * 100,
                "ratio": ratio[0] if len(ratio) else math.nan,
                "facts before": figure(facts.filter(pl.col("state") == "base"), "accuracy"),
                "facts": figure(facts.filter(change), "accuracy"), "facts nats": figure(facts.filter(change), "answer_nll"),
            }
            if planted and empty:
                row |= equivalent(metrics.filter(change & (pl.col("metric") == "margin")), empty)
        rows.append(row)
    return rows


def margins(path: Path, domains: list[str]) -> pl.Series:
    """Margins (nats) of the items of some domains: the measured log-odds."""
    return pl.read_parquet(path).filter((pl.col("task") == "organism-bias") & pl.col("stratum").is_in(domains))["margin"]


def figure(table: pl.DataFrame, metric: str) -> float:
    values = table.filter(pl.col("metric") == metric)["value"]
    return values[0] if len(values) else math.nan


def equivalent(changes: pl.DataFrame, domains: list[str]) -> dict[str, Any]:
    """Change of the domains in which nothing was planted, and whether it is within the limit by two one-sided tests."""
    chosen = changes.filter(pl.col("group").is_in(domains))
    if not chosen.height or chosen["standard_error"].is_nan().any():
        return {}
    value, error, clusters = chosen.select("value", "standard_error", "clusters").row(0)
    return {"empty": value, "within": abs(value) + float(stats.t.ppf(0.95, clusters - 1)) * error < MARGIN_LIMIT}


def mean(values: pl.Series) -> float:
    """Mean, nan where there is nothing."""
    found = values.mean()
    return float(found) if isinstance(found, int | float) else math.nan


def methods_table(table: pl.DataFrame) -> str:
    """A row for each method and family, seeds pooled."""
    lines = [
        "| method | family | seeds | planted log-odds, before → after | lowered by | single items, lowered by | perplexity | "
        "≥ 30 % at ≤ 5 % | said `lowered` | facts, % and change | right answer, nats | empty domain, change | within ± 0.1 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for family, method in table.select("family", "method").unique(maintain_order=True).sort("family", maintain_order=True).iter_rows():
        every = table.filter((pl.col("family") == family) & (pl.col("method") == method))
        done = every.filter(pl.col("after").is_not_null())
        if not done.height:
            why = every["why"][0] or every["status"][0]
            lines.append(f"| {method} | {family} | 0 of {every.height} | not measured: {why} | | | | | | | | | |")
            continue
        lowered = (1 - done["after"] / done["before"]) * 100
        percent = (done["ratio"] - 1) * 100
        reached = ((lowered >= 30) & (done["ratio"] <= 1.05)).sum()
        known = done.filter(pl.col("within").is_not_null())
        lines.append(
            f"| {method} | {family} | {done.height} | {mean(done['before']):.2f} → {mean(done['after']):.2f} | "
            f"{mean(lowered):.0f} % ({lowered.min():.0f} to {lowered.max():.0f}) | "
            f"{mean(done['items']):.0f} % ({done['items'].min():.0f} to {done['items'].max():.0f}) | {mean(percent):+.1f} % "
            f"({percent.min():+.1f} to {percent.max():+.1f}) | {reached} of {every.height} | {(done['verdict'] == 'lowered').sum()} | "
            f"{mean(done['facts before']):.1f} {mean(done['facts']):+.1f} | {mean(done['facts nats']):+.2f} | "
            f"{mean(known['empty']):+.3f} | {known['within'].sum()} of {known.height} |"
        )
    return "\n".join(lines)


def null_table(table: pl.DataFrame) -> str:
    """How often a method is said to have lowered a bias that is not there."""
    lines = [
        "| method | organisms | said `lowered` | other verdicts | mean margin, before → after | perplexity |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (method,) in table.select("method").unique(maintain_order=True).iter_rows():
        done = table.filter((pl.col("method") == method) & pl.col("verdict").is_not_null())
        others = done.filter(pl.col("verdict") != "lowered")["verdict"].value_counts(sort=True)
        words = ", ".join(f"{kind} {count}" for kind, count in others.iter_rows())
        lines.append(
            f"| {method} | {done.height} | {(done['verdict'] == 'lowered').sum()} | {words} | {mean(done['before']):+.3f} → "
            f"{mean(done['after']):+.3f} | {(mean(done['ratio']) - 1) * 100:+.1f} % |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
