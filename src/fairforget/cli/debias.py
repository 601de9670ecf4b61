"""``fairforget debias``: the main job, end to end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairforget.cli.loading import Loading, loads_model, short_name
from fairforget.cli.terminal import print_metrics, print_paths, print_verdict, say, working

if TYPE_CHECKING:
    from fairforget.workflows.recipe import Recipe

NAME = "debias"


@loads_model
def command(
    model: Annotated[
        str | None, typer.Argument(help="Hub id, folder, .gguf file, adapter folder or built-in name. [default: smollm2-135m]")
    ] = None,
    method: Annotated[str | None, typer.Option(help="See `fairforget list methods`. [default: task-vector]")] = None,
    train: Annotated[
        str | None,
        typer.Option(
            help="Training data: starter, stereoset, bbq, winogender, edos, civil-comments, corpus, gap, stsb, a file, or "
            "datasets:owner/name. [default: what the method is made for]"
        ),
    ] = None,
    benchmarks: Annotated[
        str | None,
        typer.Option(help="What is measured, as in audit: names, suites, files of your own. [default: starter,perplexity:starter]"),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="BENCHMARK:METRIC that the search brings toward neutral. [default: margin of the first bias benchmark]"),
    ] = None,
    budget: Annotated[str | None, typer.Option(help="What may be paid, e.g. perplexity=2%, or none. [default: perplexity=2%]")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. [default: runs/MODEL-METHOD]")] = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML file with any of these choices; --set and options go before it.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Set a recipe field, e.g. method.learning_rate=2e-4; repeatable."),
    ] = None,
    *,
    loading: Loading,
) -> None:
    """Debias a model within a budget, and account for everything that changed."""
    options = {"model": model, "method": method, "train": train, "benchmarks": benchmarks, "target": target, "budget": budget}
    chosen = resolve(recipe, settings or [], {name: value for name, value in options.items() if value is not None}, loading)
    place = out or Path("runs") / f"{short_name(chosen.model.ref)}-{chosen.method.name}"
    with working():
        from fairforget.workflows.debias import debias

        result = debias(recipe=chosen, out=place, say=say)
    print_verdict(result.verdict.headline, result.verdict.sentences)
    print_metrics(result.metrics)
    folder = result.folder
    saved = [("model", folder / "model")] if (folder / "model").is_dir() else []  # an edit may work at run time only
    place = folder / ("model" if saved else "edit")
    print_paths([
        ("page", folder / "report.html"), *saved, ("edit", folder / "edit"), ("tables", folder / "tables"), ("card", place / "README.md"),
    ])


def resolve(recipe: Path | None, settings: list[str], options: dict[str, str], loading: Loading) -> Recipe:
    """Merge a recipe file, ``--set`` and options, the later winning.

    Raises:
        UsageError: a field that there is not, or a value that is not allowed; with the file and line where it came from a file.
    """
    from fairforget.workflows.recipe import MethodChoice, apply_settings, parse_recipe, read_recipe

    values: dict[str, Any] = {}
    if recipe is not None:
        values, lines = read_recipe(recipe)
        parse_recipe(values, str(recipe), lines)  # on its own first: what is wrong with it is told with its lines
    shorthands = {"model": "ref", "method": "name", "train": "source"}
    for field, inner in shorthands.items():
        if isinstance(values.get(field), str):
            values[field] = {inner: values[field]}
    if options.get("method") not in (None, values.get("method", {}).get("name", MethodChoice().name)):
        values.pop("method", None)  # the recipe's settings are those of another method
    values = apply_settings(values, settings)
    for field, text in options.items():
        if field in shorthands:
            values.setdefault(field, {})[shorthands[field]] = text
        else:
            values[field] = {} if field == "budget" and text == "none" else text
    if loading.given():
        values.setdefault("model", {}).update(loading.given())
    if loading.seed is not None:
        values["seed"] = loading.seed
    return parse_recipe(values, "--set and options" if settings else "options")
