"""What of the catalogue is on this machine, without reading, hashing or downloading anything."""

from __future__ import annotations

import os
from pathlib import Path

from fairforget.data.catalogue import DATA_VARIABLE, Dataset, DatasetFile
from fairforget.files import cache_folder

HERE, IN_CACHE, DOWNLOAD, ABSENT = DATA_VARIABLE, "cache", "download", "no"


def file_place(file: DatasetFile) -> str:
    """Where a file would come from: the data folder, the cache, a download, or nowhere (``no``)."""
    folder = os.environ.get(DATA_VARIABLE)
    if folder and any(Path(folder, file.path + ending).is_file() for ending in ("", ".gz")):
        return HERE
    if cache_folder("data").joinpath(*file.path.split("/")).is_file():
        return IN_CACHE
    return DOWNLOAD if file.url else ABSENT


def dataset_place(dataset: Dataset) -> str:
    """Where the files of a dataset would come from; the worst of them counts."""
    places = {file_place(file) for file in dataset.files}
    return next(place for place in (ABSENT, DOWNLOAD, IN_CACHE, HERE) if place in places)
