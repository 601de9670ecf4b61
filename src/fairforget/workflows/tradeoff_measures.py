"""The figures of one checkpoint against its base: bias, selective and overall forgetting, drift; functions of item tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from fairforget.benchmarks import Benchmark, MetricDefinition, metric_interval
from fairforget.errors import DataError, UsageError
from fairforget.forgetting import Step, build_ledger, continuous_forgetting, overall_forgetting, selective_forgetting, tokens_per_text
from fairforget.models import Model
from fairforget.scoring import Request
from fairforget.tables import read_table, write_table
from fairforget.workflows.audit import measure
from fairforget.workflows.drift import window_requests
from fairforget.workflows.tradeoff_probes import group_word_strata
from fairforget.workflows.tradeoff_recipe import Benchmarks, TradeoffRecipe

DOWNSTREAM_FIGURES = ("pearson", "macro_f1", "mcc", "f1", "accuracy", "exact_match")
"""The figure that stands for a task downstream: the first of these that it has."""
NEUTRAL = "neutral"
"""Prefix of the neutral text's task, which may be the general text's other half."""

CHANGES = ("stereotype", "anti_stereotype", "unrelated", "neutral", "selective", "margin_shift")


@dataclass(frozen=True)
class StateTables:
    """Item tables of one state.

    Attributes:
        bias: one a benchmark.
        general: a row per window.
        neutral: the same for neutral text.
    """

    bias: tuple[pl.DataFrame, ...]
    general: pl.DataFrame
    neutral: pl.DataFrame

    def write(self, folder: Path) -> None:
        """Keep them in a folder."""
        for name, table in self._named().items():
            write_table(table, folder / f"{name}.parquet")

    @classmethod
    def read(cls, folder: Path, benchmarks: int) -> StateTables:
        """Read them back.

        Raises:
            DataError: one is missing or damaged.
        """
        bias = tuple(read_table(folder / f"bias-{number}.parquet") for number in range(benchmarks))
        return cls(bias, read_table(folder / "general.parquet"), read_table(folder / "neutral.parquet"))

    def _named(self) -> dict[str, pl.DataFrame]:
        return {**{f"bias-{number}": table for number, table in enumerate(self.bias)}, "general": self.general, "neutral": self.neutral}


def measure_state(model: Model, benchmarks: Benchmarks, recipe: TradeoffRecipe, description: str) -> StateTables:
    """Item tables of a model's present state on the reported part.

    Args:
        model: with an edit on it, or the base.
        benchmarks: of the recipe.
        recipe: says which part of the neutral text is measured.
        description: what the progress display says.
    """
    *bias, general = measure(model, [*benchmarks.bias, benchmarks.general], "test", description, store=False)
    (neutral,) = measure(model, [benchmarks.neutral], recipe.neutral_part, f"{description}, neutral text", store=False)
    return StateTables(tuple(bias), general, neutral)


def general_requests(model: Model, benchmarks: Benchmarks, table: pl.DataFrame) -> list[Request]:
    """The request behind each window of the general text."""
    return window_requests(benchmarks.general.requests(benchmarks.general.measured_items(model.family, "test"), model), table)


def strata_table(model: Model, requests: Sequence[Request], table: pl.DataFrame, recipe: TradeoffRecipe) -> pl.DataFrame:
    """``item`` and ``stratum`` of each window of the general text."""
    return table.select("item").with_columns(stratum_of_words=pl.Series(group_word_strata(model, requests, recipe.strata), dtype=pl.String))


def checkpoint_ledger(base: StateTables, now: StateTables, step: Step, drift: pl.DataFrame | None) -> pl.DataFrame:
    """The ledger of a checkpoint against its base, neutral text under a task of its own name; it balances.

    Args:
        base: tables of the base.
        now: of the checkpoint.
        step: names the run and the checkpoint.
        drift: from :meth:`fairforget.workflows.tradeoff_probes.Drift.measure`, or None.
    """
    neutral = [table.with_columns(task=pl.concat_str(pl.lit(f"{NEUTRAL}-"), "task")) for table in (base.neutral, now.neutral)]
    parts = [build_ledger(before, after, step=step) for before, after in zip(base.bias, now.bias, strict=True)]
    parts += [build_ledger(base.general, now.general, step=step, drift=drift), build_ledger(*neutral, step=step)]
    return pl.concat(parts)


@dataclass(frozen=True)
class CheckpointFigures:
    """What :func:`checkpoint_figures` gives.

    Attributes:
        main: figures of the row of this checkpoint.
        bias: ``task``, ``metric``, ``value``, ``base``, ``neutral`` and ``unit`` of every bias metric over all items.
        changes: a row per bias task, from ``selective_forgetting``.
        strata: a row per stratum of the general text, from ``overall_forgetting``.
    """

    main: dict[str, Any]
    bias: list[dict[str, Any]]
    changes: list[dict[str, Any]]
    strata: list[dict[str, Any]]

    def record(self) -> dict[str, Any]:
        """All of it as JSON values; what is not a finite number is null."""
        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {str(name): plain(entry) for name, entry in value.items()}
            if isinstance(value, list):
                return [plain(entry) for entry in value]
            return None if isinstance(value, float) and not math.isfinite(value) else value

        return plain(vars(self))


def checkpoint_figures(
    benchmarks: Benchmarks, base: StateTables, now: StateTables, ledger: pl.DataFrame, strata: pl.DataFrame, *, resamples: int
) -> CheckpointFigures:
    """All figures of a checkpoint.

    The margin shift, the changes and the bias of the first bias benchmark's first task are the row's own; overall forgetting is that of
    the general text, nats a token.

    Args:
        benchmarks: of the recipe.
        base: tables of the base.
        now: of the checkpoint.
        ledger: of the two.
        strata: ``item`` and ``stratum_of_words`` of the general text.
        resamples: of the intervals.
    """
    bias, changes = list[dict[str, Any]](), list[dict[str, Any]]()
    neutral = ledger.filter(pl.col("task").str.starts_with(f"{NEUTRAL}-"))
    for benchmark, before, after in zip(benchmarks.bias, base.bias, now.bias, strict=True):
        for task in dict.fromkeys(before["task"]):
            bias += _metric_rows(benchmark, task, before, after)
            own = ledger.filter((pl.col("task") == task) & (pl.col("benchmark") == benchmark.name) & (pl.col("role") == "bias"))
            if own.is_empty():
                continue
            found = selective_forgetting(own, neutral, tokens_per_text=tokens_per_text(own), resamples=resamples)
            changes.append({"task": task, **found.row(0, named=True)})
    if not changes:
        raise UsageError("bias: none of these benchmarks has stereotypes and their counterparts; name one, e.g. crows-pairs.")
    name = benchmarks.general.name
    general = ledger.filter((pl.col("benchmark") == name) & ~pl.col("task").str.starts_with(f"{NEUTRAL}-"))
    general = general.join(strata, on="item", how="left", maintain_order="left")
    overall = overall_forgetting(general, strata=pl.col("stratum_of_words"), resamples=resamples)
    drift = continuous_forgetting(general.drop("stratum_of_words"), resamples=resamples).row(0, named=True)
    first = changes[0]
    headline = next(row for row in bias if row["task"] == first["task"])
    main: dict[str, Any] = {figure: first[figure] for figure in CHANGES}
    main |= {
        "reading": first["reading"], "bias_metric": f"{headline['task']}.{headline['metric']}", "bias": headline["value"],
        "bias_neutral": headline["neutral"], "overall": overall.interval.value, "overall_low": overall.interval.low,
        "overall_high": overall.interval.high, "perplexity_ratio": overall.perplexity_ratio, "kl": drift["kl"],
    }
    return CheckpointFigures(main, bias, changes, overall.strata.to_dicts())


def downstream_tables(model: Model, benchmarks: Sequence[Benchmark], description: str) -> pl.DataFrame:
    """Item tables of what is fine-tuned from a model's present state, on the reported part."""
    return pl.concat(measure(model, benchmarks, "test", description))


def downstream_scores(benchmarks: Sequence[Benchmark], table: pl.DataFrame) -> dict[str, float]:
    """The main figure of each task, in points of 100.

    Args:
        benchmarks: what was measured.
        table: item tables of :func:`downstream_tables`.

    Raises:
        DataError: a task has no figure that is better when it is higher.
    """
    found: dict[str, float] = {}
    for benchmark in benchmarks:
        rows = table.filter(pl.col("benchmark") == benchmark.name)
        for task in dict.fromkeys(rows["task"]):
            definition = _main(benchmark, task)
            value = metric_interval(rows.filter(pl.col("task") == task), definition, resamples=100).value
            found[task] = value if definition.unit == "%" else 100 * value
    return found


def check_downstream(benchmarks: Sequence[Benchmark]) -> None:
    """Refuse what has no score to be coupled.

    Raises:
        UsageError: it is a bias benchmark or has no figure of ability.
    """
    for benchmark in benchmarks:
        if not any(definition.name in DOWNSTREAM_FIGURES for definition in benchmark.metrics()):
            raise UsageError(f"downstream: {benchmark.name} has none of the figures {', '.join(DOWNSTREAM_FIGURES)}.")


def _main(benchmark: Benchmark, task: str) -> MetricDefinition:
    known = {definition.name: definition for definition in benchmark.task_metrics(task)}
    chosen = next((known[name] for name in DOWNSTREAM_FIGURES if name in known), None)
    if chosen is None:
        raise DataError(f"The task {task} of {benchmark.name} has none of the figures {', '.join(DOWNSTREAM_FIGURES)}.")
    return chosen


def _metric_rows(benchmark: Benchmark, task: str, before: pl.DataFrame, after: pl.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for definition in benchmark.task_metrics(task):
        values = [metric_interval(table.filter(pl.col("task") == task), definition, resamples=100).value for table in (before, after)]
        if values[0] == values[0]:  # a task has no figures of another kind of task
            facts = {"metric": definition.name, "neutral": definition.neutral, "unit": definition.unit}
            rows.append({"task": task, **facts, "base": values[0], "value": values[1]})
    return rows
