"""Many runs as one: cells of a recipe, done by several processes, resumed after any end, brought together in a table and a page."""

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
from fairforget.report.study_page import write_study_page
from fairforget.tables import write_table
from fairforget.workflows.base_audit import read_base_audit
from fairforget.workflows.run_folder import git_state, read_json, versions
from fairforget.workflows.scaling import scaling_points, scaling_table
from fairforget.workflows.study_backends import Backend, run_jobs
from fairforget.workflows.study_benchmarks import benchmark_table
from fairforget.workflows.study_collapse import collapse_table
from fairforget.workflows.study_contrasts import contrast_table
from fairforget.workflows.study_jobs import (
    BaseJob,
    CellsJob,
    Job,
    Outcome,
    StudyFolder,
    check_same_recipe,
    facts_of,
    failure_sentence,
    finished,
    record_outcome,
)
from fairforget.workflows.study_pool import frontier_table
from fairforget.workflows.study_recipe import Cell, StudyRecipe, grouped, read_study, study_cells, study_yaml
from fairforget.workflows.study_table import DONE, FAILED, NOT_RUN, study_table, write_study_table
from fairforget.workflows.study_words import study_words

TABLES_EVERY = 60.0
"""Seconds after which the tables are written again while cells are still running."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class StudyResult:
    """What a study left.

    Attributes:
        folder: tables, page, and a run folder for each cell.
        cells: a row per cell, ``study_table``.
        frontier: seeds pooled, ``FRONTIER_SCHEMA``.
        scaling: lines over model size, ``SCALING_SCHEMA``; empty where there is one size.
        contrasts: variants against the one that the study names, ``CONTRAST_SCHEMA``; empty where it names none.
        page: the frontier page.
    """

    folder: Path
    cells: pl.DataFrame
    frontier: pl.DataFrame
    scaling: pl.DataFrame
    contrasts: pl.DataFrame
    page: Path

    @property
    def failed(self) -> int:
        """Number of cells that failed."""
        return self.cells.filter(pl.col("status") == FAILED).height


@dataclass(frozen=True)
class PlannedCell:
    """What would be done with a cell: ``finished``, ``excluded``, ``failed before`` (and tried again) or ``to do``."""

    cell: Cell
    state: str
    reason: str


def plan_study(recipe: StudyRecipe | Path | str, out: Path | str) -> list[PlannedCell]:
    """All cells of a study and what is left to do; nothing is run or written.

    Args:
        recipe: the study, or its file.
        out: folder of the study, which need not exist.

    Raises:
        UsageError: the study is not valid, or the folder holds runs of other recipes under its names.
    """
    study, where = _study(recipe)
    folder = StudyFolder(Path(out).absolute())
    planned: list[PlannedCell] = []
    for cell in study_cells(study, where):
        failure = failure_sentence(folder, cell.name)
        if cell.recipe is None:
            planned.append(PlannedCell(cell, "excluded", cell.excluded or ""))
        elif finished(folder, cell):
            check_same_recipe(folder, cell)
            planned.append(PlannedCell(cell, "finished", ""))
        else:
            planned.append(PlannedCell(cell, "failed before", failure) if failure else PlannedCell(cell, "to do", ""))
    return planned


def study(
    recipe: StudyRecipe | Path | str, out: Path | str, *, processes: int | None = None, backend: Backend = "processes",
    say: Say = lambda _: None,
) -> StudyResult:
    """Run all cells of a study that are not finished yet, and bring them together.

    Every cell is an ordinary debiasing run under ``runs``; each base is measured once, before the cells that start from it. A cell that
    fails becomes a row with the sentence of its error, and is tried again by the next call; what was interrupted goes on.

    Args:
        recipe: the study, or its file.
        out: folder of the study. A study may be extended (more variants, more seeds) in the folder it was begun in.
        processes: cells at once; by default one a GPU, else one.
        backend: ``processes`` of this machine, or ``ray``.
        say: told what is being done, a sentence at a time.

    Raises:
        UsageError: the study is not valid, or the folder holds something else.
        FairforgetError: another process uses the folder, or it cannot be written.
    """
    chosen, where = _study(recipe)
    planned = plan_study(chosen, out)
    folder = StudyFolder(Path(out).absolute())
    if folder.path.is_dir() and not folder.record.exists() and any(
        entry.name not in (".lock", "study.yaml", "runs", "base", "logs", "failures", "tables") for entry in folder.path.iterdir()
    ):
        raise UsageError(f"The folder {out} holds other files: choose an empty or a new folder with --out.")
    with folder_lock(folder.path):
        write_text(folder.path / "study.yaml", study_yaml(chosen))
        cells = [entry.cell for entry in planned]
        start = time.time()
        left = [entry.cell for entry in planned if entry.state in ("to do", "failed before")]
        done = sum(entry.state == "finished" for entry in planned)
        say(f"{len(cells)} cells: {done} finished, {len(left)} to do, {len(cells) - done - len(left)} excluded.")
        if left:
            _run(chosen, cells, left, folder, where, processes, backend, say)
        return _bring_together(chosen, cells, folder, where, time.time() - start)


def scaling(out: Path | str) -> StudyResult:
    """Fit the finished cells of a study against the size of their models, and make its tables and page again.

    Raises:
        UsageError: the folder holds no study, or its cells have one size.
    """
    folder = StudyFolder(Path(out).absolute())
    if not folder.record.exists():
        raise UsageError(f"{out} holds no study (no study.json): give the folder that `fairforget study` wrote.")
    chosen = read_study(folder.path / "study.yaml")
    with folder_lock(folder.path):
        record = read_json(folder.record)
        result = _bring_together(chosen, study_cells(chosen, record["recipe"]), folder, record["recipe"], 0.0)
    if result.scaling.is_empty():
        raise UsageError(f"{out} has finished cells of one model size only: a scaling study needs at least two, and three for intervals.")
    return result


def _study(recipe: StudyRecipe | Path | str) -> tuple[StudyRecipe, str]:
    return (recipe, "study") if isinstance(recipe, StudyRecipe) else (read_study(Path(recipe)), str(recipe))


def _run(
    study: StudyRecipe, cells: Sequence[Cell], left: Sequence[Cell], folder: StudyFolder, where: str, processes: int | None,
    backend: Backend, say: Say,
) -> None:
    cwd = str(Path.cwd())
    counts = {"done": 0, "failed": 0}
    written = time.monotonic()
    bases = _base_jobs(left, folder, cwd)
    broken: dict[str, str] = {}

    def base_finished(job: Job, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            say(f"Base {outcome.name}: {outcome.sentence}")
            if outcome.status == "failed":
                broken[job.name] = outcome.sentence

    with task("measuring the bases", len(bases)) as advance:
        run_jobs(bases, _then(base_finished, advance), processes=processes, backend=backend)
    ready: list[CellsJob] = []
    for group in grouped([cell for cell in cells if cell.recipe is not None]):
        own = [cell for cell in group if cell in left]
        recipe = group[0].recipe
        if not own or recipe is None:
            continue
        base = folder.base(recipe).name
        if base in broken:
            for cell in own:
                sentence = f"The base could not be measured: {broken[base]}"
                record_outcome(folder, Outcome(cell.name, "failed", sentence, 0.0))
        else:
            ready.append(CellsJob(folder, tuple(group), study.keep_models, study.keep_edits, cwd))

    def cells_finished(job: Job, outcomes: list[Outcome]) -> None:
        nonlocal written
        del job
        for outcome in outcomes:
            record_outcome(folder, outcome)
            counts[outcome.status] += 1
            word = "" if outcome.status == "done" else "failed: "
            say(f"[{sum(counts.values())}/{len(left)}] {outcome.name}: {word}{outcome.sentence} ({outcome.seconds:.0f} s)")
        if time.monotonic() - written > TABLES_EVERY:
            _bring_together(study, cells, folder, where, 0.0)
            written = time.monotonic()

    with task("running cells", len(ready)) as advance:
        run_jobs(ready, _then(cells_finished, advance), processes=processes, backend=backend)


def _then(finished_job: Callable[[Job, list[Outcome]], None], advance: Callable[[float], None]) -> Callable[[Job, list[Outcome]], None]:
    def both(job: Job, outcomes: list[Outcome]) -> None:
        finished_job(job, outcomes)
        advance(1)

    return both


def _base_jobs(left: Sequence[Cell], folder: StudyFolder, cwd: str) -> list[BaseJob]:
    """A job for each base whose tables are not there yet, with the intervals of every seed that needs them."""
    wanted: dict[tuple[str, int], dict[int, Any]] = {}
    for cell in left:
        if cell.recipe is None:
            continue
        kept = read_base_audit(folder.base(cell.recipe), seed=cell.seed, resamples=cell.recipe.resamples)
        if kept is None or kept.metrics is None:
            wanted.setdefault((folder.base(cell.recipe).name, cell.recipe.resamples), {})[cell.seed] = cell.recipe
    return [BaseJob(folder, next(iter(seeds.values())), tuple(seeds), cwd) for seeds in wanted.values()]


def _bring_together(study: StudyRecipe, cells: Sequence[Cell], folder: StudyFolder, where: str, seconds: float) -> StudyResult:
    """Tables, words, record and page from the run folders."""
    table = study_table(cells, folder)
    frontier = frontier_table(table)
    lines = scaling_table(frontier, table)
    contrasts = contrast_table(cells, folder, study.against)
    write_study_table(table, folder)
    write_table(frontier, folder.tables / "frontier.parquet")
    write_table(lines, folder.tables / "scaling.parquet")
    write_table(scaling_points(frontier, table), folder.tables / "scaling-points.parquet")
    write_table(benchmark_table(cells, table, frontier, folder), folder.tables / "benchmarks.parquet")
    write_table(contrasts, folder.tables / "contrasts.parquet")
    write_table(collapse_table(cells, table, folder), folder.tables / "collapse.parquet")
    write_json(folder.record, _record(study, cells, folder, table, where, seconds))
    study_words(table, frontier, lines, contrasts, study.kind).write(folder.tables / "verdict.json")
    return StudyResult(folder.path, table, frontier, lines, contrasts, write_study_page(folder.path))


def _record(
    study: StudyRecipe, cells: Sequence[Cell], folder: StudyFolder, table: pl.DataFrame, where: str, seconds: float
) -> dict[str, Any]:
    benchmarks: dict[str, dict[str, Any]] = {}
    datasets: dict[str, dict[str, Any]] = {}
    for cell in cells:
        if cell.recipe is not None and finished(folder, cell):
            facts = facts_of(folder, cell)
            benchmarks.update({f"{entry['name']} {entry['protocol']}": entry for entry in facts["benchmarks"]})
            datasets.update({entry["name"]: entry for entry in facts["datasets"]})
    before = read_json(folder.record) if folder.record.exists() else {}
    return {
        "kind": "study",
        "study": study.kind,
        "recipe": where,
        "axes": {axis: [variant.name for variant in variants] for axis, variants in study.axes.items()},
        "seeds": sorted({cell.seed for cell in cells}),
        "strengths": list(study.strengths),
        "cells": {status: table.filter(pl.col("status") == status).height for status in (DONE, FAILED, NOT_RUN)},
        "benchmarks": list(benchmarks.values()),
        "datasets": list(datasets.values()),
        "versions": versions(),
        "git": git_state(),
        "command": " ".join(sys.argv) if sys.argv and sys.argv[0] else "python",
        "started": before.get("started") or dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "seconds": round(float(before.get("seconds", 0.0)) + seconds, 1),
    }


