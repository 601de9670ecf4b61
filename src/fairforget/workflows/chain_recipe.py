"""A chain as one file: tasks, paths of stages over them, mitigations and seeds, checked before a model is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from fairforget.errors import nearest_names
from fairforget.settings import Settings, explain_validation
from fairforget.workflows.curvature import CurvatureSettings
from fairforget.workflows.recipe import BenchmarkChoice, MethodChoice, ModelChoice, TrainChoice, read_recipe

EARLIER = "earlier"
"""Value of a stage's `retain_text` that stands for the questions of the tasks taught before it."""

SEPARATOR = " > "

ITEMS, STATE, DRIFT = "items.parquet", "state.json", "drift.parquet"
"""Files in the folder of a state: its audit; its id, written after it; and how far it is from the state before."""


def strength_items(strength: float) -> str:
    """Name of the item table of a stage's edit at another strength."""
    return f"items-{strength:g}.parquet"


class TaskChoice(Settings):
    """What a stage can teach: a benchmark with questions, whose `train` part is taught and whose `test` part is audited."""

    benchmark: BenchmarkChoice
    """The benchmark, by name and preset, with settings of its own."""
    texts: int | None = Field(None, ge=1)
    """Questions that a stage is trained on, an even draw by the seed; None = all of the `train` part."""
    side: Literal["safety", "capability"] = "capability"
    """Which side of an order effect the task is on."""

    @field_validator("benchmark", mode="before")
    @classmethod
    def _name_does(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class Stage(Settings):
    """One tuning stage. Exactly one of `task`, `replay`, `method` and `nothing` says what it does."""

    task: str | None = None
    """Teach a task."""
    replay: str | None = None
    """Teach a share of a task that an earlier stage taught, once more."""
    method: MethodChoice | None = None
    """Debias, or change the model in any other way."""
    nothing: bool = False
    """Do nothing: what is forgotten must be nothing at all."""
    name: str | None = Field(None, min_length=1)
    """What tables and pages call it."""
    share: float = Field(0.05, gt=0, le=1)
    """With `replay`: share of the questions that the task was taught with."""
    draw: Literal["group", "balanced", "plain"] = "group"
    """How replayed or mixed questions are drawn: each group by its share of the questions, as many of each, or regardless of groups."""
    mix: dict[str, float] = Field(default_factory=dict)
    """With `task`: other tasks, whose questions take these shares of the stage's, in place of as many of its own (equal compute)."""
    tuning: dict[str, Any] = Field(default_factory=dict)
    """Settings of the tuning for this stage alone, over those of the chain."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """With `task`: settings of the benchmark for what is taught, e.g. `answers: text`; what is audited stays as it is."""
    train: TrainChoice | None = None
    """With `method`: what it is trained on."""
    strength: float = Field(1.0, ge=0)
    """Strength of the stage's edit in what follows; below 1 it is an interpolation of weights (WiSE)."""

    @field_validator("method", mode="before")
    @classmethod
    def _method_name_does(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("train", mode="before")
    @classmethod
    def _source_does(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @field_validator("share", mode="before")
    @classmethod
    def _percent_does(cls, value: Any) -> Any:
        return _share(value)

    @field_validator("mix", mode="before")
    @classmethod
    def _percents_do(cls, value: Any) -> Any:
        return {key: _share(entry) for key, entry in cast("Mapping[str, Any]", value).items()} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _does_one_thing(self) -> Stage:
        given = [name for name in ("task", "replay", "method") if getattr(self, name) is not None] + ["nothing"] * self.nothing
        if len(given) != 1:
            raise ValueError(f"a stage does one of task, replay, method and nothing, not {' and '.join(given) or 'none of them'}")
        if self.train is not None and self.method is None:
            raise ValueError("`train` goes with `method`; a task is trained on its own questions")
        if (self.mix or self.settings) and self.task is None:
            raise ValueError("`mix` and `settings` go with `task`")
        for task, share in self.mix.items():
            if not 0 < share < 1:
                raise ValueError(f"the share of '{task}' in a mix must be between 0 and 1")
        return self

    @property
    def title(self) -> str:
        """Its name, or what it does."""
        if self.name:
            return self.name
        if self.replay:
            return f"replay {self.share:.0%} {self.replay}" + (f" {self.draw}" if self.draw != "group" else "")
        return self.task or (self.method.name if self.method else "nothing")


class Relearning(Settings):
    """How fast a task that was forgotten comes back, beside how fast a model that never knew it learns it."""

    task: str
    """The task to be learned again."""
    steps: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 2, 4, 8, 16, 32), min_length=1)
    """Optimiser steps after which it is asked; each is a training of its own from the same state, at a constant rate."""
    share: float = Field(0.9, gt=0, le=1)
    """Share of what the task's stage had taught that counts as regained."""


class ChainRecipe(Settings):
    """All choices of a chain."""

    model: ModelChoice = ModelChoice()
    """The base model."""
    tasks: dict[str, TaskChoice] = Field(min_length=1)
    """What can be taught, by a name of your own. All tasks are audited after every stage."""
    benchmarks: tuple[BenchmarkChoice, ...] = ()
    """What is audited beside the tasks, e.g. perplexity."""
    tuning: dict[str, Any] = Field(default_factory=dict)
    """How tasks are taught: settings of the method answer-tuning."""
    paths: dict[str, tuple[Stage, ...]] = Field(min_length=1)
    """Paths of stages by name; a list of paths is named by its stages. A stage is a task's name, or a mapping. Paths that begin alike share
    their beginning."""
    mitigations: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Fields of a stage by name, e.g. `{kl: {tuning: {retain: kl}}}`: each makes a copy of the path `mitigate` with these fields in its
    second stage."""
    mitigate: str | None = None
    """The path whose second stage is mitigated; by default the first of two stages, else of more."""
    strengths: tuple[float, ...] = ()
    """Strengths below 1 at which the second stage of the mitigated path and of its copies is audited too, so that they can be compared
    where they taught equally much."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the training; items and intervals are the same for all."""
    drift_positions: int = Field(200, ge=0)
    """Places of the running text among `benchmarks` (`perplexity`), evenly, at which the distributions before and after every stage are
    compared (KL, nats); 0 leaves it out."""
    curvature: bool = False
    """Measure the curvature of the first stage's loss where it ended, and along what the second stage changed, where both are trained."""
    attribution: bool = False
    """Attribute what the second stage made of the first one's loss to modules, by group."""
    probe_rows: int = Field(64, ge=1)
    """Questions of the first stage, an even draw, that curvature and attribution are measured on."""
    probe: dict[str, Any] = Field(default_factory=dict)
    """How they are measured: settings of `fairforget curvature`, e.g. `{vectors: 20, scope: attention}`."""
    relearn: Relearning | None = None
    """Learn a forgotten task again, from the end of the mitigated path and from the base."""
    resamples: int = Field(10_000, ge=200)
    """Bootstrap resamples of every interval."""
    seed: int = Field(0, ge=0)
    """Seed of the resamples."""

    @field_validator("model", mode="before")
    @classmethod
    def _ref_does(cls, value: Any) -> Any:
        return {"ref": value} if isinstance(value, str) else value

    @field_validator("tasks", mode="before")
    @classmethod
    def _task_names_do(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        entries = cast("Mapping[str, Any]", value)
        return {name: {"benchmark": entry} if isinstance(entry, str) else entry for name, entry in entries.items()}

    @field_validator("benchmarks", mode="before")
    @classmethod
    def _names_do(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            entries = cast("Sequence[Any]", value)
            return tuple({"name": entry} if isinstance(entry, str) else entry for entry in entries)
        return value

    @field_validator("paths", mode="before")
    @classmethod
    def _plain_stages_do(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            paths = [_stages(path) for path in cast("Sequence[Any]", value)]
            return {SEPARATOR.join(Stage.model_validate(stage).title for stage in path): path for path in paths}
        if isinstance(value, Mapping):
            return {name: _stages(path) for name, path in cast("Mapping[str, Any]", value).items()}
        return value

    @model_validator(mode="after")
    def _names_are_known(self) -> ChainRecipe:
        for name, path in self.paths.items():
            if not path:
                raise ValueError(f"the path '{name}' has no stage")
            for stage in path:
                for task in filter(None, (stage.task, stage.replay, *stage.mix)):
                    self._known_task(task)
                for task in stage.mix:
                    if task == stage.task:
                        raise ValueError(f"'{task}' is mixed into its own stage")
            for number, stage in enumerate(path):
                if stage.replay and stage.replay not in {earlier.task for earlier in path[:number]}:
                    raise ValueError(f"the path '{name}' replays '{stage.replay}', which none of its earlier stages taught")
        if self.relearn is not None:
            self._known_task(self.relearn.task)
        self._probe_can_be_measured()
        if self.mitigate is not None and self.mitigate not in self.paths:
            raise ValueError(f"there is no path '{self.mitigate}'; {nearest_names(self.mitigate, self.paths)}")
        if (self.mitigations or self.strengths) and self.mitigated is None:
            raise ValueError("`mitigations` and `strengths` need a path of two or more stages")
        if any(not 0 < strength < 1 for strength in self.strengths):
            raise ValueError("`strengths` lie between 0 and 1; both ends are audited anyway")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("`seeds` needs at least one value, each once")
        return self

    def _probe_can_be_measured(self) -> None:
        if not self.probe:
            return
        try:
            settings = CurvatureSettings.model_validate(self.probe)
        except ValidationError as error:
            raise ValueError(str(explain_validation(error, CurvatureSettings, "`probe`"))) from error
        if self.curvature and settings.scope == "edit":
            raise ValueError("`probe`: the spectrum is measured before there is a step, so its scope cannot be `edit`; name modules")
        if self.curvature and not settings.vectors:
            raise ValueError("`probe`: `curvature` needs vectors of Lanczos, and `vectors` is 0")

    def _known_task(self, task: str) -> None:
        if task not in self.tasks:
            raise ValueError(f"there is no task '{task}'; {nearest_names(task, self.tasks)}")

    @property
    def mitigated(self) -> str | None:
        """Name of the path that mitigations are tried on."""
        long = [name for name, path in self.paths.items() if len(path) > 1]
        return self.mitigate or next((name for name in long if len(self.paths[name]) == 2), next(iter(long), None))


StageKey: TypeAlias = str
"""The stage as text, equal for stages that do the same."""


@dataclass
class Node:
    """A state that stages lead to: paths that begin alike meet in it.

    Attributes:
        stage: what was done to come here from the state before.
        folder: of its files, below the folder of the seed.
        children: the states that further stages lead to.
        strengths: further strengths of this stage's edit at which it is audited.
    """

    stage: Stage
    folder: Path
    children: dict[StageKey, Node]
    strengths: tuple[float, ...] = ()

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for child in self.children.values():
            yield from child.walk()


def all_paths(recipe: ChainRecipe) -> dict[str, tuple[Stage, ...]]:
    """Every path by name, those of mitigations too: ``PATH [MITIGATION]``.

    Raises:
        UsageError: a mitigation has a field that a stage has not.
    """
    paths = dict(recipe.paths)
    name = recipe.mitigated
    if name is None:
        return paths
    plain = recipe.paths[name]
    for title, fields in recipe.mitigations.items():
        given = plain[1].model_dump(exclude_unset=True)
        merged: dict[str, Any] = {**given, **fields, "name": fields.get("name", f"{plain[1].title} [{title}]")}
        merged["tuning"] = {**given.get("tuning", {}), **fields.get("tuning", {})}
        try:
            stage = Stage.model_validate(merged)
        except ValidationError as error:
            raise explain_validation(error, Stage, f"mitigation '{title}'") from error
        paths[f"{name} [{title}]"] = (plain[0], stage, *plain[2:])
    return paths


def stage_tree(recipe: ChainRecipe) -> tuple[dict[StageKey, Node], dict[str, list[Node]]]:
    """The states that the paths go through, shared where they begin alike.

    Returns:
        The first states by stage, and for each path its states in order.
    """
    roots: dict[StageKey, Node] = {}
    found: dict[str, list[Node]] = {}
    dialled = recipe.mitigated
    for name, path in all_paths(recipe).items():
        below, place, nodes = roots, Path(), list[Node]()
        for number, stage in enumerate(path):
            key = stage.model_dump_json(exclude={"name"})
            place = place / f"{number + 1}-{_slug(stage)}"
            if key not in below:
                below[key] = Node(stage, place, {})
            node = below[key]
            place = node.folder
            if number == 1 and dialled is not None and (name == dialled or name.startswith(f"{dialled} [")):
                node.strengths = tuple(sorted(recipe.strengths))
            nodes.append(node)
            below = node.children
        found[name] = nodes
    return roots, found


def read_chain(path: Path) -> ChainRecipe:
    """Read a chain from a YAML file.

    Raises:
        UsageError: a file that cannot be read, a field that there is not or a value that is not allowed, with its line.
    """
    values, lines = read_recipe(path)
    try:
        recipe = ChainRecipe.model_validate(values)
    except ValidationError as error:
        location = tuple(str(part) for part in error.errors()[0]["loc"])
        line = next((lines[location[:end]] for end in range(len(location), 0, -1) if location[:end] in lines), None)
        raise explain_validation(error, ChainRecipe, f"{path}, line {line}" if line else str(path)) from error
    all_paths(recipe)
    return recipe


def chain_yaml(recipe: ChainRecipe) -> str:
    """The chain as YAML that :func:`read_chain` reads back."""
    return yaml.safe_dump(recipe.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)


def _stages(path: Any) -> Any:
    if not isinstance(path, list | tuple):
        return path
    entries = cast("Sequence[Any]", path)
    return tuple({"nothing": True} if entry == "nothing" else {"task": entry} if isinstance(entry, str) else entry for entry in entries)


def _slug(stage: Stage) -> str:
    words = re.sub(r"[^\w.+-]+", "-", stage.title).strip("-")
    return f"{words}-{_digest(stage)}"


def _digest(stage: Stage) -> str:
    return Settings.digest(stage.model_copy(update={"name": None}))[:6]


def _share(value: Any) -> Any:
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return float(value.strip().removesuffix("%")) / 100
        except ValueError:
            return value
    return value
