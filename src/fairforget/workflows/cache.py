"""The cache's rooms, and how they are emptied."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fairforget.errors import UsageError
from fairforget.files import cache_folder
from fairforget.scoring.store import prune

ROOMS = {
    "models": "built-in models, converted once",
    "data": "datasets, downloaded or unpacked once",
    "scores": "log-probabilities, so that nothing is paid for twice",
    "fine-tuned": "what fine-tuned copies said of held-out rows, and checkpoints of those under way",
}
_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
STALE_SECONDS = 86_400
"""A temporary file or folder of this age belongs to no process that still works on it."""


@dataclass(frozen=True)
class CacheRoom:
    """One folder of the cache."""

    name: str
    purpose: str
    files: int
    bytes: int


def cache_rooms() -> list[CacheRoom]:
    """What is in the cache, by room."""
    rooms: list[CacheRoom] = []
    for name, purpose in ROOMS.items():
        sizes = [path.stat().st_size for path in cache_folder(name).rglob("*") if path.is_file()]
        rooms.append(CacheRoom(name, purpose, len(sizes), sum(sizes)))
    return rooms


def duration_seconds(text: str) -> float:
    """Seconds of a duration like ``30d``, ``12h``, ``90m`` or ``0d``.

    Raises:
        UsageError: it is not written so.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([dhms])\s*", text)
    if found is None:
        raise UsageError(f"--older-than {text}: write a number and d, h, m or s, e.g. 30d.")
    return float(found[1]) * _UNITS[found[2]]


def prune_cache(older_than: float | None) -> tuple[int, int]:
    """Remove scores not used for so many seconds, and what killed processes left; None empties every room.

    Returns:
        (files removed, bytes freed).
    """
    if older_than is None:
        return _remove(path for name in ROOMS for path in cache_folder(name).iterdir())
    removed, freed = prune(older_than / _UNITS["d"])
    limit = time.time() - STALE_SECONDS
    written = (path for name in ROOMS for ending in ("part", "old") for path in cache_folder(name).rglob(f".*.{ending}"))
    stale = [path for path in written if path.stat().st_mtime < limit]
    more, much = _remove(stale)
    return removed + more, freed + much


def _remove(paths: Iterable[Path]) -> tuple[int, int]:
    removed = freed = 0
    for path in list(paths):
        files = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
        removed, freed = removed + len(files), freed + sum(file.stat().st_size for file in files)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return removed, freed
