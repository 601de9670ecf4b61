"""What every stage of a chain made of the benchmarks beside its tasks: each one's own figures, paired by item, seeds pooled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fairforget.benchmarks import Benchmark, evaluate
from fairforget.tables import read_table
from fairforget.workflows.chain_recipe import ITEMS, ChainRecipe, Node
from fairforget.workflows.study_pool import pool_changes
from fairforget.workflows.study_table import headline

CHANGE_SCHEMA: dict[str, pl.DataType] = {
    "path": pl.String(),
    "stage": pl.Int64(),
    "stage_name": pl.String(),
    "benchmark": pl.String(),
    "task": pl.String(),
    "metric": pl.String(),
    "group": pl.String(),
    "headline": pl.Boolean(),  # the figure that stands for its benchmark
    "unit": pl.String(),
    "level_unit": pl.String(),  # of `before` and `after`: a ratio is one of perplexities, say
    "neutral": pl.Float64(),  # of the level; null where there is none
    "before": pl.Float64(),  # mean over seeds, as is `after`
    "after": pl.Float64(),
    "change": pl.Float64(),  # paired by item, seeds pooled (``study_pool.pool_changes``); a ratio where `unit` is "ratio"
    "low": pl.Float64(),
    "high": pl.Float64(),
    "seeds": pl.Int64(),
    "seed_spread": pl.Float64(),
    "n": pl.Int64(),
    "clusters": pl.Int64(),
    "note": pl.String(),
}
"""Columns of ``changes.parquet``: a row per path, stage and figure."""

_FIGURE = ("path", "stage", "stage_name", "benchmark", "task", "metric", "group")


def benchmark_tables(
    recipe: ChainRecipe, paths: Mapping[str, Sequence[Node]], benchmarks: Sequence[Benchmark], base: Path,
    place: Callable[[Node, int], Path],
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The figures of all benchmarks before and after every stage.

    A stage that several paths share is evaluated once a seed.

    Args:
        recipe: of the chain.
        paths: states of every path.
        benchmarks: what was audited beside the tasks.
        base: folder of the base's audit.
        place: folder of a state.

    Returns:
        By seed, the rows of ``METRIC_SCHEMA`` of the state before each stage ("base"), after it ("edited") and their difference, with
        ``path``, ``stage``, ``stage_name`` and ``seed``; and rows of ``CHANGE_SCHEMA``. Both empty without benchmarks.
    """
    if not benchmarks:
        return pl.DataFrame(), pl.DataFrame(schema=CHANGE_SCHEMA)
    known: dict[tuple[Path, Path], pl.DataFrame] = {}
    measured: dict[Path, pl.DataFrame] = {}  # rows of a state by its folder, as those of a base
    tables: list[pl.DataFrame] = []
    for path, nodes in paths.items():
        for seed in recipe.seeds:
            before = base
            for number, node in enumerate(nodes, start=1):
                after = place(node, seed)
                if (before, after) not in known:
                    first, second = read_table(before / ITEMS), read_table(after / ITEMS)
                    rows = known[before, after] = pl.concat([
                        evaluate(
                            benchmark, *(table.filter(pl.col("benchmark") == benchmark.name) for table in (first, second)),
                            resamples=recipe.resamples, seed=recipe.seed,
                            base_rows=measured[before].filter(pl.col("benchmark") == benchmark.name) if before in measured else None,
                        )
                        for benchmark in benchmarks
                    ])
                    measured[before] = rows.filter(state="base")
                    measured[after] = rows.filter(state="edited").with_columns(state=pl.lit("base"))
                facts = {"path": path, "stage": number, "stage_name": node.stage.title, "seed": seed}
                tables.append(known[before, after].with_columns(**{name: pl.lit(value) for name, value in facts.items()}))
                before = after
    metrics = pl.concat(tables)
    levels = {definition.ratio_name: definition.name for one in benchmarks for definition in one.metrics() if definition.ratio_name}
    ratios = {level: ratio for ratio, level in levels.items()}
    headlines = {one.name: ratios.get(headline(one), headline(one)) for one in benchmarks}
    return metrics, _changes(metrics, headlines, levels)


def _changes(metrics: pl.DataFrame, headlines: Mapping[str, str], level_of: Mapping[str, str]) -> pl.DataFrame:
    """Changes pooled over seeds; `level_of` names the figure that a ratio is one of."""
    rows: list[dict[str, Any]] = []
    levels = {
        state: {tuple(row[name] for name in (*_FIGURE, "seed")): row for row in metrics.filter(state=state).iter_rows(named=True)}
        for state in ("base", "edited")
    }
    for key, found in metrics.filter(state="difference").group_by(list(_FIGURE), maintain_order=True):
        seeds = found.to_dicts()
        first = seeds[0]
        named = [level_of.get(part, part) if name == "metric" else part for name, part in zip(_FIGURE, key, strict=True)]
        at = {state: [own[*named, row["seed"]] for row in seeds if (*named, row["seed"]) in own] for state, own in levels.items()}
        values = [row["value"] for row in seeds]
        whole = all(value is not None and math.isfinite(value) for value in values)
        errors = [math.nan if row["standard_error"] is None else row["standard_error"] for row in seeds]
        pooled = pool_changes(values, errors, int(first["clusters"]), ratio=first["unit"] == "ratio") if whole else None
        alone = len(seeds) == 1  # one seed keeps its own interval
        level = at["base"][0] if at["base"] else {}
        rows.append({
            **dict(zip(_FIGURE, key, strict=True)), "headline": headlines.get(first["benchmark"]) == first["metric"],
            "unit": first["unit"], "level_unit": level.get("unit"), "neutral": level.get("neutral"),
            "before": _mean(at["base"]), "after": _mean(at["edited"]), "change": pooled.value if pooled else None,
            "low": first["low"] if alone else pooled.low if pooled else None,
            "high": first["high"] if alone else pooled.high if pooled else None,
            "seeds": len(seeds), "seed_spread": pooled.spread if pooled else None, "n": first["n"], "clusters": first["clusters"],
            "note": first["note"],
        })
    return pl.DataFrame(rows, schema=CHANGE_SCHEMA).with_columns(pl.col(pl.Float64).fill_nan(None))


def _mean(rows: Sequence[Mapping[str, Any]]) -> float | None:
    values = [row["value"] for row in rows if row["value"] is not None]
    return sum(values) / len(values) if values else None
