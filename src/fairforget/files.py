"""Files that are whole or absent: temporary names and renames, hashes, locks, and the cache folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import platformdirs

from fairforget.errors import FairforgetError

CACHE_VARIABLE = "FAIRFORGET_CACHE"


def cache_folder(*parts: str) -> Path:
    """Folder for what can be made again: models, downloaded data, scores. ``FAIRFORGET_CACHE`` overrides the user's cache folder."""
    root = os.environ.get(CACHE_VARIABLE)
    folder = (Path(root) if root else Path(platformdirs.user_cache_dir("fairforget"))).joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, streamed."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_path(path: Path) -> Generator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well, remove it otherwise.

    Raises:
        FairforgetError: the disk is full or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Generator[Path]:
    """Yield a temporary folder beside `path`; it takes the place of `path` when the block ends well.

    Raises:
        FairforgetError: the disk is full or the folder cannot be written.
    """
    import shutil

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            path.replace(old / path.name)
            temporary.replace(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.replace(path)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def disk_error(error: OSError, path: Path) -> FairforgetError:
    """The sentence for a write that failed."""
    if error.errno == errno.ENOSPC:
        return FairforgetError(
            f"There is no space left on the disk while writing {path}: free some and run the same command again; finished work is kept."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return FairforgetError(f"{path} cannot be written ({error.strerror}): choose another folder with --out.")
    return FairforgetError(f"{path} cannot be written: {error.strerror or error}.")


@contextlib.contextmanager
def folder_lock(folder: Path) -> Generator[None]:
    """Hold a folder for one process; the lock goes with the process, however it ends.

    Raises:
        FairforgetError: another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / ".lock").open("a+")
    except OSError as error:
        raise disk_error(error, folder) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FairforgetError(
                f"The folder {folder} is in use by another fairforget process: wait for it, or choose another folder with --out."
            ) from error
        yield


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
