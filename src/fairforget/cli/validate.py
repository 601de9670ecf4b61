"""``fairforget validate``: check a recipe before it costs anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairforget.cli.terminal import say

NAME = "validate"


def command(recipe: Annotated[Path, typer.Argument(help="YAML recipe of a debias run, or YAML file of your own benchmark.")]) -> None:
    """Check a recipe or your own benchmark: fields, names, settings, data. No model is loaded and nothing is downloaded."""
    from fairforget.errors import UsageError
    from fairforget.workflows.validate import describes_benchmark, validate_benchmark, validate_recipe

    if describes_benchmark(recipe):
        print(validate_benchmark(recipe))
        return
    found = validate_recipe(recipe)
    if found.problems:
        raise UsageError("\n".join(found.problems))
    for note in found.notes:
        say(f"Note: {note}")
    names = ", ".join(choice.name for choice in found.recipe.benchmarks)
    run = found.recipe
    print(f"{recipe} is valid: {run.method.name} on {run.model.ref}, trained on {run.train.source}, measured by {names}.")
