"""The work of a study, cut into jobs that any process can do from the folder alone; whatever fails becomes a record, not an exception."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from fairforget.edits import Edit, load_edit
from fairforget.errors import FairforgetError, UsageError
from fairforget.files import write_json
from fairforget.models import load
from fairforget.workflows.base_audit import read_base_audit, settings_of, write_base_audit
from fairforget.workflows.debias import debias
from fairforget.workflows.plan import prepare
from fairforget.workflows.recipe import Recipe, parse_recipe, read_recipe
from fairforget.workflows.run_folder import RunFolder, read_json
from fairforget.workflows.study_recipe import Cell

Status = Literal["done", "failed"]


@dataclass(frozen=True)
class StudyFolder:
    """Where things are in the folder of a study."""

    path: Path

    @property
    def tables(self) -> Path:
        """Tables over all cells."""
        return self.path / "tables"

    @property
    def record(self) -> Path:
        """What was run, with which versions."""
        return self.path / "study.json"

    def run(self, cell: str) -> Path:
        """The run folder of a cell, an ordinary debiasing run."""
        return self.path / "runs" / cell

    def base(self, recipe: Recipe) -> Path:
        """Tables of the base of a recipe, shared by all cells of the same model and benchmarks."""
        facts = json.dumps([recipe.model.model_dump(mode="json"), settings_of(prepare(recipe).benchmarks)])
        digest = hashlib.sha256(facts.encode()).hexdigest()[:8]
        return self.path / "base" / f"{Path(recipe.model.ref).name.removesuffix('.gguf') or 'model'}-{digest}"

    def failure(self, cell: str) -> Path:
        """Why a cell failed."""
        return self.path / "failures" / f"{cell}.json"

    def log(self, name: str) -> Path:
        """What was said while a job ran."""
        return self.path / "logs" / f"{name}.log"


@dataclass(frozen=True)
class Outcome:
    """How a cell, or the audit of a base, ended."""

    name: str
    status: Status
    sentence: str
    seconds: float


class Job(Protocol):
    """A piece of a study that any process can do from the folder alone."""

    @property
    def name(self) -> str:
        """What the log is called."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """What outcomes it gives."""
        ...

    @property
    def cwd(self) -> str:
        """Where the study was started: models and data may be named relative to it."""
        ...

    def run(self) -> list[Outcome]:
        """Do it; whatever fails is an outcome."""
        ...


@dataclass(frozen=True)
class BaseJob:
    """Measure one base for all the seeds that need it."""

    folder: StudyFolder
    recipe: Recipe
    seeds: tuple[int, ...]
    cwd: str

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.folder.base(self.recipe).name

    @property
    def names(self) -> tuple[str, ...]:
        """What outcomes it gives."""
        return (self.name,)

    def run(self) -> list[Outcome]:
        """Measure it."""
        return [outcome_of(self.folder, self.name, lambda say: _audit_base(self, say))]


@dataclass(frozen=True)
class CellsJob:
    """Run cells that share one edit, one after the other; of those that are finished the edit is taken."""

    folder: StudyFolder
    cells: tuple[Cell, ...]
    keep_models: bool
    keep_edits: bool
    cwd: str

    @property
    def name(self) -> str:
        """Name of its first cell."""
        return self.cells[0].name

    @property
    def names(self) -> tuple[str, ...]:
        """Cells that are not finished yet."""
        return tuple(cell.name for cell in self.cells if not finished(self.folder, cell))

    def run(self) -> list[Outcome]:
        """Run what is not finished; the edit of the first is that of the others."""
        outcomes: list[Outcome] = []
        edit: Edit | None = None

        for cell in self.cells:
            def run_one(say: Callable[[str], None], cell: Cell = cell) -> str:
                nonlocal edit
                sentence, edit = _run_cell(self, cell, edit, say)
                return sentence

            if finished(self.folder, cell):
                edit = edit or load_edit(RunFolder(self.folder.run(cell.name)).edit)
            else:
                outcomes.append(outcome_of(self.folder, cell.name, run_one))
        if not self.keep_edits and all(finished(self.folder, cell) for cell in self.cells):
            for cell in self.cells:
                shutil.rmtree(RunFolder(self.folder.run(cell.name)).edit, ignore_errors=True)
        return outcomes


def run_job(job: Job) -> list[Outcome]:
    """Do a job in this process.

    Raises:
        KeyboardInterrupt: and nothing else; whatever fails is an outcome.
    """
    if Path.cwd() != Path(job.cwd):
        os.chdir(job.cwd)
    return job.run()


def record_outcome(folder: StudyFolder, outcome: Outcome) -> None:
    """Keep why a cell failed, or forget why it did before."""
    path = folder.failure(outcome.name)
    if outcome.status == "failed":
        write_json(path, {"sentence": outcome.sentence, "seconds": outcome.seconds, "log": str(folder.log(outcome.name).name)})
    else:
        path.unlink(missing_ok=True)


def finished(folder: StudyFolder, cell: Cell) -> bool:
    """Whether the run of a cell came to its end."""
    return RunFolder(folder.run(cell.name)).finished()


def check_same_recipe(folder: StudyFolder, cell: Cell) -> None:
    """Refuse a finished run of another recipe in the place of a cell.

    Raises:
        UsageError: the folder holds one.
    """
    run = RunFolder(folder.run(cell.name))
    values, lines = read_recipe(run.recipe)
    if parse_recipe(values, str(run.recipe), lines) != cell.recipe:
        raise UsageError(
            f"{run.path} holds a finished run of another recipe than the study now gives this cell: choose another folder with --out, "
            "give the changed variant another name, or remove that run."
        )


def _audit_base(job: BaseJob, say: Callable[[str], None]) -> str:
    recipe = job.recipe
    say(f"Loading {recipe.model.ref}.")
    model = load(recipe.model.ref, **recipe.model.arguments())
    benchmarks = prepare(recipe).benchmarks
    for benchmark in benchmarks:
        benchmark.check(model)
    say("Measuring the base.")
    write_base_audit(model, benchmarks, job.folder.base(recipe), seeds=job.seeds, resamples=recipe.resamples)
    return f"The base {model.name} was measured."


def _run_cell(job: CellsJob, cell: Cell, edit: Edit | None, say: Callable[[str], None]) -> tuple[str, Edit]:
    recipe = cell.recipe
    assert recipe is not None
    run = RunFolder(job.folder.run(cell.name))
    base = read_base_audit(job.folder.base(recipe), seed=recipe.seed, resamples=recipe.resamples)
    result = debias(recipe=recipe, out=run.path, base=base, edit=edit, save_model=job.keep_models, say=say)
    return result.verdict.headline, result.edit


def outcome_of(folder: StudyFolder, name: str, work: Callable[[Callable[[str], None]], str]) -> Outcome:
    """Run one piece of work with its own log; an exception becomes a failed outcome with one sentence.

    Args:
        folder: of the study.
        name: of the outcome and the log.
        work: given a function that says things to the log; returns the sentence of its end.
    """
    start = time.monotonic()
    log = folder.log(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as stream:

        def say(text: str) -> None:
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", file=stream, flush=True)

        try:
            sentence = work(say)
        except FairforgetError as error:
            say(str(error))
            return Outcome(name, "failed", str(error), time.monotonic() - start)
        except Exception as error:  # noqa: BLE001  (one cell must not take the others with it)
            traceback.print_exception(error, file=stream)
            text = (str(error).strip().splitlines() or ["no message"])[0]
            return Outcome(name, "failed", f"{type(error).__name__}: {text} (see logs/{name}.log).", time.monotonic() - start)
        say(sentence)
    return Outcome(name, "done", sentence, time.monotonic() - start)


def failure_sentence(folder: StudyFolder, cell: str) -> str | None:
    """Why a cell failed when it was last tried; None where it did not."""
    path = folder.failure(cell)
    return str(read_json(path)["sentence"]) if path.exists() else None


def facts_of(folder: StudyFolder, cell: Cell) -> dict[str, Any]:
    """``run.json`` of a finished cell."""
    return read_json(RunFolder(folder.run(cell.name)).record)
