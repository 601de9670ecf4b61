"""The study of the trade-off as one file: arms x sizes x seeds (x mitigations), and what is measured at each checkpoint of a training."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fairforget.benchmarks import Benchmark
from fairforget.errors import UsageError, nearest_names
from fairforget.methods import method_registry
from fairforget.methods._base import Method
from fairforget.methods._trained import TrainedMethod
from fairforget.settings import Settings, explain_validation
from fairforget.workflows.audit import resolve_choices
from fairforget.workflows.base_audit import settings_of
from fairforget.workflows.recipe import BenchmarkChoice, MethodChoice, ModelChoice, TrainChoice, apply_settings, read_recipe

KNOWN_ARMS: Mapping[str, Mapping[str, Any]] = {
    "cda0": {"method": "cda", "sides": "control"},
    "cda1": {"method": "cda", "sides": "one"},
    "cda2": {"method": "cda", "sides": "two"},
    "anti": {"method": "anti"},
    "gap": {"method": "gap", "retain": "none"},
    "js2": {"method": "js2", "retain": "none"},
}
"""Arms by name. No arm holds the model on other text, so that they differ in the objective alone; what does is a mitigation."""

CONTROL = "cda0"
"""The same sentences without any swap: what tuning on such text does by itself."""
PLAIN = "plain"
"""An arm without any mitigation."""
STRENGTH = "strength"
"""Field of a mitigation that is no setting of a method: how much of the edit is applied (WiSE)."""
SHORT_WINDOWS: Mapping[str, int] = {"masked_context": 64, "context": 64}
"""Windows in which a group word is rare enough that there are strata; nearly every window of 512 tokens names someone."""
_LOG_STEPS = (1, 3)
"""Log-spaced steps: these times powers of ten."""

Place = Callable[[str, str], str]
"""Says where an arm or a mitigation was written, from ``"arms"`` or ``"mitigations"`` and its name."""


class Variant(BaseModel):
    """An arm or a mitigation: its name, and the method settings that it sets."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(min_length=1, pattern=r"^[\w.+]+$")
    """How tables and pages call it."""

    @property
    def fields(self) -> dict[str, Any]:
        """The settings that it sets."""
        return dict(self.model_extra or {})


class ModelEntry(ModelChoice):
    """A model of the study."""

    name: str = ""
    """How tables call it and what `{model}` stands for; by default its `ref`."""


class Strata(Settings):
    """Words that cut the general text into strata: without a group word, with one of a target axis, with one of another axis only."""

    target: tuple[str, ...] = ("gender",)
    """Word lists of the axes that are debiased: `gender`, `race`, `religion`, `nationality`, or files with rows of words."""
    other: tuple[str, ...] = ("race", "religion", "nationality")
    """Word lists of other axes."""
    organism: str | None = None
    """Folder of an organism, whose domains give both lists in place of these: those of `forget.jsonl` are the target."""


class TradeoffRecipe(Settings):
    """All choices of the study. In every text `{seed}`, `{model}` (its name) and `{folder}` are filled in, run by run."""

    folder: str = "."
    """What `{folder}` stands for."""
    models: tuple[ModelEntry, ...] = Field((ModelEntry(ref="minilm-mlm"),), min_length=1)
    """Models; a text is the `ref` of one. Each is a study of its own in the tables."""
    train: TrainChoice = TrainChoice(source="corpus")
    """The training texts; those without a counterpart of their own get one by exchanging `words`."""
    words: str = "gender"
    """Word list of that exchange; texts that hold none of its words are left out."""
    arms: tuple[Variant, ...] = Field(tuple(Variant(name=name) for name in KNOWN_ARMS), min_length=1)
    """Objectives: `cda0`, `cda1`, `cda2`, `anti`, `gap`, `js2`, with method settings beside the `name`; other names with a `method`."""
    method: dict[str, Any] = Field(default_factory=dict)
    """Method settings that all arms share."""
    mitigations: tuple[Variant, ...] = ()
    """Ways against forgetting: named method settings over those of an arm; `strength` is how much of the edit is applied (WiSE)."""
    mitigated: tuple[str, ...] = ("cda2",)
    """Arms that are run under every mitigation too."""
    sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field((100, 1000), min_length=1)
    """Numbers of training texts; a smaller draw is a part of a larger one."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0, 1), min_length=1)
    """Of the draws and the trainings."""
    steps: int = Field(300, ge=2)
    """Optimiser steps of a training, the same for every size."""
    checkpoints: tuple[int, ...] = ()
    """Steps at which it is looked at, and the base (0); by default 10, 30, 100, 300 ... up to `steps`."""
    bias: tuple[BenchmarkChoice, ...] = Field(
        (BenchmarkChoice(name="stereoset:intrasentence"), BenchmarkChoice(name="crows-pairs")), min_length=1
    )
    """Bias benchmarks; paths are walked along the margin shift of the first one's first task."""
    general: BenchmarkChoice = BenchmarkChoice(name="perplexity:wikitext2", settings={"max_tokens": 1000, **SHORT_WINDOWS})
    """Running text of overall forgetting: `perplexity` with its settings."""
    neutral: BenchmarkChoice = BenchmarkChoice(name="perplexity:starter", settings={"max_tokens": 500, **SHORT_WINDOWS})
    """Running text of neutral forgetting: `perplexity` on another text."""
    neutral_part: Literal["test", "select"] = "test"
    """Part of it that is measured."""
    strata: Strata = Field(default_factory=lambda: Strata.model_validate({}))
    """Strata of the general text."""
    downstream: tuple[BenchmarkChoice, ...] = ()
    """What a copy is fine-tuned on from the checkpoints of `downstream_at`, e.g. `fine-tune:stsb`, or any benchmark of ability."""
    downstream_at: tuple[int, ...] = ()
    """Checkpoints that are fine-tuned from; the last one by default."""
    drift_positions: int = Field(200, ge=0)
    """Places of the general text at which KL(base || tuned) over the vocabulary is taken; 0 for none."""
    matched: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field((0.5, 0.8), min_length=1)
    """Where arms are compared at equal bias: shares of the margin shift that both mostly reach."""
    least_benefit: float = Field(0.2, gt=0, lt=1)
    """Smallest benefit of a mitigation that counts, as a share of what the plain arm lost at the same bias."""
    resamples: int = Field(2000, ge=200)
    """Bootstrap resamples of every interval."""
    keep_edits: bool = False
    """Keep the edit of every checkpoint; a fully tuned one takes the room of a whole model."""

    @field_validator("models", mode="before")
    @classmethod
    def _refs_do(cls, value: Any) -> Any:
        return _listed(value, "ref")

    @field_validator("arms", "mitigations", "bias", "downstream", mode="before")
    @classmethod
    def _names_do(cls, value: Any) -> Any:
        return _listed(value, "name")

    @field_validator("general", "neutral", mode="before")
    @classmethod
    def _name_does(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("train", mode="before")
    @classmethod
    def _source_does(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _goes_together(self) -> TradeoffRecipe:
        for field, names in (
            ("arms", [arm.name for arm in self.arms]), ("mitigations", [PLAIN, *(one.name for one in self.mitigations)]),
            ("models", [label(model) for model in self.models]), ("sizes", self.sizes), ("seeds", self.seeds),
            ("checkpoints", self.checkpoints), ("mitigated", self.mitigated), ("matched", self.matched),
        ):
            if len(set(names)) < len(names):
                raise ValueError(f"`{field}` names something twice, or a mitigation `{PLAIN}`, which is there anyhow")
        wrong = next((step for step in self.checkpoints if step == 1 or not 0 <= step <= self.steps), None)
        if wrong is not None:
            raise ValueError(f"checkpoint {wrong} is not 0 or from 2 to {self.steps} (after one step of a warm-up nothing has moved)")
        stray = next((step for step in self.downstream_at if step not in self.looked_at), None)
        if stray is not None:
            raise ValueError(f"downstream_at names {stray}, which is no checkpoint ({', '.join(map(str, self.looked_at))})")
        unknown = next((name for name in self.mitigated if name not in [arm.name for arm in self.arms]), None)
        if self.mitigations and unknown is not None:
            raise ValueError(f"mitigated names '{unknown}', which is no arm of this study")
        return self

    @property
    def looked_at(self) -> tuple[int, ...]:
        """Steps of the checkpoints in their order, without the base."""
        chosen = {step for step in self.checkpoints if step} or {
            step for power in range(1, 8) for step in (first * 10**power for first in _LOG_STEPS) if step < self.steps
        } | {self.steps}
        return tuple(sorted(chosen))

    @property
    def tuned_from(self) -> tuple[int, ...]:
        """Steps of the checkpoints that are fine-tuned from."""
        return tuple(sorted(self.downstream_at or self.looked_at[-1:])) if self.downstream else ()


@dataclass(frozen=True)
class TradeoffRun:
    """One path: a training (or one at another strength) and its checkpoints.

    Attributes:
        name: of its folder.
        model: name of the model.
        arm: name of the objective.
        mitigation: ``plain``, or its name.
        size: number of training texts.
        seed: of the draw and the training.
        strength: how much of each edit is applied.
        method: with all its settings.
        recipe: of the study, with everything filled in for this model and seed.
    """

    name: str
    model: str
    arm: str
    mitigation: str
    size: int
    seed: int
    strength: float
    method: MethodChoice
    recipe: TradeoffRecipe

    @property
    def model_choice(self) -> ModelEntry:
        """How its model is loaded."""
        return self.recipe.models[0]

    @property
    def training(self) -> str:
        """Equal for runs that differ in the strength alone, and so share one training."""
        return f"{self.model} {self.size} {self.seed} {self.method.model_dump_json()}"

    def facts(self) -> dict[str, Any]:
        """What its tables are a function of, as JSON values."""
        measured = ("train", "words", "bias", "general", "neutral", "neutral_part", "strata", "downstream", "drift_positions", "resamples")
        chosen = resolved(self.recipe)
        # with their defaults, which another version may have changed
        settings = list(settings_of([*chosen.bias, chosen.general, chosen.neutral, *chosen.downstream]))
        steps = {"checkpoints": list(self.recipe.looked_at), "tuned_from": list(self.recipe.tuned_from), "settings": settings}
        own = {name: getattr(self, name) for name in ("model", "arm", "mitigation", "size", "seed", "strength")}
        made = {"model_choice": self.model_choice.model_dump(mode="json"), "method": self.method.model_dump(mode="json")}
        return {**own, **made, **steps, **self.recipe.model_dump(mode="json", include=set(measured))}


def label(model: ModelEntry) -> str:
    """How tables call a model."""
    return model.name or Path(model.ref).name


def read_tradeoff(path: Path, settings: Sequence[str] = ()) -> TradeoffRecipe:
    """Read the study from a YAML file.

    Args:
        path: the file.
        settings: ``field=value`` over its fields; the value is read as YAML.

    Raises:
        UsageError: a file that cannot be read, a field that there is not or a value that is not allowed, with its line.
    """
    values, lines = read_recipe(path)
    for setting in settings:
        name = setting.partition("=")[0].strip()
        if "=" not in setting or name not in TradeoffRecipe.model_fields:
            raise UsageError(f"--set {setting}: write it as field=value; {nearest_names(name, TradeoffRecipe.model_fields)}")
        values = apply_settings(values, [setting])
    try:
        recipe = TradeoffRecipe.model_validate(values)
    except ValidationError as error:
        raise explain_validation(error, TradeoffRecipe, _line(path, lines, error.errors()[0]["loc"])) from error
    places = {("arms", arm.name): ("arms", str(number)) for number, arm in enumerate(recipe.arms)}
    for number, one in enumerate(recipe.mitigations):
        places["mitigations", one.name] = ("mitigations", str(number))
    tradeoff_runs(recipe, lambda kind, name: _line(path, lines, places.get((kind, name), (kind,))))
    return recipe


def tradeoff_runs(recipe: TradeoffRecipe, place: Place = lambda kind, name: f"{kind}, {name}") -> list[TradeoffRun]:
    """All runs in the order models, arms, mitigations, sizes, seeds; every method and benchmark is checked.

    Args:
        recipe: the study.
        place: for messages.

    Raises:
        UsageError: an unknown arm, method, setting or benchmark.
    """
    runs: list[TradeoffRun] = []
    filled = {(number, seed): filled_in(recipe, number, seed) for number in range(len(recipe.models)) for seed in recipe.seeds}
    for one in filled.values():
        resolved(one)
    for number, place_of_arm in itertools.product(range(len(recipe.models)), range(len(recipe.arms))):
        names = recipe.mitigations if recipe.arms[place_of_arm].name in recipe.mitigated else ()
        for over, size, seed in itertools.product(range(1 + len(names)), recipe.sizes, recipe.seeds):
            own = filled[number, seed]
            arm, mitigation = own.arms[place_of_arm], own.mitigations[over - 1] if over else Variant(name=PLAIN)
            method, strength = _method(own, arm, mitigation, place)
            model = label(own.models[0])
            words = (*((model,) if len(recipe.models) > 1 else ()), arm.name, mitigation.name, f"n{size}", f"seed{seed}")
            name = re.sub(r"[^\w.+-]+", "_", "-".join(words)).strip("._-")
            runs.append(TradeoffRun(name, model, arm.name, mitigation.name, size, seed, strength, method, own))
    return runs


def resolved(recipe: TradeoffRecipe) -> Benchmarks:
    """The benchmarks of a recipe that is filled in.

    Raises:
        UsageError: an unknown one, or general or neutral text that is not `perplexity`.
    """
    return _resolved(recipe.model_dump_json(include={"bias", "general", "neutral", "downstream"}))


@functools.lru_cache(maxsize=64)
def _resolved(fields: str) -> Benchmarks:
    values = json.loads(fields)
    choices = {name: [BenchmarkChoice.model_validate(entry) for entry in values[name]] for name in ("bias", "downstream")}
    texts: list[Benchmark] = []
    for field in ("general", "neutral"):
        choice = BenchmarkChoice.model_validate(values[field])
        (benchmark,) = resolve_choices([choice])
        if benchmark.name != "perplexity":
            raise UsageError(f"`{field}` is running text, measured by perplexity, and {choice.name} is another benchmark.")
        texts.append(benchmark)
    downstream = resolve_choices(choices["downstream"]) if choices["downstream"] else []
    return Benchmarks(resolve_choices(choices["bias"]), texts[0], texts[1], downstream)


@dataclass(frozen=True)
class Benchmarks:
    """What is measured."""

    bias: list[Benchmark]
    general: Benchmark
    neutral: Benchmark
    downstream: list[Benchmark]


def filled_in(recipe: TradeoffRecipe, model: int, seed: int) -> TradeoffRecipe:
    """The recipe of one model and seed: ``{seed}``, ``{model}`` and ``{folder}`` in all texts are what they stand for."""
    chosen = recipe.models[model]
    values = recipe.model_dump(mode="json") | {"models": [chosen.model_dump(mode="json")]}
    filling = {"{seed}": str(seed), "{model}": label(chosen), "{folder}": recipe.folder}
    return TradeoffRecipe.model_validate(_filled(values, filling))


def tradeoff_yaml(recipe: TradeoffRecipe) -> str:
    """The study as YAML that :func:`read_tradeoff` reads back."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _method(recipe: TradeoffRecipe, arm: Variant, mitigation: Variant, where: Place) -> tuple[MethodChoice, float]:
    place = where("arms", arm.name)
    own = arm.fields
    known = KNOWN_ARMS.get(arm.name, {})
    name = own.pop("method", known.get("method"))
    if name is None:
        raise UsageError(f"{place}: the arm '{arm.name}' names no method; {nearest_names(arm.name, KNOWN_ARMS)}")
    values = {**{field: value for field, value in known.items() if field != "method"}, **recipe.method, **own, "steps": recipe.steps}
    over = mitigation.fields
    strength: Any = over.pop(STRENGTH, 1.0)
    if not isinstance(strength, int | float) or isinstance(strength, bool) or not strength > 0:
        raise UsageError(f"{where('mitigations', mitigation.name)}: {STRENGTH} = {strength!r} must be a number above 0.")
    try:
        kind = _method_class(str(name))
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from error
    if not issubclass(kind, TrainedMethod):
        raise UsageError(f"{place}: {name} is no method that trains on a loss, so it has no checkpoints to look at.")
    if mitigation.name != PLAIN:
        place = where("mitigations", mitigation.name)
    try:
        full = kind.settings_class.model_validate({**values, **over})
    except ValidationError as error:
        raise explain_validation(error, kind.settings_class, f"{place}, method {name}") from error
    return MethodChoice(name=str(name), **full.model_dump(mode="json")), float(strength)


@functools.cache
def _method_class(name: str) -> type[Method]:
    return method_registry().get(name)  # looks through all installed packages, and there may be hundreds of runs


def _filled(value: Any, filling: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for name, text in filling.items():
            value = value.replace(name, text)
        return value
    if isinstance(value, Mapping):
        return {key: _filled(entry, filling) for key, entry in cast("Mapping[str, Any]", value).items()}
    return [_filled(entry, filling) for entry in cast("list[Any]", value)] if isinstance(value, list) else value


def _listed(value: Any, key: str) -> Any:
    """Plain names among entries are entries with that name; a single one is a list of one."""
    if isinstance(value, str | Mapping):
        value = [value]
    if isinstance(value, Sequence):
        return tuple({key: entry} if isinstance(entry, str) else entry for entry in cast("Sequence[Any]", value))
    return value


def _line(path: Path, lines: Mapping[tuple[str, ...], int], location: Sequence[Any]) -> str:
    parts = tuple(str(part) for part in location)
    line = next((lines[parts[:end]] for end in range(len(parts), 0, -1) if parts[:end] in lines), None)
    return f"{path}, line {line}" if line else str(path)
