"""``fairforget doctor``: what a run would need, and what to watch out for."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from fairforget.cli.debias import resolve
from fairforget.cli.loading import Loading, loads_model
from fairforget.cli.terminal import print_facts, say

NAME = "doctor"


@loads_model
def command(
    model: Annotated[str, typer.Argument(help="Hub id, folder, .gguf file, adapter folder or built-in name.")] = "smollm2-135m",
    benchmarks: Annotated[str | None, typer.Option(help="What the run would measure. [default: starter,perplexity:starter]")] = None,
    train: Annotated[str | None, typer.Option(help="What it would be trained on. [default: starter]")] = None,
    recipe: Annotated[Path | None, typer.Option(help="The run's recipe.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Set a recipe field; repeatable.")] = None,
    *,
    loading: Loading,
) -> None:
    """Say how long a run would take and what memory it needs, which layers a LoRA can go on, and the traps of the tokenizer."""
    options = {"model": model, "benchmarks": benchmarks, "train": train}
    chosen = resolve(recipe, settings or [], {name: value for name, value in options.items() if value is not None}, loading)
    loaded = loading.load(chosen.model.ref, **chosen.model.arguments())
    from fairforget.workflows.doctor import diagnose

    say("Measuring for some seconds.")
    facts = diagnose(loaded, chosen, prefix=chosen.model.prefix)
    for section, found in groupby(facts, key=lambda fact: fact.section):
        print(f"\n{section}")
        print_facts([(f"  {fact.name}", f"{fact.value}{f'  ! {fact.trap}' if fact.trap else ''}") for fact in found])
