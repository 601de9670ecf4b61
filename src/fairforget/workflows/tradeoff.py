"""``fairforget study tradeoff``: what a bias objective takes from a model beside the bias, over steps, sizes, seeds and mitigations.

The protocol is that of Liu et al. 2025 (arXiv 2509.21456) as far as it could be read: tune on growing amounts of text, look at bias, at
selective and at overall forgetting along the way, fine-tune on downstream tasks from there, and ask what goes with what.
"""

from __future__ import annotations

import datetime as dt
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from fairforget.errors import UsageError
from fairforget.files import folder_lock, write_json, write_text
from fairforget.progress import task
from fairforget.report.tradeoff_page import TRADEOFF_RECORD, write_tradeoff_page
from fairforget.tables import write_table
from fairforget.workflows.run_folder import git_state, read_json, versions
from fairforget.workflows.study_backends import Backend, run_jobs
from fairforget.workflows.study_jobs import Job, Outcome, StudyFolder, failure_sentence, record_outcome
from fairforget.workflows.tradeoff_jobs import BASE_RECORD, TradeoffBaseJob, TradeoffJob, base_folder, run_finished
from fairforget.workflows.tradeoff_recipe import TradeoffRecipe, TradeoffRun, read_tradeoff, tradeoff_runs, tradeoff_yaml
from fairforget.workflows.tradeoff_tables import analyse, gather, write_analyses
from fairforget.workflows.tradeoff_verdicts import findings, tradeoff_words

RECIPE_FILE = "tradeoff.yaml"
TABLES_EVERY = 900.0
"""Seconds after which the tables are written again while runs are still going on."""
_OWN = (".lock", RECIPE_FILE, "runs", "base", "trainings", "logs", "failures", "tables")

Say = Callable[[str], None]


@dataclass(frozen=True)
class TradeoffResult:
    """What the study left.

    Attributes:
        folder: tables, page, and a folder for each run.
        runs: a row per run with what became of it.
        checkpoints: a row per run and checkpoint, ``CHECKPOINT_SCHEMA``.
        analyses: ``coupling``, ``slopes``, ``arms``, ``objective`` and ``mitigations``; empty where there is nothing to analyse.
        findings: a verdict per model and finding, ``FINDING_SCHEMA``.
        page: the page.
    """

    folder: Path
    runs: pl.DataFrame
    checkpoints: pl.DataFrame
    analyses: dict[str, pl.DataFrame]
    findings: pl.DataFrame
    page: Path

    @property
    def failed(self) -> int:
        """Number of runs that failed."""
        return self.runs.filter(pl.col("status") == "failed").height


def plan_tradeoff(recipe: TradeoffRecipe | Path | str, out: Path | str, settings: Sequence[str] = ()) -> list[tuple[TradeoffRun, str]]:
    """All runs of a study, each ``finished``, ``failed before`` or ``to do``; nothing is run or written.

    Raises:
        UsageError: the study is not valid, or the folder holds runs of other recipes under its names.
    """
    chosen, _ = _read(recipe, settings)
    folder = StudyFolder(Path(out).absolute())
    planned: list[tuple[TradeoffRun, str]] = []
    for run in tradeoff_runs(chosen):
        state = "finished" if run_finished(folder, run) else "failed before" if failure_sentence(folder, run.name) else "to do"
        planned.append((run, state))
    return planned


def tradeoff(
    recipe: TradeoffRecipe | Path | str, out: Path | str, *, settings: Sequence[str] = (), processes: int | None = None,
    backend: Backend = "processes", say: Say = lambda _: None,
) -> TradeoffResult:
    """Run all trainings of a study that are not finished yet, measure their checkpoints, and bring them together.

    A base is measured once. What a checkpoint has on disk is not computed again, so that a study that was killed goes on with the same
    call; a run that failed is tried again. New seeds, sizes, arms and mitigations may be added in the same folder.

    Args:
        recipe: the study, or its file.
        out: folder of the study.
        settings: ``field=value`` over the fields of a file.
        processes: trainings at once; by default one a GPU, else one.
        backend: ``processes`` of this machine, or ``ray``.
        say: told what is being done, a sentence at a time.

    Raises:
        UsageError: the study is not valid, or the folder holds something else.
        FairforgetError: another process uses the folder, or it cannot be written.
    """
    chosen, where = _read(recipe, settings)
    folder = StudyFolder(Path(out).absolute())
    if folder.path.is_dir() and not (folder.path / TRADEOFF_RECORD).exists() and any(
        entry.name not in _OWN for entry in folder.path.iterdir()
    ):
        raise UsageError(f"The folder {out} holds other files: choose an empty or a new folder with --out.")
    planned = plan_tradeoff(chosen, out)
    with folder_lock(folder.path):
        write_text(folder.path / RECIPE_FILE, tradeoff_yaml(chosen))
        start = time.time()
        runs = [run for run, _ in planned]
        left = [run for run, state in planned if state != "finished"]
        say(f"{len(runs)} runs: {len(runs) - len(left)} finished, {len(left)} to do.")
        if left:
            _run(chosen, runs, left, folder, where, processes, backend, say)
        return _bring_together(chosen, runs, folder, where, time.time() - start)


def _read(recipe: TradeoffRecipe | Path | str, settings: Sequence[str]) -> tuple[TradeoffRecipe, str]:
    return (recipe, "tradeoff") if isinstance(recipe, TradeoffRecipe) else (read_tradeoff(Path(recipe), settings), str(recipe))


def _run(
    recipe: TradeoffRecipe, runs: Sequence[TradeoffRun], left: Sequence[TradeoffRun], folder: StudyFolder, where: str,
    processes: int | None, backend: Backend, say: Say,
) -> None:
    cwd = str(Path.cwd())
    broken: dict[str, str] = {}
    counts = {"done": 0, "failed": 0}
    written = time.monotonic()
    examples = {base_folder(folder, run): run for run in left}
    bases = [TradeoffBaseJob(folder, run, cwd) for place, run in examples.items() if not (place / BASE_RECORD).exists()]

    def base_finished(job: Job, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            say(f"Base {outcome.name}: {outcome.sentence} ({outcome.seconds:.0f} s)")
            if outcome.status == "failed":
                broken[job.name] = outcome.sentence
        advance(1)

    with task("measuring the bases", len(bases)) as advance:
        run_jobs(bases, base_finished, processes=processes, backend=backend)
    ready: list[TradeoffJob] = []
    for group in _grouped(runs):
        own = [run for run in group if run in left]
        base = base_folder(folder, group[0]).name
        if own and base in broken:
            for run in own:
                record_outcome(folder, Outcome(run.name, "failed", f"The base could not be measured: {broken[base]}", 0.0))
        elif own:
            ready.append(TradeoffJob(folder, tuple(group), cwd))

    def runs_finished(job: Job, outcomes: list[Outcome]) -> None:
        nonlocal written
        del job
        for outcome in outcomes:
            record_outcome(folder, outcome)
            counts[outcome.status] += 1
            word = "" if outcome.status == "done" else "failed: "
            say(f"[{sum(counts.values())}/{len(left)}] {outcome.name}: {word}{outcome.sentence} ({outcome.seconds:.0f} s)")
        if time.monotonic() - written > TABLES_EVERY:
            _bring_together(recipe, runs, folder, where, 0.0)
            written = time.monotonic()
        advance(1)

    with task("running trainings", len(ready)) as advance:
        run_jobs(ready, runs_finished, processes=processes, backend=backend)


def _grouped(runs: Sequence[TradeoffRun]) -> list[list[TradeoffRun]]:
    """Runs that share one training, together."""
    groups: dict[str, list[TradeoffRun]] = {}
    for run in runs:
        groups.setdefault(run.training, []).append(run)
    return list(groups.values())


def _bring_together(recipe: TradeoffRecipe, runs: Sequence[TradeoffRun], folder: StudyFolder, where: str, seconds: float) -> TradeoffResult:
    """Tables, verdicts, record and page from the folders of the runs."""
    tables = gather(runs, folder)
    checkpoints = tables["checkpoints"]
    analyses = analyse(recipe, checkpoints)
    found = findings(recipe, checkpoints, analyses)
    write_analyses({**tables, **analyses}, folder.tables)
    write_table(found, folder.tables / "findings.parquet")
    write_json(folder.path / TRADEOFF_RECORD, _record(recipe, runs, tables["runs"], folder, where, seconds))
    tradeoff_words(tables["runs"], found).write(folder.tables / "verdict.json")
    return TradeoffResult(folder.path, tables["runs"], checkpoints, analyses, found, write_tradeoff_page(folder.path))


def _record(
    recipe: TradeoffRecipe, runs: Sequence[TradeoffRun], table: pl.DataFrame, folder: StudyFolder, where: str, seconds: float
) -> dict[str, Any]:
    benchmarks: dict[str, dict[str, Any]] = {}
    datasets: dict[str, dict[str, Any]] = {}
    for place in sorted({base_folder(folder, run) for run in runs}):
        if (place / BASE_RECORD).exists():
            facts = read_json(place / BASE_RECORD)
            benchmarks.update({f"{entry['name']} {entry['protocol']}": entry for entry in facts["benchmarks"]})
            datasets.update({entry["name"]: entry for entry in facts["datasets"]})
    record = folder.path / TRADEOFF_RECORD
    before = read_json(record) if record.exists() else {}
    return {
        "kind": "tradeoff",
        "recipe": where,
        "axes": {
            "model": table["model"].unique(maintain_order=True).to_list(), "arm": [arm.name for arm in recipe.arms],
            "mitigation": table["mitigation"].unique(maintain_order=True).to_list(), "size": [str(size) for size in recipe.sizes],
        },
        "seeds": list(recipe.seeds),
        "steps": list(recipe.looked_at),
        "cells": {status: table.filter(pl.col("status") == status).height for status in ("done", "failed", "not run")},
        "benchmarks": list(benchmarks.values()),
        "datasets": list(datasets.values()),
        "versions": versions(),
        "git": git_state(),
        "command": " ".join(sys.argv) if sys.argv and sys.argv[0] else "python",
        "started": before.get("started") or dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "seconds": round(float(before.get("seconds", 0.0)) + seconds, 1),
    }
