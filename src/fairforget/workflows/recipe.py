"""A run as one file: every choice of a debiasing run in a checked, hashable form, from YAML, options and defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fairforget.errors import UsageError, nearest_names
from fairforget.settings import Settings, explain_validation

SHORT_FORMS = {"model": "ref", "method": "name", "train": "source"}
"""Field that a plain text stands for, where a section may be written as one."""


class ModelChoice(Settings):
    """Which model, and how it is loaded."""

    ref: str = "smollm2-135m"
    """Hub id, folder, .gguf file, adapter folder, or the name of a built-in model."""
    revision: str | None = None
    """Hub revision."""
    device: str = "auto"
    """auto, cpu, cuda, mps or a torch device."""
    dtype: str = "float32"
    """float32, bfloat16 or float16; scores are meant for float32."""
    prefix: str = "auto"
    """Token before the first one of a causal sequence: auto, bos, eos, none or an id."""
    load_in_4bit: bool = False
    """Quantise on load (bitsandbytes); LoRA only."""
    device_map: str | None = None
    """Handed to transformers, for models larger than one device."""
    scoring_dtype: Literal["auto", "bfloat16"] = "auto"
    """Arithmetic of scoring: the weights' own, or bfloat16 under autocast, with close items scored again in float32."""
    trust_remote_code: bool = False
    """Run code from the hub repository."""

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``fairforget.models.load``."""
        return self.model_dump(exclude={"ref"})


class MethodChoice(BaseModel):
    """A method by name, with its settings beside the name."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = "task-vector"
    """Name in ``fairforget list methods``."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that were given; the method checks them."""
        return dict(self.model_extra or {})


class TrainChoice(Settings):
    """What the method is trained on."""

    source: str = "starter"
    """starter, stereoset, bbq, winogender, edos, civil-comments, corpus, gap, stsb, qa:TASK, a file, or datasets:owner/name; where a recipe
    names none, the one that its method is made for."""
    stereoset_task: str = "intersentence"
    """intersentence, intrasentence or both."""
    columns: dict[str, str] = Field(default_factory=dict)
    """For a file of one's own: role (text, prompt, counterpart, partner, group, cluster) to column."""
    split: str = "train"
    """Split of a `datasets` id."""
    config: str | None = None
    """Configuration of a `datasets` id."""
    groups: tuple[str, ...] = ()
    """Only texts of these groups or domains, e.g. `[gender]` of StereoSet; all where none is named."""

    def arguments(self) -> dict[str, Any]:
        """What :func:`fairforget.data.training.training_source` takes beside the source."""
        return self.model_dump(exclude={"source"}) | {"columns": self.columns or None}


class Search(Settings):
    """The search for the strength, on the `select` part."""

    max_strength: float = Field(1.0, gt=0)
    """Largest strength tried; 1 is the change as found."""
    bisections: int = Field(5, ge=0, le=20)
    """Halvings of the interval in the search for the largest strength within the budget."""
    points: int = Field(5, ge=2, le=50)
    """Even strengths from 0 to that one at which the target is measured."""
    rule: Literal["target", "budget"] = "target"
    """`target` = the smallest strength whose distance from neutral is within one standard error of the least; `budget` = the largest
    strength within the budget, so that methods are compared at equal cost."""
    strength: float | None = Field(None, gt=0)
    """Take this strength as it is, in place of a search."""


class Guard(Settings):
    """What ends a training run early, looked at on the `select` part; methods that train toward the bias to subtract it are not watched."""

    looks: int = Field(3, ge=0, le=1000)
    """Looks spread evenly over the training; 0 for none."""
    perplexity: bool = True
    """Stop when perplexity is over the budget."""
    reversal: bool = True
    """Stop when the target has crossed neutral; only where the base is more than 2 standard errors away from it."""


class Account(Settings):
    """What is told of the texts behind a run, before and after: see ``workflows.text_account``."""

    texts: int = Field(64, ge=0, le=10_000)
    """Texts of each set (trained on, held out, counterparts of both, neutral) whose likelihood is measured; 0 leaves the account out."""
    extraction: bool = False
    """Also the extraction likelihood of training texts (causal models): minutes on a processor."""


class BenchmarkChoice(Settings):
    """A benchmark by name and preset, with settings of its own."""

    name: str
    """Name or name:preset."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings that override those of the preset."""


class Recipe(Settings):
    """All choices of a debiasing run."""

    model: ModelChoice = ModelChoice()
    """The base model."""
    method: MethodChoice = MethodChoice()
    """The method and its settings."""
    train: TrainChoice = TrainChoice()
    """The training data."""
    benchmarks: tuple[BenchmarkChoice, ...] = (BenchmarkChoice(name="starter"), BenchmarkChoice(name="perplexity:starter"))
    """What is measured."""
    target: str | None = None
    """BENCHMARK:METRIC that the search brings toward neutral; the margin of the first bias benchmark by default."""
    budget: dict[str, float] = Field(default_factory=lambda: {"perplexity": 2.0})
    """What may be paid on `select`, in per cent of the base's perplexity."""
    search: Search = Field(default_factory=lambda: Search.model_validate({}))
    """How the strength is searched."""
    guard: Guard = Field(default_factory=lambda: Guard.model_validate({}))
    """What ends a training run early."""
    account: Account = Field(default_factory=lambda: Account.model_validate({}))
    """What is told of the texts behind the run."""
    seed: int = Field(0, ge=0)
    """Seed of training and resampling."""
    resamples: int = Field(10_000, ge=200)
    """Bootstrap resamples of every interval."""

    @field_validator("benchmarks", mode="before")
    @classmethod
    def _names_do(cls, value: Any) -> Any:
        """Plain names, a comma-separated text, and name: settings pairs are benchmarks too."""
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, Sequence):
            return tuple({"name": entry} if isinstance(entry, str) else entry for entry in value)  # type: ignore[union-attr]
        return value

    @field_validator("model", mode="before")
    @classmethod
    def _ref_does(cls, value: Any) -> Any:
        return {"ref": value} if isinstance(value, str) else value

    @field_validator("method", mode="before")
    @classmethod
    def _method_name_does(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("train", mode="before")
    @classmethod
    def _source_does(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @field_validator("budget", mode="before")
    @classmethod
    def _percent(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = dict(part.split("=", 1) for part in value.split(",") if "=" in part)
        if isinstance(value, Mapping):
            return {str(key): _percentage(entry) for key, entry in value.items()}  # type: ignore[union-attr]
        return value

    @model_validator(mode="after")
    def _known_budget(self) -> Recipe:
        for name, percent in self.budget.items():
            if name != "perplexity":
                raise ValueError(f"a budget is written perplexity=2%, and '{name}' is not a thing that can be budgeted")
            if percent < 0:
                raise ValueError("the budget must not be negative")
        if not self.benchmarks:
            raise ValueError("at least one benchmark is needed")
        return self


def _percentage(value: Any) -> Any:
    return value.strip().removesuffix("%").strip() if isinstance(value, str) else value


OTHER_RECIPES: Mapping[frozenset[str], tuple[str, str]] = {
    frozenset({"axes"}): ("a study", "study"), frozenset({"arms"}): ("a trade-off study", "study"),
    frozenset({"tasks", "paths"}): ("a chain", "chain"),
}
"""Fields by which the files of other commands are told: what such a file is, and the command that takes it."""


def parse_recipe(values: Mapping[str, Any], where: str = "recipe", lines: Mapping[tuple[str, ...], int] | None = None) -> Recipe:
    """Check values against the recipe's and the method's settings.

    Args:
        values: nested values.
        where: file or option that they were written in, for messages.
        lines: line of each field in the file.

    Raises:
        UsageError: a field that there is not, or a wrong value; with field, line and what is allowed.
    """
    from fairforget.methods import method_registry

    for fields, kind in OTHER_RECIPES.items():
        if fields <= set(values):
            raise UsageError(f"{where} is {kind[0]}, not the recipe of one run: `fairforget {kind[1]} {where} --dry-run` checks it.")
    try:
        recipe = Recipe.model_validate(dict(values))
    except ValidationError as error:
        raise explain_validation(error, Recipe, _place(where, lines, error)) from error
    try:
        method = method_registry().get(recipe.method.name)
    except UsageError as error:
        raise UsageError(f"{_line(where, lines, ('method', 'name'))}: {error}") from error
    if "train" not in values:
        recipe = recipe.model_copy(update={"train": TrainChoice(source=method.default_source)})
    try:
        full = method.settings_class.model_validate(recipe.method.settings)
    except ValidationError as error:
        place = _place(where, lines, error, ("method",))
        raise explain_validation(error, method.settings_class, f"{place}, method {recipe.method.name}") from error
    return recipe.model_copy(update={"method": MethodChoice(name=recipe.method.name, **full.model_dump(mode="json"))})


def _place(where: str, lines: Mapping[tuple[str, ...], int] | None, error: ValidationError, above: tuple[str, ...] = ()) -> str:
    return _line(where, lines, (*above, *(str(part) for part in error.errors()[0]["loc"])))


def _line(where: str, lines: Mapping[tuple[str, ...], int] | None, path: tuple[str, ...]) -> str:
    """The file, and the line of a field or of the nearest one above it."""
    while lines and path:
        if path in lines:
            return f"{where}, line {lines[path]}"
        path = path[:-1]
    return where


def read_recipe(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """Values of a YAML recipe and the line of every field.

    Raises:
        UsageError: the file is missing, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The recipe {path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{line}: this is not YAML ({getattr(error, 'problem', error)}).") from error
    if not isinstance(values, dict):
        raise UsageError(f"The recipe {path} must be a mapping of fields ({', '.join(Recipe.model_fields)}).")
    lines: dict[tuple[str, ...], int] = {}

    def walk(part: Any, above: tuple[str, ...]) -> None:
        if isinstance(part, yaml.MappingNode):
            for key, value in part.value:
                here = (*above, str(key.value))
                lines[here] = key.start_mark.line + 1
                walk(value, here)
        elif isinstance(part, yaml.SequenceNode):
            for index, value in enumerate(part.value):
                lines[(*above, str(index))] = value.start_mark.line + 1
                walk(value, (*above, str(index)))

    walk(node, ())
    return values, lines


def is_recipe(path: Path, recipe: Recipe) -> bool:
    """Whether a file holds this recipe: fields that it lacks are at their defaults."""
    try:
        values, lines = read_recipe(path)
        return parse_recipe(values, str(path), lines) == recipe
    except UsageError:
        return False


def apply_settings(values: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Put ``a.b=value`` settings into nested values; the value is read as YAML (numbers may be written 2e-4).

    Raises:
        UsageError: a setting without ``=``, or into something that is not a mapping.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise UsageError(f"--set {setting}: write it as field=value, e.g. --set method.learning_rate=2e-4.")
        *above, last = path.strip().split(".")
        if above and above[0] not in Recipe.model_fields:
            raise UsageError(f"--set {setting}: there is no field '{above[0]}'; {nearest_names(above[0], Recipe.model_fields)}")
        place = values
        for part in above:
            inner: Any = place.setdefault(part, {})
            if isinstance(inner, str) and place is values:
                inner = {SHORT_FORMS.get(part, "name"): inner}
                place[part] = inner
            if not isinstance(inner, dict):
                raise UsageError(f"--set {setting}: '{part}' has no fields to set.")
            place = cast("dict[str, Any]", inner)
        place[last] = _scalar(text)
    return values


def choices_with_settings(names: Sequence[str], settings: Sequence[str]) -> list[BenchmarkChoice]:
    """Benchmarks by name with ``NAME.FIELD=VALUE`` settings; the value is read as YAML.

    Args:
        names: as after ``--benchmarks``.
        settings: each of a named benchmark, by its name with or without the preset.

    Raises:
        UsageError: a setting of another form, or of a benchmark that is not named.
    """
    given: dict[str, dict[str, Any]] = {name: {} for name in names}
    for setting in settings:
        path, equals, text = setting.partition("=")
        wanted, dot, field = path.strip().rpartition(".")
        if not (equals and dot and wanted and field):
            raise UsageError(f"--set {setting}: write it as benchmark.field=value, e.g. --set bbq.category=Age.")
        found = [name for name in names if wanted in (name, name.partition(":")[0])]
        if not found:
            near = nearest_names(wanted, [name.partition(":")[0] for name in names])
            raise UsageError(f"--set {setting}: '{wanted}' is not among the benchmarks; {near} (of a suite, name it beside the suite)")
        for name in found:
            given[name][field] = _scalar(text)
    return [BenchmarkChoice(name=name, settings=values) for name, values in given.items()]


def _scalar(text: str) -> Any:
    try:
        return float(text) if "e" in text.lower() and text.strip()[0] in "+-.0123456789" else yaml.safe_load(text)
    except (ValueError, IndexError, yaml.YAMLError):
        return text


def recipe_yaml(recipe: Recipe) -> str:
    """The full resolved recipe as YAML that :func:`read_recipe` reads back."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
