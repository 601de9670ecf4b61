"""The work of the trade-off study, cut into jobs: a base measured once, and trainings whose checkpoints are measured and tuned from."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairforget.edits import WeightEdit
from fairforget.errors import FairforgetError, UsageError
from fairforget.files import write_json
from fairforget.forgetting import Step
from fairforget.models import Model, load
from fairforget.tables import read_table, write_table
from fairforget.workflows.debias import refuse_overlap
from fairforget.workflows.drift import Drift
from fairforget.workflows.run_folder import benchmark_facts, dataset_facts, model_facts, read_json
from fairforget.workflows.study_jobs import Outcome, StudyFolder, outcome_of
from fairforget.workflows.tradeoff_measures import (
    StateTables,
    check_downstream,
    checkpoint_figures,
    checkpoint_ledger,
    downstream_scores,
    downstream_tables,
    general_requests,
    measure_state,
    strata_table,
)
from fairforget.workflows.tradeoff_probes import distances
from fairforget.workflows.tradeoff_recipe import Benchmarks, TradeoffRun, resolved
from fairforget.workflows.tradeoff_training import drawn, has_snapshots, paired_texts, snapshot_folder, train_with_snapshots

BASE_RECORD, RUN_RECORD = "base.json", "run.json"
LEDGER, FIGURES, DOWNSTREAM, STRATA = "ledger.parquet", "figures.json", "downstream.parquet", "strata.parquet"

Say = Callable[[str], None]


def base_folder(folder: StudyFolder, run: TradeoffRun) -> Path:
    """Tables of the base of a run, shared by all runs of the same model, benchmarks and training source."""
    facts = run.facts()
    shared = ("model_choice", "train", "words", "settings", "bias", "general", "neutral", "neutral_part", "strata", "downstream")
    digest = hashlib.sha256(json.dumps([facts[name] for name in shared], sort_keys=True).encode()).hexdigest()[:8]
    return folder.path / "base" / f"{Path(run.model).name}-{digest}"


def training_folder(folder: StudyFolder, run: TradeoffRun) -> Path:
    """Edits of a training's checkpoints while they are needed."""
    facts = run.facts()
    own = ("model_choice", "method", "train", "words", "size", "seed", "checkpoints")
    digest = hashlib.sha256(json.dumps([facts[name] for name in own], sort_keys=True).encode()).hexdigest()[:8]
    return folder.path / "trainings" / f"{run.arm}-n{run.size}-seed{run.seed}-{digest}"


def checkpoint_folder(folder: StudyFolder, run: TradeoffRun, step: int) -> Path:
    """Tables of one checkpoint of a run."""
    return snapshot_folder(folder.run(run.name), step)


def run_finished(folder: StudyFolder, run: TradeoffRun) -> bool:
    """Whether all checkpoints of a run are measured.

    Raises:
        UsageError: the run of another recipe lies there.
    """
    path = folder.run(run.name) / RUN_RECORD
    if not path.exists():
        return False
    record = read_json(path)
    if record["facts"] != json.loads(json.dumps(run.facts())):
        raise UsageError(
            f"{path.parent} holds a run of another recipe than the study now gives: choose another folder with --out, give the changed "
            "arm another name, or remove that run."
        )
    return bool(record["finished"])


@dataclass(frozen=True)
class TradeoffBaseJob:
    """Measure one base, fine-tune from it, and refuse training text that is reported on."""

    folder: StudyFolder
    example: TradeoffRun
    cwd: str

    @property
    def name(self) -> str:
        """Name of its folder."""
        return base_folder(self.folder, self.example).name

    @property
    def names(self) -> tuple[str, ...]:
        """What outcomes it gives."""
        return (self.name,)

    def run(self) -> list[Outcome]:
        """Measure it."""
        return [outcome_of(self.folder, self.name, self._measure)]

    def _measure(self, say: Say) -> str:
        run, place = self.example, base_folder(self.folder, self.example)
        benchmarks = resolved(run.recipe)
        check_downstream(benchmarks.downstream)
        data = paired_texts(run.recipe)
        for size in run.recipe.sizes:
            drawn(data, size, run.seed)
        model = _loaded(run, benchmarks)
        warnings = refuse_overlap(data, benchmarks.bias, model.family)
        say("Measuring the base.")
        tables = measure_state(model, benchmarks, run.recipe, f"base {model.name}")
        tables.write(place)
        requests = general_requests(model, benchmarks, tables.general)
        write_table(strata_table(model, requests, tables.general, run.recipe), place / STRATA)
        own = checkpoint_ledger(tables, tables, Step(run="base", stage_name="base"), None)
        figures = checkpoint_figures(benchmarks, tables, tables, own, read_table(place / STRATA), resamples=200)
        scores: dict[str, float] = {}
        chosen = [*benchmarks.bias, benchmarks.general, benchmarks.neutral]
        measured = [*tables.bias, tables.general, tables.neutral]
        if benchmarks.downstream:
            say("Fine-tuning from the base.")
            downstream = downstream_tables(model, benchmarks.downstream, f"base {model.name}")
            write_table(downstream, place / DOWNSTREAM)
            scores = downstream_scores(benchmarks.downstream, downstream)
            for benchmark in benchmarks.downstream:
                chosen.append(benchmark)
                measured.append(downstream.filter(downstream["benchmark"] == benchmark.name))
        record = {
            "state": model.state_id, "model": model_facts(model), "texts": len(data.texts), "warnings": warnings, "downstream": scores,
            "figures": figures.record(), "benchmarks": benchmark_facts(chosen, measured),
            "datasets": dataset_facts([name for benchmark in chosen for name in benchmark.datasets]),
        }
        write_json(place / BASE_RECORD, record)
        return f"The base {model.name} was measured."


@dataclass(frozen=True)
class TradeoffJob:
    """Runs that share one training: train, then measure and tune from each checkpoint; what is there is not made again."""

    folder: StudyFolder
    runs: tuple[TradeoffRun, ...]
    cwd: str

    @property
    def name(self) -> str:
        """Name of its first run."""
        return self.runs[0].name

    @property
    def names(self) -> tuple[str, ...]:
        """Runs that are not finished yet."""
        return tuple(run.name for run in self.runs if not run_finished(self.folder, run))

    def run(self) -> list[Outcome]:
        """Do what is left."""
        left = [run for run in self.runs if not run_finished(self.folder, run)]
        outcomes: list[Outcome] = []
        ready: _Training | None = None
        for run in left:
            def one(say: Say, run: TradeoffRun = run) -> str:
                nonlocal ready
                ready = ready or _prepare(self.folder, run, say)
                return _measure_run(self.folder, run, ready, say)

            if ready is None and outcomes:  # the training that they share failed
                outcomes.append(Outcome(run.name, "failed", outcomes[0].sentence, 0.0))
            else:
                outcomes.append(outcome_of(self.folder, run.name, one))
        if not self.runs[0].recipe.keep_edits and all(run_finished(self.folder, run) for run in self.runs):
            shutil.rmtree(training_folder(self.folder, self.runs[0]), ignore_errors=True)
        return outcomes


@dataclass(frozen=True)
class _Training:
    """A training that is done, and what its checkpoints are measured with."""

    model: Model
    benchmarks: Benchmarks
    base: StateTables
    place: Path
    drift: Drift | None


def _prepare(folder: StudyFolder, run: TradeoffRun, say: Say) -> _Training:
    benchmarks, recipe = resolved(run.recipe), run.recipe
    model = _loaded(run, benchmarks)
    kept = base_folder(folder, run)
    if read_json(kept / BASE_RECORD)["state"] != model.state_id:
        raise FairforgetError(f"The tables in {kept} are of other weights than {model.name} has now: start in another folder.")
    base, place = StateTables.read(kept, len(benchmarks.bias)), training_folder(folder, run)
    if not has_snapshots(place, recipe.looked_at):
        say(f"Training {run.method.name} on {run.size} texts, {recipe.steps} steps.")
        train_with_snapshots(run, model, drawn(paired_texts(recipe), run.size, run.seed), place, place / "work")
        shutil.rmtree(place / "work", ignore_errors=True)
    drift = None
    if recipe.drift_positions:
        drift = Drift(model, base.general, general_requests(model, benchmarks, base.general), recipe.drift_positions)
    return _Training(model, benchmarks, base, place, drift)


def _measure_run(folder: StudyFolder, run: TradeoffRun, training: _Training, say: Say) -> str:
    start = time.monotonic()
    for step in run.recipe.looked_at:
        place = checkpoint_folder(folder, run, step)
        wants_downstream = step in run.recipe.tuned_from and not (place / DOWNSTREAM).exists()
        if (place / FIGURES).exists() and not wants_downstream:
            continue
        edit = WeightEdit.load(snapshot_folder(training.place, step)).at(run.strength)
        with edit.applied(training.model):
            if not (place / FIGURES).exists():
                say(f"Measuring step {step}.")
                _measure_checkpoint(folder, run, training, step, edit)
            if wants_downstream:
                say(f"Fine-tuning from step {step}.")
                table = downstream_tables(training.model, training.benchmarks.downstream, f"{run.name}, step {step}")
                write_table(table, place / DOWNSTREAM)
    record: dict[str, Any] = {"facts": run.facts(), "finished": True, "seconds": round(time.monotonic() - start, 1)}
    write_json(folder.run(run.name) / RUN_RECORD, record)
    return f"{len(run.recipe.looked_at)} checkpoints measured."


def _measure_checkpoint(folder: StudyFolder, run: TradeoffRun, training: _Training, step: int, edit: WeightEdit) -> None:
    place, model = checkpoint_folder(folder, run, step), training.model
    now = measure_state(model, training.benchmarks, run.recipe, f"{run.name}, step {step}")
    named = Step(
        run=f"{run.name} step {step}", seed=run.seed, stage_name=f"{run.arm} {step}", state_before=model.base_hash,
        state_after=model.state_id,
    )
    drift = None if training.drift is None else training.drift.measure(model)
    ledger = checkpoint_ledger(training.base, now, named, drift)
    strata = read_table(base_folder(folder, run) / STRATA)
    figures = checkpoint_figures(training.benchmarks, training.base, now, ledger, strata, resamples=run.recipe.resamples)
    write_table(ledger, place / LEDGER)
    moved = {kind: run.strength * norm for kind, norm in distances(model, edit).items()}
    write_json(place / FIGURES, figures.record() | {"distance": moved, "state": model.state_id})


def _loaded(run: TradeoffRun, benchmarks: Benchmarks) -> Model:
    model = load(run.model_choice.ref, **{name: value for name, value in run.model_choice.arguments().items() if name != "name"})
    for benchmark in (*benchmarks.bias, benchmarks.general, benchmarks.neutral, *benchmarks.downstream):
        benchmark.check(model)
    return model
