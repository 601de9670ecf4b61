"""The audit: all chosen benchmarks on one state of a model, as item tables and metrics with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from fairforget.benchmarks import Benchmark, resolve_all
from fairforget.benchmarks._base import Item
from fairforget.benchmarks._evaluate import evaluate, skipped_words
from fairforget.errors import FairforgetError, UsageError
from fairforget.models.model import Model
from fairforget.report import write_report
from fairforget.scoring import Request, Scorer
from fairforget.tables import write_table
from fairforget.workflows.estimate import estimate
from fairforget.workflows.recipe import BenchmarkChoice
from fairforget.workflows.run_folder import RunFolder, benchmark_facts, dataset_facts, model_facts
from fairforget.workflows.suites import expand_suites, names_a_suite
from fairforget.workflows.verdict import audit_verdict


@dataclass(frozen=True)
class Audit:
    """What one state of a model did on one part of the benchmarks.

    Attributes:
        items: one row per item, ``tables.ITEM_SCHEMA``.
        metrics: one row per figure, with intervals.
        folder: where it was written, if it was.
    """

    items: pl.DataFrame
    metrics: pl.DataFrame
    folder: Path | None = None


def resolve_choices(choices: Sequence[BenchmarkChoice | str], family: str | None = None) -> list[Benchmark]:
    """Make benchmarks from names or recipe entries, suites among them.

    Args:
        choices: names or recipe entries.
        family: of the model, which suites depend on; None stands for both, to check names before a model is loaded.

    Raises:
        UsageError: an unknown name, preset or setting, or one benchmark in two forms.
        DataError: a file that describes a benchmark is missing.
    """
    from fairforget.benchmarks import resolve

    choices = expand_suites(choices, family)
    if all(isinstance(choice, str) or not choice.settings for choice in choices):
        benchmarks = resolve_all([choice if isinstance(choice, str) else choice.name for choice in choices])
    else:
        benchmarks = [
            resolve(choice) if isinstance(choice, str) else resolve(choice.name, choice.settings, f"settings of benchmark {choice.name}")
            for choice in choices
        ]
    named = Counter(benchmark.name for benchmark in benchmarks)
    twice = next((benchmark for benchmark in benchmarks if named[benchmark.name] > 1), None)
    if twice is not None:
        # A figure of a run is found again by the benchmark's name; under one name the second form's would be lost.
        remedy = "name all its tasks in its setting `tasks`" if "tasks" in type(twice.settings).model_fields else "keep one of its forms"
        raise UsageError(f"The benchmark {twice.name} is named twice: {remedy}, or run the other form by itself.")
    return benchmarks


CLOSE_NATS = 0.65
"""Items scored in bfloat16 whose margin is smaller than this are scored again in float32. Of 400 CrowS-Pairs margins of SmolLM2-135M, 99 %
were within this distance of their float32 value (standard deviation 0.19 nats; 0.10 on the built-in masked model)."""


def measure(model: Model, benchmarks: Sequence[Benchmark], part: str, description: str, *, store: bool = True) -> list[pl.DataFrame]:
    """Item tables of several benchmarks on the present state of a model; all requests are scored together, each distinct one once.

    Where the model is scored in bfloat16, items whose margin is closer than ``CLOSE_NATS`` to a tie are scored again in float32.

    Args:
        model: the model, with its edits attached.
        benchmarks: what to measure.
        part: ``select``, ``test`` or ``all``.
        description: what the progress display says.
        store: take scores from, and keep them in, the score store.
    """
    items = [benchmark.measured_items(model.family, part) for benchmark in benchmarks]
    for benchmark, found in zip(benchmarks, items, strict=True):
        if not found:
            raise FairforgetError(f"The benchmark {benchmark.name} has no items in its {part} part.")
    asked = [benchmark.requests(found, model) for benchmark, found in zip(benchmarks, items, strict=True)]
    flat: list[Request] = [request for requests in asked for one in requests for request in one]
    scores = iter(Scorer(model, store=store).score(flat, description))
    scored = [[list(islice(scores, len(one))) for one in requests] for requests in asked]
    tables = [benchmark.table(found, values, model) for benchmark, found, values in zip(benchmarks, items, scored, strict=True)]
    if not model.bfloat16_scoring:
        return tables
    close = [_close(found, table) for found, table in zip(items, tables, strict=True)]
    again = [request for requests, numbers in zip(asked, close, strict=True) for number in numbers for request in requests[number]]
    exact = iter(Scorer(model, store=store, exact=True).score(again, f"{description}: close ones in float32"))
    for requests, values, numbers in zip(asked, scored, close, strict=True):
        for number in numbers:
            values[number] = list(islice(exact, len(requests[number])))
    return [
        benchmark.table(found, values, model) if numbers else table
        for benchmark, found, values, numbers, table in zip(benchmarks, items, scored, close, tables, strict=True)
    ]


def _close(items: Sequence[Item], table: pl.DataFrame) -> list[int]:
    """Numbers of the items that are near a tie."""
    near = table.filter(pl.col("margin").abs() < CLOSE_NATS)
    wanted = set(zip(near["task"].to_list(), near["item"].to_list(), strict=True))
    return [number for number, item in enumerate(items) if (item.task, item.id) in wanted]


def evaluate_all(
    benchmarks: Sequence[Benchmark], base: Sequence[pl.DataFrame], edited: Sequence[pl.DataFrame] | None = None, *,
    base_rows: Sequence[pl.DataFrame] | None = None, **options: Any
) -> pl.DataFrame:
    """Metrics of all benchmarks, of one state or of two and their paired difference.

    Args:
        benchmarks: whose metrics are wanted.
        base: item table of each benchmark in the first state.
        edited: the same in the second state.
        base_rows: metrics of the first state from before, with the same options, one table a benchmark; they are not computed again.
        **options: ``resamples``, ``level`` and ``seed`` of the intervals.
    """
    others = [None] * len(base) if edited is None else edited
    known = [None] * len(base) if base_rows is None else base_rows
    return pl.concat([
        evaluate(benchmark, first, second, base_rows=rows, **options)
        for benchmark, first, second, rows in zip(benchmarks, base, others, known, strict=True)
    ])


def audit(
    model: Model,
    benchmarks: Sequence[str] | Sequence[BenchmarkChoice] = ("starter",),
    *,
    part: str = "test",
    out: Path | str | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> Audit:
    """Measure one model.

    Args:
        model: from :func:`fairforget.load`, with edits attached or not.
        benchmarks: names, e.g. ``["crows-pairs", "stereoset"]``, or a suite, e.g. ``["quick"]``.
        part: ``test`` (reported), ``select``, or ``all`` for parity with figures published on the whole set.
        out: folder for tables and page; nothing is written when None.
        resamples: bootstrap resamples.
        seed: of the resamples.
        say: told what a suite will take.

    Raises:
        UsageError: an unknown benchmark, or one that cannot score this family.
        DataError: benchmark data that are missing or damaged.
    """
    chosen = resolve_choices(list(benchmarks), model.family)
    for benchmark in chosen:
        benchmark.check(model)
    if names_a_suite(list(benchmarks)):
        found = estimate(model, chosen, (part,), seed)
        say(found.sentence(found.part(part)))
    if out is None:
        tables = measure(model, chosen, part, f"scoring {model.name}")
        _tell_skipped(tables, say)
        return Audit(pl.concat(tables), evaluate_all(chosen, tables, resamples=resamples, seed=seed))
    folder = RunFolder(Path(out))
    recipe = "\n".join([
        "# an audit; run it again with `fairforget audit`",
        f"state: {model.state_id}",
        f"part: {part}",
        *(f"benchmark: {benchmark.name} {benchmark.settings.digest()}" for benchmark in chosen),
        f"resamples: {resamples}",
        f"seed: {seed}",
        "",
    ])
    with folder.opened(recipe):
        tables = measure(model, chosen, part, f"scoring {model.name}")
        folder.write_items("base", part, tables)
        _tell_skipped(tables, say)
        metrics = evaluate_all(chosen, tables, resamples=resamples, seed=seed)
        write_table(metrics, folder.tables / "metrics.parquet")
        audit_verdict(metrics, model.name, part, [benchmark.caution for benchmark in chosen]).write(folder.tables / "verdict.json")
        folder.write_record({
            "kind": "audit",
            "model": model_facts(model),
            "state": model.state_id,
            "part": part,
            "benchmarks": benchmark_facts(chosen, tables),
            "datasets": dataset_facts([name for benchmark in chosen for name in benchmark.datasets]),
            "seed": seed,
            "warnings": list(model.notes),
        })
        write_report(folder.path)
    return Audit(pl.concat(tables), metrics, folder.path)


def _tell_skipped(tables: Sequence[pl.DataFrame], say: Callable[[str], None]) -> None:
    for table in tables:
        if words := skipped_words(table):
            say(f"Note: {table['benchmark'][0]}: {words}.")
