"""``fairforget study``: many runs as one and the frontier they draw; ``study tradeoff``: what a bias objective makes a model forget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairforget.cli.terminal import print_paths, print_table, print_verdict, say, working

if TYPE_CHECKING:
    from fairforget.workflows.study import StudyResult
    from fairforget.workflows.study_backends import Backend
    from fairforget.workflows.tradeoff import TradeoffResult

NAME = "study"
_SCALING = "scaling"
_TRADEOFF = "tradeoff"


def command(
    recipe: Annotated[
        str, typer.Argument(help="YAML file of the study, or one of the words scaling (before a finished study) and tradeoff (a file).")
    ],
    folder: Annotated[
        Path | None,
        typer.Argument(help="After scaling: the folder of a study, fitted against model size. After tradeoff: the YAML file of one."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study; the same command goes on in it. [default: runs/study-RECIPE]")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Cells at once. [default: one a GPU, else 1]")] = None,
    backend: Annotated[
        str, typer.Option(help="processes (of this machine) or ray (a cluster: RAY_ADDRESS, else one of this machine).")
    ] = "processes",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and what is left to do; run nothing.")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="After tradeoff: field=value over the file's, e.g. --set seeds=[0,1].")
    ] = None,
) -> None:
    """Run models x methods x settings x seeds, resumable and in parallel: one table and one frontier page."""
    from fairforget.errors import FairforgetError, UsageError

    if recipe == _SCALING and folder is not None:
        _fit(folder)
        return
    if recipe == _TRADEOFF and folder is not None:
        _tradeoff(folder, out or Path("runs") / folder.stem, settings or [], processes, backend, dry_run)
        return
    if settings:
        raise UsageError("--set goes with `fairforget study tradeoff`: write the fields of another study into its file.")
    if folder is not None:
        raise UsageError(f"`fairforget study {recipe}` takes one file; the folder of the study goes after --out.")
    if backend not in ("processes", "ray"):
        raise UsageError(f"--backend {backend}: known are processes and ray.")
    path = Path(recipe)
    place = out or Path("runs") / f"study-{path.stem}"
    if dry_run:
        _list(path, place)
        return
    with working():
        from fairforget.workflows.study import study

        result = study(path, place, processes=processes, backend=backend, say=say)  # type: ignore[arg-type]  # checked above
    _print(result)
    if result.failed:
        raise FairforgetError(
            f"{result.failed} of {result.cells.height} cells failed; the table says why. The same command tries them again and keeps the "
            "others."
        )


def _tradeoff(recipe: Path, place: Path, settings: list[str], processes: int | None, backend: str, dry_run: bool) -> None:
    from fairforget.errors import FairforgetError, UsageError

    if backend not in ("processes", "ray"):
        raise UsageError(f"--backend {backend}: known are processes and ray.")
    chosen: Backend = "ray" if backend == "ray" else "processes"
    from fairforget.workflows.tradeoff import plan_tradeoff, tradeoff

    if dry_run:
        planned = plan_tradeoff(recipe, place, settings)
        print_table(("run", "state"), [(run.name, state) for run, state in planned], f"{len(planned)} runs")
        return
    with working():
        result = tradeoff(recipe, place, settings=settings, processes=processes, backend=chosen, say=say)
    _print_tradeoff(result)
    if result.failed:
        raise FairforgetError(
            f"{result.failed} of {result.runs.height} runs failed; the page says why. The same command tries them again and keeps the "
            "others."
        )


def _print_tradeoff(result: TradeoffResult) -> None:
    from fairforget.report.run_folder import Verdict, read_record
    from fairforget.workflows.tradeoff_verdicts import decisions

    words = read_record(result.folder / "tables" / "verdict.json", Verdict)
    print_verdict(words.headline, words.sentences)
    print_table(("model", "finding", "verdict", "claim"), decisions(result.findings), "findings of Liu et al. 2025 (arXiv 2509.21456)")
    print_paths([("page", result.page), ("tables", result.folder / "tables"), ("runs", result.folder / "runs")])


def _list(recipe: Path, place: Path) -> None:
    from fairforget.workflows.study import plan_study

    planned = plan_study(recipe, place)
    print_table(("cell", "state", "why"), [(entry.cell.name, entry.state, entry.reason) for entry in planned], f"{len(planned)} cells")


def _fit(folder: Path) -> None:
    from fairforget.workflows.study import scaling

    result = scaling(folder)
    rows = [
        (
            row["configuration"], f"{row['figure']} ({row['target']})", f"{row['slope']:+.3g}",
            row["note"] if row["low"] is None else f"[{row['low']:+.3g}, {row['high']:+.3g}]", str(row["sizes"]),
        )
        for row in result.scaling.iter_rows(named=True)
    ]
    print_table(("configuration", "figure", "slope per tenfold", "95 % interval", "sizes"), rows, "change with the number of parameters")
    print_paths([("page", result.page), ("tables", result.folder / "tables")])


def _print(result: StudyResult) -> None:
    from fairforget.report.run_folder import Verdict, read_record
    from fairforget.workflows.study_table import cell_words

    words = read_record(result.folder / "tables" / "verdict.json", Verdict)
    print_verdict(words.headline, words.sentences)
    headers = ("cell", "strength", "verdict", "target", "before → after", "change (paired)", "perplexity", "time")
    print_table(headers, [cell_words(row) for row in result.cells.iter_rows(named=True)], "cells, test part (95 % intervals in brackets)")
    print_paths([("page", result.page), ("tables", result.folder / "tables"), ("runs", result.folder / "runs")])
