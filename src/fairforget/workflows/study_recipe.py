"""A study as one file: models x methods x settings x seeds x strengths over the fields of a debiasing recipe, as a list of cells."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fairforget.errors import UsageError, nearest_names
from fairforget.settings import Settings, explain_validation
from fairforget.workflows.plan import prepare
from fairforget.workflows.recipe import SHORT_FORMS, Recipe, parse_recipe, read_recipe
from fairforget.workflows.suites import refuse_suites

SEED, STRENGTH, REASON = "seed", "strength", "reason"
SEARCH: Literal["search"] = "search"
_RESERVED = (SEED, STRENGTH, REASON, "name", "cell")


class Variant(BaseModel):
    """One value of an axis: its name, and the recipe fields that it sets."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(min_length=1)
    """How tables and pages call it."""

    @property
    def fields(self) -> dict[str, Any]:
        """The recipe fields that it sets."""
        return dict(self.model_extra or {})


class StudyRecipe(Settings):
    """All choices of a study."""

    kind: Literal["frontier", "scaling"] = "frontier"
    """`scaling` also fits the change of bias and of log-perplexity against the size of the model."""
    base: dict[str, Any] = Field(default_factory=dict)
    """Fields of a debiasing recipe that all cells share."""
    axes: dict[str, tuple[Variant, ...]] = Field(default_factory=dict)
    """Named variants by axis; a cell takes one of each. The axes `model`, `method` and `train` may list plain names."""
    seeds: tuple[int, ...] | None = None
    """Seeds of training and resampling; that of `base` by default."""
    strengths: tuple[float | Literal["search"], ...] = (SEARCH,)
    """`search` finds the strength under the budget; numbers are taken as they are, from one and the same edit."""
    exclude: tuple[dict[str, Any], ...] = ()
    """Cells that are not run: values of axes (one or a list each), and the `reason`, which stands in the table."""
    against: dict[str, str] = Field(default_factory=dict)
    """Variant by axis that the others of that axis are compared with, item by item, all else alike: what does a term add to its method?"""
    keep_models: bool = False
    """Save the edited model of each cell; each takes the room of a whole model."""
    keep_edits: bool = True
    """Keep the edit of each cell."""

    @field_validator("axes", mode="before")
    @classmethod
    def _plain_names_do(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        axes = cast("Mapping[str, Any]", value)
        return {
            axis: tuple({"name": entry, axis: entry} if isinstance(entry, str) and axis in SHORT_FORMS else entry for entry in variants)
            if isinstance(variants, list | tuple) else variants
            for axis, variants in axes.items()
        }

    @field_validator("strengths", mode="before")
    @classmethod
    def _one_does(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | int | float) else value

    @model_validator(mode="after")
    def _names_are_told_apart(self) -> StudyRecipe:
        for axis, variants in self.axes.items():
            names = [variant.name for variant in variants]
            if axis in _RESERVED:
                raise ValueError(f"'{axis}' cannot be the name of an axis; it means something else in a study")
            if not names:
                raise ValueError(f"the axis '{axis}' has no variants")
            if len(set(names)) < len(names):
                raise ValueError(f"two variants of the axis '{axis}' have the same name")
        for axis, variant in self.against.items():
            if axis not in self.axes:
                raise ValueError(f"`against` names the axis '{axis}'; {nearest_names(axis, self.axes)}")
            names = [one.name for one in self.axes[axis]]
            if variant not in names:
                raise ValueError(f"`against` names '{variant}' on the axis '{axis}'; {nearest_names(variant, names)}")
        if self.seeds is not None and SEED in self.base:
            raise ValueError("give the seed in `base` or in `seeds`, not in both")
        for label, values in (("seeds", self.seeds), ("strengths", self.strengths)):
            if values is not None and (not values or len(set(values)) < len(values)):
                raise ValueError(f"`{label}` needs at least one value, each once")
        return self


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        name: of its folder.
        axes: name of its variant by axis.
        seed: of training and resampling.
        strength: a given one, or None for the search.
        recipe: of the run; None where the cell is excluded.
        excluded: why it is not run.
    """

    name: str
    axes: dict[str, str]
    seed: int
    strength: float | None
    recipe: Recipe | None
    excluded: str | None = None

    @property
    def configuration(self) -> str:
        """Its variants (and its strength where that was given) without the seed, for people."""
        words = list(self.axes.values()) or ["base"]
        return " · ".join([*words, *([f"strength {self.strength:g}"] if self.strength is not None else [])])

    @property
    def edit_key(self) -> tuple[tuple[str, str], ...]:
        """Equal for cells that differ in the strength alone, and so share one edit."""
        return (*self.axes.items(), (SEED, str(self.seed)))


def read_study(path: Path) -> StudyRecipe:
    """Read a study from a YAML file.

    Raises:
        UsageError: a file that cannot be read, a field that there is not or a value that is not allowed, with its line.
    """
    values, lines = read_recipe(path)
    try:
        return StudyRecipe.model_validate(values)
    except ValidationError as error:
        location = tuple(str(part) for part in error.errors()[0]["loc"])
        line = next((lines[location[:end]] for end in range(len(location), 0, -1) if location[:end] in lines), None)
        where = f"{path}, line {line}" if line else str(path)
        raise explain_validation(error, StudyRecipe, where) from error


def study_cells(study: StudyRecipe, where: str = "study") -> list[Cell]:
    """All cells, excluded ones too, in the order of the axes; every recipe is checked.

    Args:
        study: the study.
        where: what it was written in, for messages.

    Raises:
        UsageError: a cell's recipe is not valid, two cells have the same name, or an exclusion names what there is not.
    """
    _check_exclusions(study, where)
    seeds = study.seeds if study.seeds is not None else (int(study.base.get(SEED, 0)),)
    cells = [
        _cell(study, dict(zip(study.axes, chosen, strict=True)), seed, strength, where)
        for chosen in itertools.product(*study.axes.values())
        for seed in seeds
        for strength in study.strengths
    ]
    names = [cell.name.lower() for cell in cells]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{where}: two cells would be called {twice}: give the variants of its axes names that differ in their letters.")
    return cells


def _cell(study: StudyRecipe, chosen: Mapping[str, Variant], seed: int, strength: float | Literal["search"], where: str) -> Cell:
    axes = {axis: variant.name for axis, variant in chosen.items()}
    given = None if strength == SEARCH else float(strength)
    words = [*axes.values(), f"seed{seed}"]
    if study.strengths != (SEARCH,):
        words.append(SEARCH if given is None else f"strength{given:g}")
    name = re.sub(r"[^\w.+-]+", "_", "-".join(words)).strip("._-")
    facts = {**axes, SEED: str(seed), STRENGTH: SEARCH if given is None else f"{given:g}"}
    excluded = next((_reason(rule) for rule in study.exclude if _matches(rule, facts)), None)
    if excluded is not None:
        return Cell(name, axes, seed, given, None, excluded)
    values: dict[str, Any] = dict(study.base)
    for variant in chosen.values():
        values = merged_fields(values, variant.fields)
    values[SEED] = seed
    if given is not None:
        values = merged_fields(values, {"search": {STRENGTH: given}})
    place = f"{where}, cell {name}"
    recipe = parse_recipe(values, place)
    try:
        refuse_suites(recipe.benchmarks, "A study")
        prepare(recipe)
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from error
    return Cell(name, axes, seed, given, recipe)


def merged_fields(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Recipe fields with others put over them.

    A section (`model`, `method`, `train`, `search`) is set field by field, unless the new one names its thing (`method: pcgu`, or
    `method: {name: pcgu, ...}`): another method has other settings, so that none of the old one's are left. Other fields are replaced.
    """
    result = dict(values)
    for field, new in fields.items():
        old = result.get(field)
        key = SHORT_FORMS.get(field)
        if isinstance(old, str) and key is not None:
            old = {key: old}
        sections = key is not None or field == "search"
        if sections and isinstance(old, Mapping) and isinstance(new, Mapping) and key not in new:
            new = {**cast("Mapping[str, Any]", old), **cast("Mapping[str, Any]", new)}
        result[field] = new
    return result


def _values(rule: Mapping[str, Any], axis: str) -> list[str]:
    value: Any = rule[axis]
    return [_text(entry) for entry in (cast("list[Any]", value) if isinstance(value, list) else [value])]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _matches(rule: Mapping[str, Any], facts: Mapping[str, str]) -> bool:
    return all(facts[axis] in _values(rule, axis) for axis in rule if axis != REASON)


def _reason(rule: Mapping[str, Any]) -> str:
    return str(rule.get(REASON) or "left out by the recipe of the study")


def _check_exclusions(study: StudyRecipe, where: str) -> None:
    seeds = study.seeds if study.seeds is not None else (int(study.base.get(SEED, 0)),)
    known = {axis: [variant.name for variant in variants] for axis, variants in study.axes.items()}
    known |= {SEED: [str(seed) for seed in seeds], STRENGTH: [_text(strength) for strength in study.strengths]}
    for rule in study.exclude:
        if not set(rule) - {REASON}:
            raise UsageError(f"{where}: an exclusion that names no axis would exclude everything: name one ({', '.join(known)}).")
        for axis in rule:
            if axis == REASON:
                continue
            if axis not in known:
                raise UsageError(f"{where}: an exclusion names the axis '{axis}'; {nearest_names(axis, known)}")
            for value in _values(rule, axis):
                if value not in known[axis]:
                    raise UsageError(f"{where}: an exclusion names '{value}' on the axis '{axis}'; {nearest_names(value, known[axis])}")


def grouped(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Cells that share one edit, together, in the order of their first ones."""
    groups: dict[tuple[tuple[str, str], ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.edit_key, []).append(cell)
    return iter(groups.values())


def study_yaml(study: StudyRecipe) -> str:
    """The study as YAML that :func:`read_study` reads back."""
    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
