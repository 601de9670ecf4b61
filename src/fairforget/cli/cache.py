"""``fairforget cache``: what is kept on this machine and can be made again."""

from __future__ import annotations

from typing import Annotated

import typer

from fairforget.cli.terminal import print_facts, size_text


def info() -> None:
    """Say where the cache is and how much it holds."""
    from fairforget.files import cache_folder
    from fairforget.workflows.cache import cache_rooms

    rooms = cache_rooms()
    print_facts([
        ("cache", f"{cache_folder()} (FAIRFORGET_CACHE chooses another)"),
        *((room.name, f"{size_text(room.bytes)} in {room.files} files; {room.purpose}") for room in rooms),
        ("all", size_text(sum(room.bytes for room in rooms))),
    ])


def prune(
    older_than: Annotated[str, typer.Option(help="Remove scores not used for so long, e.g. 30d, 12h, 0d.")] = "30d",
    everything: Annotated[bool, typer.Option("--all", help="Remove models, data and scores alike, whatever their age.")] = False,
) -> None:
    """Remove scores that were not used for a while, and what interrupted downloads left; finished runs are not in the cache."""
    from fairforget.workflows.cache import duration_seconds, prune_cache

    removed, freed = prune_cache(None if everything else duration_seconds(older_than))
    print(f"Removed {removed} files, freed {size_text(freed)}.")
