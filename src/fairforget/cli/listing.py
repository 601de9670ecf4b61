"""``fairforget list``: what there is, by name."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairforget.cli.terminal import print_table

if TYPE_CHECKING:
    from fairforget.benchmarks import Benchmark

NAME = "list"


class Things(StrEnum):
    """What can be listed."""

    METHODS = "methods"
    BENCHMARKS = "benchmarks"
    SUITES = "suites"
    DATASETS = "datasets"
    MODELS = "models"


def command(things: Annotated[Things, typer.Argument(help="What to list.", show_default=False)]) -> None:
    """List methods, benchmarks, suites of them, datasets or built-in models by name."""
    {
        Things.METHODS: _methods, Things.BENCHMARKS: _benchmarks, Things.SUITES: _suites, Things.DATASETS: print_datasets,
        Things.MODELS: _models,
    }[things]()


def _methods() -> None:
    from fairforget.methods import method_registry

    registry = method_registry()
    methods = [registry.get(name) for name in registry.names()]
    print_table(
        ["method", "models", "what it does", "source"],
        [[method.name, ", ".join(sorted(method.families)), method.summary, method.source] for method in methods],
    )


def _benchmarks() -> None:
    from fairforget.benchmarks import registry

    kinds = [registry.get(name) for name in registry.names()]
    print_table(
        ["benchmark", "models", "presets (name:preset)", "what it measures"],
        [[kind.name, ", ".join(sorted(kind.families)), _presets(kind), kind.description] for kind in kinds],
    )


def _presets(kind: type[Benchmark]) -> str:
    return f"any {kind.text_setting}" if kind.text_setting else ", ".join(kind.presets) or "–"


def _suites() -> None:
    from fairforget.benchmarks import get_suite, suite_names

    def words(name: str, settings: Mapping[str, Any]) -> str:
        return name + (f" ({', '.join(f'{key}={value}' for key, value in settings.items())})" if settings else "")

    suites = [get_suite(name) for name in suite_names()]
    print_table(
        ["suite", "models", "benchmarks", "what it is for"],
        [
            [suite.name, family, ", ".join(words(*entry) for entry in suite.of(family)), suite.description]
            for suite in suites for family in suite.entries
        ],
    )


def print_datasets() -> None:
    """Print the catalogue, and what of it is on this machine."""
    from fairforget.data.catalogue import dataset_names, get_dataset
    from fairforget.workflows.availability import dataset_place

    rows = [
        [name, f"{entry.rows:,} {entry.rows_unit}", entry.licence, dataset_place(entry), entry.description]
        for name, entry in ((name, get_dataset(name)) for name in dataset_names())
    ]
    print_table(["dataset", "rows", "licence", "here", "what it is"], rows)


def _models() -> None:
    from fairforget.models import builtin_models

    print_table(
        ["model", "family", "licence", "what it is"],
        [[model.name, model.family, model.licence, model.description] for model in builtin_models()],
    )
