"""From item tables to the rows of ``metrics.parquet``: each state alone, and paired differences between two states.

Everything here is a function of tables; no model is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fairforget.benchmarks._base import Benchmark, MetricDefinition, SetTest
from fairforget.benchmarks._components import components, pair, scored_rows
from fairforget.benchmarks._targets import margin_rms_change, margin_rms_interval, metric_interval
from fairforget.stats.bootstrap import Components, Interval, Statistic, paired_bootstrap, simultaneous
from fairforget.tables import TIE_NATS

METRIC_SCHEMA: dict[str, pl.DataType] = {
    "state": pl.String(),  # "base", "edited" or "difference" (edited - base, paired by item)
    "part": pl.String(),
    "benchmark": pl.String(),
    "protocol": pl.String(),
    "task": pl.String(),
    "metric": pl.String(),
    "group": pl.String(),  # "all", or a domain or group
    "value": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "standard_error": pl.Float64(),
    "neutral": pl.Float64(),  # value of an unbiased model, or of no change in a difference; null where there is none
    "unit": pl.String(),  # "%", "nats", "ppl" or "ratio"
    "n": pl.Int64(),  # scored items (in a difference: items scored in both states)
    "clusters": pl.Int64(),
    "ties": pl.Int64(),  # pairs under the tie limit, else items without one best option, in a difference in either state; null: none
    "skipped": pl.Int64(),  # items without a score
    "note": pl.String(),
    "prefix": pl.String(),
    "better": pl.String(),  # "neutral", "higher" or "lower"; empty for tests of whole sets
}
"""Column names and types of ``metrics.parquet``."""

Contrast: TypeAlias = Literal["difference", "ratio"]

ALL = "all"
MARGIN_RMS = "margin_rms"


def evaluate(
    benchmark: Benchmark, base: pl.DataFrame, edited: pl.DataFrame | None = None, *, resamples: int = 10_000, level: float = 0.95,
    seed: int = 0, base_rows: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """All metrics of one benchmark, by task and over all tasks where that is published, overall and by group.

    Args:
        benchmark: whose metrics are wanted.
        base: item table of the first state; one part of one benchmark.
        edited: item table of the second state on the same items; adds its rows and those of the paired difference.
        resamples: bootstrap resamples.
        level: coverage. Intervals of differences by group hold jointly over the groups of one metric and task.
        seed: of the resamples.
        base_rows: what this function returned for `base` alone with the same options; these rows are then not computed again.

    Returns:
        Rows of ``METRIC_SCHEMA``.

    Raises:
        DataError: the two tables are not of the same items.
    """
    options = {"resamples": resamples, "level": level, "seed": seed}
    tables = {"base": base} | ({} if edited is None else {"edited": edited})
    pairing = None if edited is None else pair(base, edited)
    rows: list[dict[str, Any]] = []
    why: dict[str, dict[str, str]] = {state: {} for state in tables}
    for task, chosen in _tasks(benchmark, base):
        for state, table in tables.items():
            why[state][task] = skipped_words(table.filter(chosen))
            if state == "base" and base_rows is not None:
                rows += base_rows.filter(pl.col("task") == task).to_dicts()
            else:
                rows += _state_rows(benchmark, state, task, table.filter(chosen), options)
        if pairing is not None:
            before, after = (table.filter(chosen) for table in pairing)
            rows += _difference_rows(benchmark, task, before, after, options, groups=True)
    for row in rows:
        words = why.get(row["state"], {}).get(row["task"], "") if row["group"] == ALL else ""
        if words not in row["note"]:  # rows of the base that were given have them already
            row["note"] = "; ".join(part for part in (row["note"], words) if part)
        if benchmark.caution not in row["note"]:
            row["note"] = "; ".join(part for part in (row["note"], benchmark.caution) if part)
    return pl.DataFrame(rows, schema=METRIC_SCHEMA)


def paired_changes(
    benchmark: Benchmark, before: pl.DataFrame, after: pl.DataFrame, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> pl.DataFrame:
    """The paired differences of :func:`evaluate` over all items of each task, without groups and without the states themselves.

    Args:
        benchmark: whose metrics are wanted.
        before: item table of the first state; one part of one benchmark.
        after: item table of the second state on the same items.
        resamples: bootstrap resamples.
        level: coverage.
        seed: of the resamples.

    Returns:
        Rows of ``METRIC_SCHEMA`` with the state "difference" and the group "all".

    Raises:
        DataError: the two tables are not of the same items.
    """
    options = {"resamples": resamples, "level": level, "seed": seed}
    before, after = pair(before, after)
    rows: list[dict[str, Any]] = []
    for task, chosen in _tasks(benchmark, before):
        rows += _difference_rows(benchmark, task, before.filter(chosen), after.filter(chosen), options, groups=False)
    return pl.DataFrame(rows, schema=METRIC_SCHEMA)


def _tasks(benchmark: Benchmark, table: pl.DataFrame) -> list[tuple[str, pl.Expr]]:
    """Each task with its rows, and all of them together where that is published."""
    tasks: list[str] = table["task"].unique(maintain_order=True).to_list()
    own = [(task, pl.col("task") == task) for task in tasks]
    return [*own, *([(benchmark.pooled, pl.lit(True))] if benchmark.pooled and len(tasks) > 1 and benchmark.pooled not in tasks else [])]


def _state_rows(benchmark: Benchmark, state: str, task: str, table: pl.DataFrame, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    facts = _facts(table) | {"state": state, "task": task}
    for definition in benchmark.task_metrics(task):
        if not _measured(table, definition):
            continue
        for group in [*([ALL] if definition.scope != "groups" else []), *(_groups(table) if definition.scope != "task" else [])]:
            inside = table if group == ALL else table.filter(pl.col("groups").list.contains(group))
            rows.append(facts | _row(definition, group, metric_interval(inside, definition, **options)) | _counts(inside))
    if _has_margin(benchmark, table):
        rows.append(facts | _rms_row(margin_rms_interval(table, options["level"])) | _counts(table))
    for test in benchmark.set_tests(task, table, options["seed"]):
        inside = table if test.group == ALL else table.filter(pl.col("groups").list.contains(test.group))
        rows.append(facts | _test_row(test) | _counts(inside))
    return rows


def _difference_rows(
    benchmark: Benchmark, task: str, before: pl.DataFrame, after: pl.DataFrame, options: Mapping[str, Any], *, groups: bool
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    facts = _facts(before, after) | {"state": "difference", "task": task}
    counts = {ALL: _counts(before, after)}
    for group in _groups(before) if groups else ():
        inside = pl.col("groups").list.contains(group)
        counts[group] = _counts(before.filter(inside), after.filter(inside))
    for definition in benchmark.task_metrics(task):
        if not _measured(before, definition):
            continue
        contrasts: tuple[Contrast, ...] = ("difference", "ratio") if definition.ratio_name else ("difference",)
        for contrast in contrasts:
            change = {"neutral": 1.0 if contrast == "ratio" else 0.0}
            if contrast == "ratio":
                change |= {"metric": definition.ratio_name, "unit": "ratio"}
            parts = components(before, definition), components(after, definition)
            if definition.scope != "groups":
                overall = paired_bootstrap(*parts, definition.function, contrast=contrast, aggregate=definition.aggregate, **options)
                rows.append(facts | _row(definition, ALL, overall, change=True) | change | counts[ALL])
            by_group = _by_group(before, parts, definition, contrast, options) if groups and definition.scope != "task" else {}
            for group, interval in by_group.items():
                rows.append(facts | _row(definition, group, interval, change=True) | change | counts[group])
    if _has_margin(benchmark, before):
        rows.append(facts | _rms_row(margin_rms_change(before, after, options["level"])) | counts[ALL])
    return rows


def _by_group(
    table: pl.DataFrame, parts: tuple[Components, Components], definition: MetricDefinition, contrast: Contrast, options: Mapping[str, Any]
) -> dict[str, Interval]:
    """Paired changes of all groups with intervals that hold jointly: a group is a set of columns that are 0 outside of it."""
    groups = _groups(table)
    if not groups:
        return {}
    both = parts[0].beside(parts[1])
    inside = [table["groups"].list.contains(group).fill_null(value=False).to_numpy()[:, None] for group in groups]
    columns = Components(
        np.hstack([both.numerators * member for member in inside]), np.hstack([both.denominators * member for member in inside]),
        both.cluster, both.stratum,
    )
    change = _change(definition.function, both.count // 2, contrast)
    places = np.arange(len(groups) * both.count).reshape(len(groups), both.count)
    statistics = {group: Statistic(tuple(place.tolist()), change) for group, place in zip(groups, places, strict=True)}
    intervals = simultaneous(columns, statistics, aggregate=definition.aggregate, **options)
    joint = f"simultaneous over {len(groups)} groups"
    return {
        group: interval if np.isnan(interval.low) else replace(interval, note="; ".join(filter(None, (joint, interval.note))))
        for group, interval in intervals.items()
    }


def _change(
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]], count: int, contrast: Contrast
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    def change(ratios: NDArray[np.float64]) -> NDArray[np.float64]:
        first, second = function(ratios[..., :count]), function(ratios[..., count:])
        return second / first if contrast == "ratio" else second - first

    return change


def _measured(table: pl.DataFrame, definition: MetricDefinition) -> bool:
    """Whether a metric applies to a table at all: words are not counted for masked models."""
    return all(table.select(denominator.is_not_null().any().alias("x")).item() for denominator in definition.denominators)


def _has_margin(benchmark: Benchmark, table: pl.DataFrame) -> bool:
    return any(definition.name == "margin" for definition in benchmark.metrics()) and table["margin"].is_not_null().any()


def _groups(table: pl.DataFrame) -> list[str]:
    return sorted(set(table["groups"].explode().drop_nulls().to_list()))


def _facts(*tables: pl.DataFrame) -> dict[str, Any]:
    table = pl.concat(tables)
    names = ("part", "benchmark", "protocol", "prefix")
    found = {name: "; ".join(table[name].drop_nulls().unique(maintain_order=True).to_list()) for name in names}
    formats = [name for name in table["prompt_format"].drop_nulls().unique(maintain_order=True) if name != "plain"]
    return found | {"protocol": ", ".join([found["protocol"], *(f"{name} format" for name in formats)])}


def skipped_words(table: pl.DataFrame) -> str:
    """How many items have no score and why, the most frequent reasons first; empty where all have one."""
    # every text that is too long has a length of its own
    told_alike = table.select(pl.col("skipped").drop_nulls().str.replace(r"^\d+ tokens, ", "")).to_series()
    reasons = told_alike.value_counts().sort(["count", "skipped"], descending=[True, False]).rows()
    if not reasons:
        return ""
    told = "; ".join(f"{count} x {reason}" if len(reasons) > 1 else str(reason) for reason, count in reasons[:3])
    more = f"; and {len(reasons) - 3} more reasons" if len(reasons) > 3 else ""
    return f"{sum(count for _, count in reasons)} of {table.height} skipped: {told}{more}"


def _counts(*tables: pl.DataFrame) -> dict[str, Any]:
    """Ties (in any of the states) and skipped items, for tables of the same items in the same order."""
    ties = None
    pairs = any(table["prefers_stereotype"].is_not_null().any() for table in tables)
    options = any((table["correct"].is_not_null() & (table["scores"].list.len() > 1)).any() for table in tables)
    if pairs or options:
        tied = np.zeros(tables[0].height, dtype=np.bool_)
        for table in tables:
            undecided = table["prefers_stereotype"] == 0.5 if pairs else _without_a_best_option(table)
            tied |= undecided.fill_null(value=False).to_numpy() & scored_rows(table)
        ties = int(tied.sum())
    return {"ties": ties, "skipped": tables[0]["skipped"].count()}


def _without_a_best_option(table: pl.DataFrame) -> pl.Series:
    """Items that were judged by their options' scores, the best two of which are equal but for rounding."""
    ranked = pl.col("scores").list.sort(descending=True)
    lead = ranked.list.get(0, null_on_oob=True) - ranked.list.get(1, null_on_oob=True)
    return table.select(pl.col("correct").is_not_null() & pl.col("choice").is_null() & (lead < TIE_NATS)).to_series()


CUT = "the interval is cut at what the figure can be"


def within(interval: Interval, low: float, high: float) -> Interval:
    """An interval without what the figure cannot be: with few clusters a studentised interval of a share may reach beyond 0 and 100 %."""
    if not (interval.low < low or interval.high > high):
        return interval
    return replace(interval, low=max(interval.low, low), high=min(interval.high, high), note="; ".join(filter(None, (interval.note, CUT))))


def _row(definition: MetricDefinition, group: str, interval: Interval, *, change: bool = False) -> dict[str, Any]:
    low, high = definition.limits
    interval = within(interval, *((low - high, high - low) if change else (low, high)))
    return {
        "metric": definition.name,
        "group": group,
        "neutral": definition.neutral,
        "unit": definition.unit,
        "better": definition.better,
    } | _figures(interval)


def _rms_row(interval: Interval) -> dict[str, Any]:
    return {"metric": MARGIN_RMS, "group": ALL, "neutral": 0.0, "unit": "nats", "better": "lower"} | _figures(interval)


def _test_row(test: SetTest) -> dict[str, Any]:
    none = {"low": np.nan, "high": np.nan, "standard_error": np.nan}
    return none | {
        "metric": test.metric, "group": test.group, "value": test.value, "n": test.n, "unit": "", "better": "", "note": test.note,
    }


def _figures(interval: Interval) -> dict[str, Any]:
    return {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "standard_error": interval.standard_error,
        "n": interval.items,
        "clusters": interval.clusters,
        "note": interval.note,
    }
