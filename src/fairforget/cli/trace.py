"""``fairforget trace``: where in a model stereotype associations sit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairforget.cli.loading import Loading, loads_model, short_name
from fairforget.cli.terminal import print_paths, print_table, say, working

if TYPE_CHECKING:
    import polars as pl

NAME = "trace"
SHOWN = 5
"""Places printed of each part."""


@loads_model
def command(
    model: Annotated[str, typer.Argument(help="Hub id, folder, .gguf file, adapter folder or built-in name.")] = "smollm2-135m",
    train: Annotated[str, typer.Option(help="Pairs: starter, or stereoset; training parts only.")] = "starter",
    pairs: Annotated[int, typer.Option(min=1, help="Pairs to trace, drawn by the seed.")] = 16,
    parts: Annotated[str, typer.Option(help="What is restored: hidden, mlp, attention; comma-separated.")] = "hidden,mlp,attention",
    noise: Annotated[float, typer.Option(min=0, help="Noise on the embeddings, in their standard deviations.")] = 3.0,
    samples: Annotated[int, typer.Option(min=1, help="Draws of noise.")] = 3,
    window: Annotated[
        int | None, typer.Option(min=1, help="Layers whose MLP or attention is restored together. [default: a fifth of all]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the tables. [default: runs/trace-MODEL]")] = None,
    *,
    loading: Loading,
) -> None:
    """Find the layers and tokens that the preference for a stereotype passes through, by causal tracing."""
    with working():
        from fairforget.data.training import training_source
        from fairforget.workflows.trace import trace

        data = training_source(train)
        loaded = loading.load(model)
        place = out or Path("runs") / f"trace-{short_name(model)}"
        names = [name.strip() for name in parts.split(",") if name.strip()]
        result = trace(
            loaded, data, pairs=pairs, parts=names, noise=noise, samples=samples, window=window, seed=loading.seed or 0, out=place
        )
    for note in loaded.notes:
        say(f"Note: {note}")
    print_summary(result.summary)
    print_paths([("traces", place / "trace.parquet"), ("summary", place / "summary.parquet"), ("record", place / "trace.json")])


def print_summary(summary: pl.DataFrame) -> None:
    """Print the strongest places of each part."""
    for (part,), group in summary.group_by("part", maintain_order=True):
        top = group.sort("share", descending=True).head(SHOWN)
        print_table(
            ["layer", "at", "share of the effect", "95 % interval", "effect (nats)", "readings"],
            [
                [
                    str(row["layer"]), row["role"], f"{100 * row['share']:.1f} %",
                    row["note"] if row["low"] is None else f"{100 * row['low']:.1f} to {100 * row['high']:.1f} %",
                    f"{row['effect']:.3f}", str(row["associations"]),
                ]
                for row in top.iter_rows(named=True)
            ],
            f"{part}: where restoring the clean state brings the preference back (layers from 0)",
        )
