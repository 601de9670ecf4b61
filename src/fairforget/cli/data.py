"""``fairforget data``: the datasets of the catalogue."""

from __future__ import annotations

from typing import Annotated

import typer

from fairforget.cli.listing import print_datasets
from fairforget.progress import display


def list_datasets() -> None:
    """List the datasets and what of them is on this machine."""
    print_datasets()


def get(names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names in `fairforget data list`.")]) -> None:
    """Download datasets into the cache, checked by their sha256, so that later runs need no network."""
    from fairforget.data.catalogue import get as get_dataset_files
    from fairforget.data.catalogue import get_dataset

    datasets = [get_dataset(name) for name in names]  # a wrong name is told before anything is downloaded
    with display():
        for dataset in datasets:
            for path in get_dataset_files(dataset.name):
                print(path)
            print(f"{dataset.name}: {dataset.licence}. Cite: {dataset.citation}")
            if dataset.content_warning:
                print("Its texts are hateful, sexist or stereotyped on purpose.")
