"""Scores that were paid for once: a SQLite file per state and way of computing, safe for several writers and for a kill at any time."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairforget.errors import FairforgetError
from fairforget.files import cache_folder

SCORER_VERSION = 1
"""Raised whenever scores can come out differently for the same key."""


class ScoreStore:
    """Log-probabilities of one state under one way of computing.

    Args:
        facts: all that scores depend on besides the request: state id, dtype, attention kernel, device class, truncation. The scorer's
            version is added here. Prefix and special tokens are part of each request's ids.
        folder: where the files lie; the cache folder ``scores`` by default.
    """

    def __init__(self, facts: Mapping[str, str], folder: Path | None = None) -> None:
        text = json.dumps({**facts, "scorer": SCORER_VERSION}, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        self.path = (folder or cache_folder("scores")) / f"{name}.sqlite"
        try:
            self._connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute("CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
            self._connection.execute("CREATE TABLE IF NOT EXISTS facts (text TEXT PRIMARY KEY)")
            self._connection.execute("INSERT OR IGNORE INTO facts VALUES (?)", (text,))
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def get(self, keys: Iterable[bytes]) -> dict[bytes, NDArray[np.float64]]:
        """The stored arrays among the wanted keys."""
        found: dict[bytes, NDArray[np.float64]] = {}
        wanted = list(keys)
        try:
            for start in range(0, len(wanted), 500):
                part = wanted[start : start + 500]
                marks = ",".join("?" * len(part))
                rows = self._connection.execute(f"SELECT key, value FROM scores WHERE key IN ({marks})", part)  # noqa: S608
                found.update((bytes(key), np.frombuffer(value, dtype=np.float64).copy()) for key, value in rows)
        except sqlite3.Error as error:
            raise self._failure(error) from error
        return found

    def put(self, values: Mapping[bytes, NDArray[np.float64]]) -> None:
        """Store arrays, all or none."""
        rows = [(key, np.ascontiguousarray(value, dtype=np.float64).tobytes()) for key, value in values.items()]
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", rows)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise self._failure(error) from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _failure(self, error: sqlite3.Error) -> FairforgetError:
        if "full" in str(error):
            return FairforgetError(
                f"There is no space left for scores in {self.path.parent}: free some (fairforget cache prune) "
                "and run the same command again."
            )
        return FairforgetError(f"The score file {self.path} cannot be used ({error}): remove it; its scores will be computed again.")


@dataclass(frozen=True)
class StoreFile:
    """One score file, for listing and pruning."""

    path: Path
    bytes: int
    used: float


def store_files(folder: Path | None = None) -> list[StoreFile]:
    """All score files, least recently used first."""
    root = folder or cache_folder("scores")
    files = [StoreFile(path, path.stat().st_size, path.stat().st_mtime) for path in root.glob("*.sqlite")]
    return sorted(files, key=lambda file: file.used)


def prune(older_than_days: float, folder: Path | None = None) -> tuple[int, int]:
    """Remove score files not used for some days.

    Returns:
        (files removed, bytes freed).
    """
    limit = time.time() - older_than_days * 86_400
    removed = freed = 0
    for file in store_files(folder):
        if file.used <= limit:
            for extra in (file.path, Path(f"{file.path}-wal"), Path(f"{file.path}-shm")):
                extra.unlink(missing_ok=True)
            removed, freed = removed + 1, freed + file.bytes
    return removed, freed
