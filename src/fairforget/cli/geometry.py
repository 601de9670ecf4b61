"""``fairforget geometry``: the neural collapse of words in one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairforget.cli.loading import Loading, loads_model
from fairforget.cli.terminal import print_metrics, print_paths, say, working

NAME = "geometry"


@loads_model
def command(
    model: Annotated[str, typer.Argument(help="Hub id, folder, .gguf file, adapter folder or built-in name.")] = "minilm-mlm",
    words: Annotated[
        str, typer.Option(help="Lists (gender, race, religion, nationality, a file), full, random, matched; comma-separated.")
    ] = "gender,random,matched",
    corpus: Annotated[str, typer.Option(help="wikitext2, lm-corpus-small, starter, or a text file.")] = "wikitext2",
    preset: Annotated[str | None, typer.Option(help="xu2025: the released pairing and first word pieces.")] = None,
    site: Annotated[str | None, typer.Option(help="pre_decoder or encoder_last. [default: pre_decoder]")] = None,
    pieces: Annotated[str | None, typer.Option(help="whole_word or first_piece. [default: whole_word]")] = None,
    edit: Annotated[Path | None, typer.Option(help="Folder of a saved edit to put on the model first.")] = None,
    strength: Annotated[float | None, typer.Option(help="Strength of the edit. [default: the one it was saved at]")] = None,
    part: Annotated[str, typer.Option(help="select (WikiText-2 valid), test, or all.")] = "select",
    documents: Annotated[int | None, typer.Option(min=5, help="Look at so many documents only, evenly spread.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of tables and page. [default: runs/geometry-MODEL]")] = None,
    resamples: Annotated[int, typer.Option(min=200, help="Bootstrap resamples of every interval.")] = 10_000,
    *,
    loading: Loading,
) -> None:
    """Measure how words' states and output rows lie to each other: (U)NC3 and the other figures of neural collapse."""
    from fairforget.benchmarks import resolve
    from fairforget.errors import UsageError, unknown_name
    from fairforget.workflows.audit import audit
    from fairforget.workflows.recipe import BenchmarkChoice

    if part not in ("test", "select", "all"):
        raise unknown_name("part", part, ("test", "select", "all"))
    if strength is not None and edit is None:
        raise UsageError("--strength is that of an edit: name one with --edit.")
    given = {"site": site, "pieces": pieces, "documents": documents}
    settings = {
        "words": tuple(name.strip() for name in words.split(",") if name.strip()), "corpus": corpus, "seed": loading.seed or 0,
        **{name: value for name, value in given.items() if value is not None},
    }
    name = "geometry" if preset is None else f"geometry:{preset}"
    resolve(name, settings, "geometry")  # a wrong option is told before a model is loaded
    with working():
        loaded, label = loading.load_edited(model, edit, strength)
        result = audit(
            loaded, [BenchmarkChoice(name=name, settings=settings)], part=part, out=out or Path("runs") / f"geometry-{label}",
            resamples=resamples, seed=loading.seed or 0,
        )
    assert result.folder is not None
    for note in loaded.notes:
        say(f"Note: {note}")
    print_metrics(result.metrics)
    print_paths([("page", result.folder / "report.html"), ("tables", result.folder / "tables")])
