"""``fairforget curvature``: how sharp a loss is where a model stands, and what a step from there cost each group."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairforget.cli.loading import Loading, loads_model, short_name
from fairforget.cli.terminal import print_paths, print_table, say, working

if TYPE_CHECKING:
    from fairforget.workflows.curvature import CurvatureResult

NAME = "curvature"
SHOWN = 10
"""Places and groups printed; the tables hold all."""
PARTS = ("train", "select", "test", "all")


@loads_model
def command(
    model: Annotated[str, typer.Argument(help="Hub id, folder, .gguf file, adapter folder or built-in name.")],
    benchmark: Annotated[
        str | None, typer.Option(help="Loss of the right answers of a benchmark, e.g. question-answering:bbq, by its groups.")
    ] = None,
    part: Annotated[str, typer.Option(help="Part of the benchmark: train, select, test or all.")] = "train",
    text: Annotated[Path | None, typer.Option(help="Loss of the lines of a text file instead.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many items or lines, drawn by the seed.")] = 256,
    edit: Annotated[Path | None, typer.Option(help="Folder of the saved edit that the step leads to.")] = None,
    strength: Annotated[float | None, typer.Option(help="Strength of that edit. [default: the one it was saved at]")] = None,
    start: Annotated[Path | None, typer.Option(help="Folder of the saved edit the step starts from. [default: the model itself]")] = None,
    scope: Annotated[
        str, typer.Option(help="Parameters: all, edit, attention, mlp, layers:2-4, or names and patterns, comma-separated.")
    ] = "all",
    product: Annotated[str, typer.Option(help="Hessian times vector: auto, autograd or finite-difference.")] = "auto",
    vectors: Annotated[int, typer.Option(min=0, help="Vectors of Lanczos; 0 leaves the spectrum out.")] = 30,
    power: Annotated[int, typer.Option(min=0, help="Products of power iteration, a cross-check.")] = 0,
    probes: Annotated[int, typer.Option(min=0, help="Probes of the trace: 0, or at least 2.")] = 10,
    nodes: Annotated[int, typer.Option(min=0, help="Nodes of the path attribution; 0 leaves it out.")] = 8,
    depth: Annotated[str, typer.Option(help="Places of the attribution: parameter, module or block.")] = "block",
    out: Annotated[Path | None, typer.Option(help="Folder of the tables. [default: runs/curvature-MODEL]")] = None,
    *,
    loading: Loading,
) -> None:
    """Measure how sharp a loss is (extreme eigenvalues, trace), and what an edit's step costs each group, through which modules."""
    from fairforget.errors import DataError, UsageError, unknown_name

    if part not in PARTS:
        raise unknown_name("part", part, PARTS)
    if (benchmark is None) == (text is None):
        raise UsageError("A loss needs rows: name either a benchmark with --benchmark or a text file with --text.")
    if edit is None and (strength is not None or start is not None):
        raise UsageError("--strength and --start belong to a step: name the edit it leads to with --edit.")
    from pydantic import ValidationError

    from fairforget.benchmarks import resolve
    from fairforget.edits import load_edit
    from fairforget.settings import explain_validation
    from fairforget.workflows.curvature import CurvatureSettings, measure_curvature
    from fairforget.workflows.loss_rows import benchmark_rows, drawn, text_rows

    chosen = resolve(benchmark) if benchmark is not None else None
    try:
        settings = CurvatureSettings.model_validate({
            "scope": scope, "product": product, "vectors": vectors, "power_iterations": power, "probes": probes, "nodes": nodes,
            "depth": depth, "seed": loading.seed or 0,
        })
    except ValidationError as error:
        raise explain_validation(error, CurvatureSettings, "curvature") from error
    place = out or Path("runs") / f"curvature-{short_name(model)}"
    with working():
        loaded = loading.load(model)
        if chosen is not None:
            chosen.check(loaded)
            items = chosen.measured_items(loaded.family, part)
            if not items:
                raise DataError(f"The benchmark {chosen.name} has no items in its part '{part}': choose another with --part.")
            rows = benchmark_rows(chosen, drawn(items, limit, loading.seed or 0), loaded)
        else:
            assert text is not None
            rows = drawn(text_rows(loaded, text, seed=loading.seed or 0), limit, loading.seed or 0)
        ends = load_edit(edit) if edit is not None else None
        if ends is not None and strength is not None:
            ends = ends.at(strength)
        result = measure_curvature(
            loaded, rows, edit=() if ends is None else ends, start=() if start is None else load_edit(start), settings=settings, out=place,
            facts={"benchmark": benchmark, "part": part if chosen is not None else None, "text": None if text is None else str(text)},
        )
    for note in loaded.notes:
        say(f"Note: {note}")
    print_result(result)
    print_paths([(name, place / f"{name}.parquet") for name in result.tables()] + [("record", place / "curvature.json")])


def print_result(result: CurvatureResult) -> None:
    """Print the spectrum, the step by group, and the places that the step's cost came through."""
    if result.spectrum is not None:
        found = result.spectrum
        print_table(
            ["figure", "value", "± (kind)"],
            [
                [
                    row["figure"].replace("_", " "), f"{row['value']:.6g}",
                    "" if row["error"] is None else f"{row['error']:.2g} ({row['error_kind']})",
                ]
                for row in found.table().iter_rows(named=True)
            ],
            f"{found.scope}: {found.parameters:,} numbers; {found.units:,} tokens; {found.ritz.products} Lanczos vectors, {found.product}",
        )
    if result.step is not None:
        bound = "" if result.bound is None else f"; bound ‖g‖‖Δ‖ + ½ λmax ‖Δ‖² {result.bound:.4g}"
        print_table(
            ["group", "tokens", "g·Δ", "½ ΔᵀHΔ", "predicted", "measured"],
            [
                [row["group"], str(row["tokens"]), *(f"{row[name]:+.5f}" for name in ("slope", "half_curvature", "predicted", "measured"))]
                for row in result.step.groups.head(SHOWN + 1).iter_rows(named=True)
            ],
            f"Loss along the step, nats a token (‖Δ‖ {result.step.distance:.4g}{bound}); above 0 is forgotten",
        )
    if result.attribution is not None:
        import polars as pl

        whole = result.attribution.completeness().row(0, named=True)
        error = "no loss to compare with" if whole["error"] is None else f"{100 * whole['error']:.2g} % from what was measured"
        shown = result.attribution.by(result.depth).filter(pl.col("group") == whole["group"]).sort(pl.col("nats").abs(), descending=True)
        print_table(
            ["place", "nats a token"], [[row["place"], f"{row['nats']:+.5f}"] for row in shown.head(SHOWN).iter_rows(named=True)],
            f"Where the step's cost came from, by {result.depth} (all parts sum to {whole['attributed']:+.5f}, {error})",
        )

