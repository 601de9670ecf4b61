"""What a chain measures beside its audits: curvature and attribution of the first stage's loss, and how fast a lost task comes back."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from fairforget.benchmarks import Benchmark
from fairforget.data.training import TrainingSource, TrainingText
from fairforget.edits import Edit, load_edit
from fairforget.edits.carried import carried
from fairforget.files import write_json
from fairforget.methods import method_registry
from fairforget.models import Model
from fairforget.tables import write_table
from fairforget.training.streams import answer_row
from fairforget.workflows.audit import measure
from fairforget.workflows.chain_recipe import ChainRecipe, Relearning
from fairforget.workflows.chain_stages import TUNING, even_draw
from fairforget.workflows.curvature import CurvatureSettings, measure_curvature
from fairforget.workflows.loss_rows import GroupedRow

SPECTRUM, STEP, RELEARNED = "curvature", "step", "relearning.parquet"
"""Folders and file in the folder of a state: the spectrum where a stage ended, the step of the next one, and relearning."""

RECORD = "curvature.json"
"""The record of a spectrum or a step, written last."""


def spectrum_left(folder: Path) -> bool:
    """Whether the spectrum of a state is still to be measured."""
    return not (folder / SPECTRUM / RECORD).exists()


def step_left(folder: Path) -> bool:
    """Whether the step that led to a state is still to be measured."""
    return not (folder / STEP / RECORD).exists()


def question_rows(model: Model, texts: Sequence[TrainingText], most: int, max_length: int, seed: int) -> list[GroupedRow]:
    """At most so many of the questions that a stage was taught with, as rows of its loss; those that are too long are left out."""
    drawn = even_draw(texts, most, seed, 11)
    rows = [(answer_row(model, row.prompt, row.text), row.groups) for row in drawn]
    limit = min(max_length, model.max_length)
    return [(row, groups) for row, groups in rows if row is not None and len(row["ids"]) <= limit]


def measure_spectrum(model: Model, rows: Sequence[GroupedRow], recipe: ChainRecipe, folder: Path) -> None:
    """Curvature of the loss on `rows` at the present weights."""
    settings = CurvatureSettings.model_validate({"nodes": 0, **recipe.probe})
    measure_curvature(model, rows, settings=settings, out=folder / SPECTRUM)


def measure_step(model: Model, rows: Sequence[GroupedRow], edit: Edit, recipe: ChainRecipe, folder: Path) -> None:
    """What an edit makes of the loss on `rows` from the present weights on: to second order, by group, and by module."""
    settings = CurvatureSettings.model_validate({**recipe.probe, "vectors": 0, **({} if recipe.attribution else {"nodes": 0})})
    measure_curvature(model, rows, edit=edit, settings=settings, out=folder / STEP)


def relearn(
    model: Model, recipe: ChainRecipe, wanted: Relearning, rows: TrainingSource, benchmark: Benchmark, edits: Sequence[tuple[Path, float]],
    seed: int, folder: Path,
) -> None:
    """Learn a task for more and more steps, from the end of a path and from the base, and write how well it is answered then.

    Args:
        model: the base.
        recipe: of the chain.
        wanted: what is asked.
        rows: questions of the task that the chain taught.
        benchmark: that asks the task.
        edits: folders and strengths of the edits that lead to the end of the path.
        seed: of the run.
        folder: where the table goes.
    """
    found: list[pl.DataFrame] = []
    kind = method_registry().get(TUNING)
    for start, carry in (("end of the path", edits), ("base", ())):
        with contextlib.ExitStack() as stack:
            for place, strength in carry:
                stack.enter_context(carried(model, load_edit(place).at(strength)))
            for steps in (0, *wanted.steps):
                cached = folder / "relearning" / f"{start.replace(' ', '-')}-{steps}.parquet"
                if not cached.exists():
                    with contextlib.ExitStack() as tuned:
                        if steps:
                            settings = kind.settings_class.model_validate({**recipe.tuning, "steps": steps, "scheduler": "constant"})
                            edit = kind(settings).fit(model, rows, seed=seed)
                            tuned.enter_context(edit.applied(model))
                        words = f"seed {seed}: {wanted.task} after {steps} steps from {start}"
                        table = measure(model, [benchmark], "test", f"auditing {words}")[0]
                    scores = table.filter(pl.col("correct").is_not_null())
                    row = {
                        "seed": seed, "start": start, "steps": steps, "n": scores.height, "correct": scores["correct"].mean(),
                        "nll": scores["nll"].mean(),
                    }
                    write_table(pl.DataFrame([row]), cached)
                found.append(pl.read_parquet(cached))
    write_table(pl.concat(found), folder / RELEARNED)
    write_json(folder / "relearning" / "wanted.json", wanted.model_dump(mode="json"))
