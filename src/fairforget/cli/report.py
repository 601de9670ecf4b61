"""``fairforget report``: the page of a run, made again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fairforget.cli.terminal import print_paths

NAME = "report"


def command(
    run: Annotated[Path, typer.Argument(help="Folder that debias, audit, compare, study or chain wrote.")],
    figures: Annotated[Path | None, typer.Option(help="Folder for every chart of the page as a file of its own.")] = None,
    figure_format: Annotated[Literal["svg", "png", "pdf"], typer.Option(help="Of these files.")] = "svg",
) -> None:
    """Make the page of a run again from its tables, without any model; nothing else in the folder changes."""
    from fairforget.report import write_report
    from fairforget.report.figure_files import write_figures

    page = write_report(run)
    print_paths([("page", page), *(("figure", path) for path in (write_figures(page, figures, figure_format) if figures else ()))])
