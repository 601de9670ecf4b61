"""The user's own data: a CSV, TSV, JSONL or Parquet file, or a dataset of the Hugging Face hub, with columns mapped to roles.

A *role* is what a column is used for (``text``, ``group``, ``cluster``, ``stereotype``, ...); the mapping from role to column is written
in the recipe. Every value comes out as a string, or as a tuple of strings where the column holds lists.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from fairforget.data.rows import missing_columns, read_rows
from fairforget.errors import DataError, UsageError

HUB_PREFIX = "datasets:"
"""What a source begins with when it is an id of the `datasets` library: ``datasets:owner/name``."""

Value: TypeAlias = str | tuple[str, ...]


def load_user_rows(
    source: str | Path, columns: Mapping[str, str], *, may_be_blank: Collection[str] = (), split: str = "train", config: str | None = None,
) -> list[dict[str, Value]]:
    """Read the user's rows with one key per role.

    Args:
        source: path of a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file, also with ``.gz`` added, or ``datasets:owner/name``.
        columns: role to column name; every column must be there.
        may_be_blank: roles whose value may be missing; it comes out as "".
        split: split of a `datasets` id; files have none.
        config: configuration of a `datasets` id, where it has several.

    Returns:
        One dict per row, in the order of the file.

    Raises:
        UsageError: the format is not known, or `datasets` is asked for and not installed.
        DataError: the source is missing, empty or damaged, lacks a column, or a value that is needed is blank (the row is named).
    """
    if isinstance(source, str) and source.startswith(HUB_PREFIX):
        rows = _hub_rows(source, columns.values(), split, config)
    else:
        rows = read_rows(Path(source).expanduser(), dict.fromkeys(columns.values()))
    result: list[dict[str, Value]] = []
    for number, row in enumerate(rows, start=1):
        values = {role: _value(row[column]) for role, column in columns.items()}
        for role, value in values.items():
            if role not in may_be_blank and not (value.strip() if isinstance(value, str) else value):
                where = f"{source} row {number}"
                raise DataError(f"{where}: the column '{columns[role]}' (used as {role}) is blank: fill it in or take the row out.")
        result.append(values)
    return result


def _value(value: Any) -> Value:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return tuple(str(element) for element in value if element is not None)
    return str(value)


def _hub_rows(source: str, columns: Iterable[str], split: str, config: str | None) -> Iterable[dict[str, Any]]:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise UsageError(f"'{source}' needs the package datasets: pip install 'fairforget[datasets]', or give a file.") from error
    try:
        loaded = datasets.load_dataset(source.removeprefix(HUB_PREFIX), config, split=split)
    except (OSError, ValueError, RuntimeError) as error:  # not found, offline, unknown configuration or split, script datasets
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"'{source}' (configuration {config}, split {split}) cannot be loaded: {first}") from error
    wanted = list(dict.fromkeys(columns))
    missing = [column for column in wanted if column not in loaded.column_names]
    if missing:
        raise missing_columns(source, missing, loaded.column_names)
    if not len(loaded):
        raise DataError(f"'{source}' split {split} has no rows: choose another split.")
    return loaded.select_columns(wanted)
