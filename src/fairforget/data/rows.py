"""Rows of CSV, TSV, JSONL and Parquet files, with sentences for what is wrong with them.

No message quotes a row: the texts may be hateful.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fairforget.errors import DataError, UsageError, nearest_names

SEPARATORS = {".csv": ",", ".tsv": "\t"}
FORMATS = (*SEPARATORS, ".jsonl", ".ndjson", ".parquet")
"""File formats that can be read, also gzipped with ``.gz`` added."""


def read_bytes(path: Path) -> bytes:
    """Read a file, unpacked where its name ends in ``.gz``.

    Raises:
        DataError: the file is missing, empty, cut off or cannot be read.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is cut off or damaged ({error}): get it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not data.strip():
        raise DataError(f"{path} is empty: it needs at least one row.")
    return data


def read_text(path: Path) -> str:
    """Read a UTF-8 text file with its line ends as they are, without the byte order mark that some editors put first.

    Raises:
        DataError: as :func:`read_bytes`, or the file is not UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8.") from error


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: as :func:`read_text`, or the text is not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} line {error.lineno} is not JSON ({error.msg}): the file may be cut off.") from error


def read_rows(path: Path, columns: Iterable[str]) -> list[dict[str, Any]]:
    """Read the named columns of a table file, one dict per row.

    CSV and TSV give strings (an empty field is ""); JSONL and Parquet give their own types, None where a value is missing.

    Raises:
        UsageError: the file's format is not one of :data:`FORMATS`.
        DataError: the file is missing, empty, damaged, not UTF-8, or lacks a column.
    """
    import polars as pl  # here, so that the catalogue can be listed without it

    wanted = list(columns)
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(f"{path} is of no format that can be read: known are {', '.join(FORMATS)}, also with .gz added.")
    if suffix in (".jsonl", ".ndjson"):
        return _json_rows(path, wanted)
    try:
        if suffix == ".parquet":
            frame = pl.read_parquet(io.BytesIO(read_bytes(path)))
        else:
            frame = pl.read_csv(io.BytesIO(read_text(path).encode()), separator=SEPARATORS[suffix], infer_schema=False).fill_null("")
    except pl.exceptions.PolarsError as error:
        kind = suffix[1:].upper()
        raise DataError(f"{path} cannot be read as {kind} ({type(error).__name__}): it may be cut off or of another format.") from error
    missing = [column for column in wanted if column not in frame.columns]
    if missing:
        raise missing_columns(str(path), missing, frame.columns)
    if frame.is_empty():
        raise DataError(f"{path} has a header but no rows: it needs at least one.")
    return frame.select(wanted).to_dicts()


def _json_rows(path: Path, wanted: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} line {number} is not JSON ({error.msg}): each line holds one object.") from error
        if not isinstance(row, dict):
            raise DataError(f"{path} line {number} is not an object: each line holds one, with a value per column.")
        missing = [column for column in wanted if column not in row]
        if missing:
            raise missing_columns(f"{path} line {number}", missing, row)
        rows.append({column: row[column] for column in wanted})
    return rows


def missing_columns(where: str, missing: list[str], known: Iterable[str]) -> DataError:
    """The sentence for columns that are not there, with the nearest ones."""
    names = ", ".join(f"'{name}'" for name in missing)
    return DataError(f"{where} has no column {names}: {nearest_names(missing[0], [str(name) for name in known])}")
