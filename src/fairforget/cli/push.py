"""``fairforget push``: the model or the edit of a run to the hub."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fairforget.cli.terminal import quiet_libraries

NAME = "push"


class What(StrEnum):
    """What of a run can be pushed."""

    MODEL = "model"
    EDIT = "edit"


def command(
    run: Annotated[Path, typer.Argument(help="Folder that debias wrote.")],
    repo: Annotated[str, typer.Argument(help="Hub repository, owner/name; made when it is missing.")],
    what: Annotated[What, typer.Option(help="The edited model, or the edit alone.")] = What.MODEL,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Upload a run's model or edit with its card (log in with `hf auth login`); tables are never uploaded."""
    quiet_libraries()
    from fairforget.workflows.push import push

    print(push(run, repo, what=what.value, private=private))
