"""``fairforget report``: the page of a run, made again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairforget.cli.terminal import print_paths

NAME = "report"


def command(run: Annotated[Path, typer.Argument(help="Folder that debias, audit, compare, study or chain wrote.")]) -> None:
    """Make the page of a run again from its tables, without any model; nothing else in the folder changes."""
    from fairforget.report import write_report

    print_paths([("page", write_report(run))])
