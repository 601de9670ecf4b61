"""A recipe checked before it costs anything: fields, names, settings, data; no model is loaded and nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairforget.benchmarks import Benchmark, resolve, suite_names
from fairforget.benchmarks.file import FileBenchmark
from fairforget.data.catalogue import get_dataset
from fairforget.data.training import training_source, training_source_names
from fairforget.data.user_files import HUB_PREFIX
from fairforget.errors import FairforgetError
from fairforget.workflows.audit import resolve_choices
from fairforget.workflows.availability import ABSENT, DOWNLOAD, dataset_place
from fairforget.workflows.plan import prepare
from fairforget.workflows.recipe import Recipe, parse_recipe, read_recipe

_SOURCE_DATASETS = {"stereoset": "stereoset", "edos": "edos", "civil-comments": "civil-comments"}

Lines = Mapping[tuple[str, ...], int]


@dataclass(frozen=True)
class Validation:
    """What was found.

    Attributes:
        recipe: the resolved recipe.
        problems: sentences with file, line and field; none means that the recipe can be run.
        notes: what will be downloaded.
    """

    recipe: Recipe
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def validate_recipe(path: Path) -> Validation:
    """Check a recipe.

    Raises:
        UsageError: it is no recipe: not YAML, a field that there is not, a value of a wrong type or out of range.
    """
    values, lines = read_recipe(path)
    recipe = parse_recipe(values, str(path), lines)
    problems: list[str] = []
    notes: list[str] = []

    def problem(field: Sequence[str], error: FairforgetError | str) -> None:
        problems.append(f"{_place(path, lines, field)}, field {'.'.join(field)}: {error}")

    benchmarks: list[tuple[int, Benchmark]] = []
    sound = True
    for number, choice in enumerate(recipe.benchmarks):
        try:
            suite = choice.name in suite_names()
            found = resolve_choices([choice]) if suite else [resolve(choice.name, choice.settings, "settings")]
            benchmarks += [(number, benchmark) for benchmark in found]
            for benchmark in found:
                if isinstance(benchmark, FileBenchmark):
                    benchmark.items("causal", "all")
        except FairforgetError as error:
            sound = False
            problem(("benchmarks", str(number)), error)
    if sound:
        try:
            prepare(recipe)
        except FairforgetError as error:
            problem(("target",) if recipe.target is not None else ("benchmarks",), error)
    for number, benchmark in benchmarks:
        for name in benchmark.datasets:
            _check_dataset(name, ("benchmarks", str(number)), problem, notes)
    source = recipe.train.source
    if source in _SOURCE_DATASETS:
        _check_dataset(_SOURCE_DATASETS[source], ("train", "source"), problem, notes)
    elif source.startswith(HUB_PREFIX):
        notes.append(f"{source} will be downloaded by the datasets library, and is checked then.")
    if source not in _SOURCE_DATASETS and not source.startswith(HUB_PREFIX):
        try:
            training_source(source, **recipe.train.arguments())
        except FairforgetError as error:
            problem(("train", "source"), error)
    elif recipe.train.columns and source in training_source_names():
        problem(("train", "columns"), f"the training source '{source}' has fixed columns: leave them out, or give a file of your own.")
    return Validation(recipe, tuple(problems), tuple(dict.fromkeys(notes)))


def validate_benchmark(path: Path) -> str:
    """Check a YAML file that describes a benchmark, and the data file that it names.

    Returns:
        What is in it, in a sentence.

    Raises:
        UsageError: it is no description, or names a column role, setting or scorer that there is not.
        DataError: the data file is missing, damaged, lacks a column, or a row is not what the scorer needs.
    """
    benchmark = resolve(str(path))
    items = benchmark.items("causal", "all")
    groups = sorted({group for item in items for group in item.groups})
    named = f"{len(groups)} group{'s' * (len(groups) != 1)}" + (f" ({', '.join(groups)})" if groups else "")
    clusters, strata = ({getattr(item, field) for item in items} for field in ("cluster", "stratum"))
    tested = sum(1 for _ in benchmark.items("causal", "test"))
    return (
        f"{path} is valid: {benchmark.name}, {benchmark.settings.scorer}, {len(items)} items in {len(clusters)} clusters and {len(strata)} "
        f"{'strata' if len(strata) != 1 else 'stratum'}, {tested} of them in the test part; {named}."
    )


def describes_benchmark(path: Path) -> bool:
    """Whether a YAML file has the fields of a benchmark and not those of a recipe."""
    values, _ = read_recipe(path)
    return bool({"file", "scorer"} & set(values)) and not set(values) & set(Recipe.model_fields)


def _check_dataset(name: str, field: Sequence[str], problem: Any, notes: list[str]) -> None:
    place = dataset_place(get_dataset(name))
    if place == ABSENT:
        problem(field, f"the dataset '{name}' has files that cannot be downloaded: set FAIRFORGET_DATA to a folder that holds them.")
    elif place == DOWNLOAD:
        notes.append(f"The dataset '{name}' will be downloaded (fairforget data get {name} does it now).")


def _place(path: Path, lines: Lines, field: Sequence[str]) -> str:
    key = tuple(field)
    while key:
        if key in lines:
            return f"{path}, line {lines[key]}"
        key = key[:-1]
    return str(path)
