"""The catalogue of datasets, and how their files come to this machine.

An entry says where a file came from (repository and commit), the sha256 of its original bytes, its licence, what to cite, how many rows
it has and whether it holds hateful or stereotyped text. :func:`fetch` serves a file only when its bytes are the ones the catalogue
knows: from the folder named by ``FAIRFORGET_DATA`` (plain, or gzipped with ``.gz`` added), else from the cache, else by download.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import json
import os
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairforget.data.rows import read_bytes
from fairforget.errors import DataError, UsageError, unknown_name
from fairforget.files import atomic_path, cache_folder, sha256_file, write_text
from fairforget.progress import task

DATA_VARIABLE = "FAIRFORGET_DATA"
"""Environment variable that names a folder of datasets, laid out as the `path` of each :class:`DatasetFile`."""

GITHUB_RAW = "https://raw.githubusercontent.com"
TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class DatasetFile:
    """One file of a dataset, identified by the hash of its original bytes.

    `git_blob` is there for a file that was rebuilt because its upstream could not be had when the catalogue was made: the rebuilt file is
    known by `sha256`, the upstream one (where `url` leads) by its git blob id, and either is accepted.
    """

    path: str
    """Place under the data folder, without ``.gz``."""
    sha256: str
    """Hex sha256 of the original (uncompressed) bytes."""
    bytes: int
    """Size of the original bytes."""
    rows: int
    """Rows, in the unit of the dataset's `rows_unit`, or lines where a file has no rows of its own."""
    source: str
    """``owner/name@commit:path`` of what the file is, or was derived from."""
    url: str | None
    """Where it is downloaded from; None for a derived file, which only a data folder can serve."""
    git_blob: str | None = None
    """Git blob id (hex sha1) of the upstream file that a rebuilt file stands for."""

    @property
    def name(self) -> str:
        """The path without the dataset's folder."""
        return self.path.partition("/")[2]


@dataclass(frozen=True)
class Dataset:
    """A dataset: its files, and what a report has to say about it."""

    name: str
    description: str
    licence: str
    citation: str
    content_warning: bool
    """True where texts are hateful, sexist or stereotyped on purpose."""
    rows: int
    rows_unit: str
    files: tuple[DatasetFile, ...]

    @property
    def sha256(self) -> str:
        """Hash of the file where there is one, of the list of hashes and paths where there are several."""
        if len(self.files) == 1:
            return self.files[0].sha256
        return hashlib.sha256("".join(f"{file.sha256}  {file.path}\n" for file in self.files).encode()).hexdigest()

    def file(self, name: str) -> DatasetFile:
        """Find a file by its name.

        Raises:
            UsageError: the dataset has no such file.
        """
        for file in self.files:
            if file.name == name:
                return file
        raise unknown_name(f"file of the dataset '{self.name}'", name, [file.name for file in self.files])

    def record(self) -> dict[str, Any]:
        """What a run writes beside its results: name, licence, citation, content warning, sha256."""
        return {
            "name": self.name,
            "licence": self.licence,
            "citation": self.citation,
            "content_warning": self.content_warning,
            "sha256": self.sha256,
        }


@functools.cache
def _catalogue() -> dict[str, Dataset]:
    text = (importlib.resources.files("fairforget.data") / "catalogue.json").read_text(encoding="utf-8")
    return {
        name: Dataset(name=name, files=tuple(_file(file) for file in entry.pop("files")), **entry)
        for name, entry in json.loads(text).items()
    }


def _file(entry: dict[str, Any]) -> DatasetFile:
    stands_for: dict[str, str] = entry.get("stands_for", {})
    origin: dict[str, Any] = stands_for or ({} if entry.get("derived") else entry)
    return DatasetFile(
        path=entry["path"], sha256=entry["sha256"], bytes=entry["bytes"], rows=entry["rows"],
        source=f"{entry['repository']}@{entry['commit']}:{entry['upstream_path']}",
        url=f"{GITHUB_RAW}/{origin['repository']}/{origin['commit']}/{urllib.parse.quote(origin['upstream_path'])}" if origin else None,
        git_blob=stands_for.get("git_blob"),
    )


def dataset_names() -> list[str]:
    """Names of all datasets, sorted."""
    return sorted(_catalogue())


def get_dataset(name: str) -> Dataset:
    """Return the entry of a dataset.

    Raises:
        UsageError: the name is not known; the nearest names are suggested.
    """
    if name not in _catalogue():
        raise unknown_name("dataset", name, _catalogue())
    return _catalogue()[name]


def fetch(name: str, file: str) -> Path:
    """Return a file with the original bytes of `file` of the dataset `name`.

    A plain file under ``FAIRFORGET_DATA`` is served where it lies; a gzipped one is unpacked into the cache once; where there is neither,
    the cache serves, and the download fills it.

    Raises:
        UsageError: no such dataset or file, or ``FAIRFORGET_DATA`` names no folder.
        DataError: the file is damaged or not the one the catalogue knows, or cannot be had.
    """
    dataset = get_dataset(name)
    entry = dataset.file(file)
    stored = _stored(entry)
    if stored is not None and stored.suffix != ".gz":
        if not _fits(stored, entry):
            raise _wrong_bytes(stored, dataset, "restore it, or take it away to have it downloaded")
        return stored
    return _cached(dataset, entry, stored)


def get(name: str) -> list[Path]:
    """Put every file of a dataset into the cache, so that it is there without ``FAIRFORGET_DATA`` and without a network.

    Returns:
        One path in the cache per file, in catalogue order.

    Raises:
        UsageError: no such dataset, or ``FAIRFORGET_DATA`` names no folder.
        DataError: as :func:`fetch`.
    """
    dataset = get_dataset(name)
    return [_cached(dataset, entry, _stored(entry)) for entry in dataset.files]


def _stored(entry: DatasetFile) -> Path | None:
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise UsageError(f"{DATA_VARIABLE} is set to {folder}, which is not a folder: name one that holds the datasets, or unset it.")
    for path in (Path(folder, entry.path), Path(folder, entry.path + ".gz")):
        if path.is_file():
            return path
    return None


def _cached(dataset: Dataset, entry: DatasetFile, stored: Path | None) -> Path:
    target = cache_folder("data").joinpath(*entry.path.split("/"))
    if target.is_file() and _fits(target, entry):
        return target
    with atomic_path(target) as temporary:
        if stored is None:
            _download(dataset, entry, temporary)
            where, remedy = entry.url or "", f"it has changed; get another copy and name its folder in {DATA_VARIABLE}"
        else:
            temporary.write_bytes(read_bytes(stored))
            where, remedy = str(stored), "restore it, or take it away to have it downloaded"
        if not _is_known(temporary, entry):
            raise _wrong_bytes(where, dataset, remedy)
    return target


def _download(dataset: Dataset, entry: DatasetFile, target: Path) -> None:
    if entry.url is None:
        raise DataError(
            f"{entry.path} of the dataset '{dataset.name}' was derived from {entry.source} and cannot be downloaded: "
            f"set {DATA_VARIABLE} to a folder that holds it."
        )
    from pooch import HTTPDownloader
    from requests import RequestException  # what pooch downloads with

    with task(f"downloading {dataset.name}: {entry.name}", total=1) as advance:
        try:
            HTTPDownloader(timeout=TIMEOUT_SECONDS)(entry.url, str(target), None)
        except RequestException as error:
            raise DataError(
                f"{entry.url} could not be downloaded ({type(error).__name__}): check the network and run the same command again, "
                f"or set {DATA_VARIABLE} to a folder that holds {entry.path}."
            ) from error
        advance(1)


def _fits(path: Path, entry: DatasetFile) -> bool:
    """Whether a file has known bytes; a file once found good is not hashed again while its size and time of change stay."""
    status = path.stat()
    note = cache_folder("data", ".checked") / hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    seen = f"{status.st_mtime_ns} {status.st_size} {entry.sha256}\n"
    if note.is_file() and note.read_text(encoding="utf-8") == seen:
        return True
    if not _is_known(path, entry):
        return False
    write_text(note, seen)
    return True


def _is_known(path: Path, entry: DatasetFile) -> bool:
    return sha256_file(path) == entry.sha256 or (entry.git_blob is not None and git_blob_id(path) == entry.git_blob)


def git_blob_id(path: Path) -> str:
    """The id git gives to a file's bytes: hex sha1 of ``blob``, a space, the size, a zero byte and the bytes."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _wrong_bytes(where: Path | str, dataset: Dataset, remedy: str) -> DataError:
    return DataError(f"{where} is not the file of the dataset '{dataset.name}' that this version knows (its sha256 differs): {remedy}.")
