"""Puts the verbs together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from fairforget.cli import (
    audit,
    cache,
    chain,
    compare,
    curvature,
    data,
    debias,
    doctor,
    edit,
    generate,
    geometry,
    listing,
    lm_eval,
    organism,
    push,
    report,
    show,
    stress,
    study,
    trace,
    validate,
)


def _group(help_text: str) -> typer.Typer:
    return typer.Typer(help=help_text, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


app = typer.Typer(
    name="fairforget",
    help="Make language models forget stereotypes, and account for everything else they forgot.",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich would double the time that --help takes
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        typer.echo(f"fairforget {metadata.version('fairforget')}")
        raise typer.Exit


@app.callback()
def _application(  # pyright: ignore[reportUnusedFunction]  (typer calls it)
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")] = False,
) -> None:
    del version


for verb in (
    debias, study, chain, audit, compare, geometry, curvature, trace, stress, report, generate, listing, show, doctor, validate, push,
):
    app.command(verb.NAME)(verb.command)

_edits = _group("Put a saved edit on a model, take it off, combine, describe and export it.")
for subverb in (edit.apply, edit.undo, edit.merge, edit.combine, edit.search, edit.info, edit.export):
    _edits.command()(subverb)
app.add_typer(_edits, name="edit")

_organisms = _group("Model organisms: small models of a generated language whose stereotypes and facts were planted.")
_organisms.command("make")(organism.make)
app.add_typer(_organisms, name="organism")

_imports = _group("Bring in what was measured elsewhere.")
_imports.command("lm-eval")(lm_eval.import_logs)
app.add_typer(_imports, name="import")

_exports = _group("Hand benchmarks to other evaluators.")
_exports.command("lm-eval")(lm_eval.export_tasks)
app.add_typer(_exports, name="export")

_data = _group("Datasets of the catalogue: list them, download them.")
_data.command("list")(data.list_datasets)
_data.command("get")(data.get)
app.add_typer(_data, name="data")

_cache = _group("What fairforget keeps on this machine and can make again: models, data, scores.")
_cache.command("info")(cache.info)
_cache.command("prune")(cache.prune)
app.add_typer(_cache, name="cache")


def application(arguments: Sequence[str]) -> int | None:
    """Parse and run; parse errors are raised, not printed.

    Args:
        arguments: without the program's name.
    """
    command: Any = typer.main.get_command(app)
    found = command.main([*arguments] or ["--help"], prog_name="fairforget", standalone_mode=False)
    return found if isinstance(found, int) else None
