"""What a stage of a chain is trained on, and its edit."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from fairforget.benchmarks import Benchmark, resolve
from fairforget.data.training import TrainingSource, TrainingText, training_source
from fairforget.edits import Edit, load_edit
from fairforget.errors import DataError, FairforgetError, UsageError
from fairforget.files import write_text
from fairforget.methods import method_registry
from fairforget.methods._base import Method
from fairforget.models import Model
from fairforget.settings import explain_validation
from fairforget.workflows.chain_recipe import EARLIER, ChainRecipe, Stage, TaskChoice

STAGE_SEEDS = 1_000_003
"""What the seed of a stage is beyond that of the stage before it."""

TUNING = "answer-tuning"
"""The method that teaches tasks."""


def task_questions(name: str, task: TaskChoice, family: str, settings: Mapping[str, Any] | None = None) -> list[TrainingText]:
    """The questions of a task's `train` part, each with its right answer.

    Args:
        name: the task's name, for messages.
        task: the task.
        family: of the model.
        settings: of the benchmark, over those of the task.

    Raises:
        UsageError: the benchmark has no part to train on, or its items are no questions with a right answer.
    """
    benchmark = resolve(task.benchmark.name, {**task.benchmark.settings, **(settings or {})}, f"task '{name}'")
    items = benchmark.items(family, "train")
    if not items:
        raise UsageError(f"The task '{name}' cannot be taught: {benchmark.name} has no `train` part. Choose a task that has one.")
    rows: list[TrainingText] = []
    for item in items:
        context, right = item.payload.get("context"), item.payload.get("right")
        if not isinstance(context, str) or not isinstance(right, int):
            raise UsageError(f"The task '{name}' cannot be taught: items of {benchmark.name} are no prompts with options and a right one.")
        prompt = context + item.payload.get("separator", " ")
        rows.append(TrainingText(text=item.texts[right], groups=item.groups, cluster=item.cluster, prompt=prompt))
    return rows


def even_draw(rows: Sequence[TrainingText], most: int | None, *key: int) -> list[TrainingText]:
    """At most so many rows in their order, drawn by a key."""
    if most is None or most >= len(rows):
        return list(rows)
    chosen = np.random.default_rng([*key, most]).permutation(len(rows))[:most]
    return [rows[index] for index in sorted(chosen.tolist())]


def draw_by_group(rows: Sequence[TrainingText], count: int, draw: str, *key: int) -> list[TrainingText]:
    """So many rows: each first group by its share (largest remainders), as many of each, or regardless of groups.

    Args:
        rows: drawn from.
        count: how many, at least 1.
        draw: ``group``, ``balanced`` or ``plain``.
        *key: of the draw.
    """
    count = max(1, min(count, len(rows)))
    if draw == "plain":
        return even_draw(rows, count, *key)
    members: defaultdict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        members[row.groups[0] if row.groups else ""].append(index)
    generator = np.random.default_rng([*key, count])
    shuffled = {group: generator.permutation(inside).tolist() for group, inside in sorted(members.items())}
    wanted = {group: count / len(shuffled) if draw == "balanced" else count * len(inside) / len(rows) for group, inside in shuffled.items()}
    taken = {group: min(int(wanted[group]), len(shuffled[group])) for group in shuffled}
    for group in sorted(shuffled, key=lambda name: (int(wanted[name]) - wanted[name], name)) * 2:
        if sum(taken.values()) < count and taken[group] < len(shuffled[group]):
            taken[group] += 1
    while sum(taken.values()) < count:  # small groups are used up: the largest ones give more
        group = max(shuffled, key=lambda name: len(shuffled[name]) - taken[name])
        taken[group] += 1
    return [rows[index] for index in sorted(index for group, inside in shuffled.items() for index in inside[: taken[group]])]


class StageTrainer:
    """Fits the edits of a chain's stages.

    Args:
        recipe: of the chain.
        family: of the model.
    """

    def __init__(self, recipe: ChainRecipe, family: str) -> None:
        self.recipe, self.family = recipe, family
        self._questions: dict[str, list[TrainingText]] = {}

    def method(self, stage: Stage) -> Method:
        """The method of a stage with its settings, before paths are filled in.

        Raises:
            UsageError: a setting that there is not, or a value out of its range.
        """
        name = stage.method.name if stage.method else TUNING
        given = {**stage.method.settings, **stage.tuning} if stage.method else {**self.recipe.tuning, **stage.tuning}
        kind = method_registry().get(name)
        try:
            settings = kind.settings_class.model_validate({key: value for key, value in given.items() if value != EARLIER})
        except ValidationError as error:
            raise explain_validation(error, kind.settings_class, f"stage '{stage.title}'") from error
        return kind(settings)

    def fit(self, model: Model, path: Sequence[Stage], folders: Sequence[Path], seed: int) -> Edit:
        """The edit of the last stage of a path: read where it was finished before, else fitted, going on from checkpoints.

        Args:
            model: in the state that the stages before have led to.
            path: the stages up to this one.
            folders: of their files.
            seed: of the run.

        Raises:
            FairforgetError: the training diverged.
        """
        stage, folder = path[-1], folders[-1]
        kept = folder / "edit"
        if (kept / "edit.json").exists():
            return load_edit(kept)
        method = self._with_paths(self.method(stage), path, folders, seed)
        # stages of one seed must not begin with the same factors or pick the same half of the weights
        own = seed + STAGE_SEEDS * (len(path) - 1)
        work = folder / "work"
        edit = method.fit(model, self.training(path, seed), seed=own, folder=work)
        if edit.record.divergence:
            raise FairforgetError(
                f"seed {seed}: the stage '{stage.title}' diverged ({edit.record.divergence}), so what follows it would account for "
                f"something else: lower its learning_rate and run the chain again. What is finished is kept; {work} holds its checkpoints."
            )
        edit.save(kept)
        shutil.rmtree(work, ignore_errors=True)  # checkpoints with optimiser states, larger than everything else a state keeps
        return load_edit(kept)

    def training(self, path: Sequence[Stage], seed: int) -> TrainingSource:
        """What the last stage of a path is trained on."""
        stage = path[-1]
        if stage.method is not None:
            choice = stage.train
            if choice is None:
                return training_source(method_registry().get(stage.method.name).default_source)
            return training_source(choice.source, **choice.arguments())
        if stage.replay is not None:
            taught = self._taught(path[:-1], stage.replay, seed)
            rows = draw_by_group(taught, round(stage.share * len(taught)), stage.draw, seed, len(path))
            return self._source(stage.replay, rows, {"replayed": len(rows), "of": len(taught), "draw": stage.draw})
        assert stage.task is not None
        rows = self._drawn(stage.task, stage.settings, seed, len(path))
        facts: dict[str, Any] = {"questions": len(rows)}
        if stage.mix:
            whole, mixed = len(rows), list[TrainingText]()
            for number, (task, share) in enumerate(stage.mix.items()):
                mixed += draw_by_group(self._taught(path[:-1], task, seed), round(share * whole), stage.draw, seed, len(path), number)
            kept = even_draw(rows, whole - len(mixed), seed, len(path), 99)
            order = np.random.default_rng([seed, len(path), 98]).permutation(whole).tolist()
            rows = [[*kept, *mixed][index] for index in order]
            facts["mixed in"] = len(mixed)
        return self._source(stage.task, rows, facts)

    def loss_rows(self, path: Sequence[Stage], seed: int) -> list[TrainingText]:
        """The questions that the last stage of a path was taught with: what its curvature is measured on."""
        return [row for row in self.training(path, seed).texts if row.prompt]

    def _taught(self, before: Sequence[Stage], task: str, seed: int) -> list[TrainingText]:
        """The questions of a task that an earlier stage taught; a draw of its `train` part where none did."""
        for number, stage in enumerate(before, start=1):
            if stage.task == task:
                return self._drawn(task, stage.settings, seed, number)
        return self._drawn(task, {}, seed, 0)

    def _drawn(self, task: str, settings: Mapping[str, Any], seed: int, number: int) -> list[TrainingText]:
        key = json.dumps([task, settings], sort_keys=True)
        if key not in self._questions:
            self._questions[key] = task_questions(task, self.recipe.tasks[task], self.family, settings)
        return even_draw(self._questions[key], self.recipe.tasks[task].texts, seed, number)

    def _source(self, task: str, rows: Sequence[TrainingText], facts: Mapping[str, Any]) -> TrainingSource:
        if not rows:
            raise DataError(f"The task '{task}' gives no question to train on.")
        return TrainingSource(task, tuple(rows), {"source": task, "part": "train", "texts": len(rows), **facts})

    def _with_paths(self, method: Method, path: Sequence[Stage], folders: Sequence[Path], seed: int) -> Method:
        """The method with what stands for the earlier stages filled in: their questions, and the folders of their edits."""
        stage = path[-1]
        given = {**(stage.method.settings if stage.method else self.recipe.tuning), **stage.tuning}
        filled: dict[str, Any] = {}
        if given.get("retain_text") == EARLIER:
            earlier = [row for place in range(1, len(path)) for row in self.loss_rows(path[:place], seed)]
            if not earlier:
                raise UsageError(f"stage '{stage.title}': retain_text=earlier needs an earlier stage that taught questions.")
            file = folders[-1] / "earlier.jsonl"
            order = np.random.default_rng([seed, len(path), 97]).permutation(len(earlier)).tolist()  # a beginning is a fair sample
            lines = (json.dumps({"prompt": earlier[place].prompt, "answer": earlier[place].text}, ensure_ascii=False) for place in order)
            write_text(file, "\n".join(lines) + "\n")
            filled["retain_text"] = str(file)
        if given.get("orthogonal") and not given.get("orthogonal_to"):
            filled["orthogonal_to"] = [str(folder / "edit") for folder in folders[:-1] if (folder / "edit").is_dir()]
        if not filled:
            return method
        return type(method)(method.settings.model_copy(update=filled))


def check_stages(recipe: ChainRecipe, stages: Sequence[Stage], family: str) -> None:
    """Refuse stages that cannot be run, before anything is computed.

    Raises:
        UsageError: a setting that there is not, or a task that cannot be taught.
    """
    trainer = StageTrainer(recipe, family)
    for stage in stages:
        if not stage.nothing:
            trainer.method(stage)


def task_benchmarks(recipe: ChainRecipe) -> dict[str, Benchmark]:
    """The benchmark of each task.

    Raises:
        UsageError: an unknown benchmark, preset or setting.
    """
    return {name: resolve(task.benchmark.name, task.benchmark.settings, f"task '{name}'") for name, task in recipe.tasks.items()}
