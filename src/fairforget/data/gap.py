"""GAP: snippets of Wikipedia with one ambiguous pronoun and two names, as many female as male (Webster et al. 2018, TACL).

Upstream's development split is the part ``train``, its validation split ``select``, its test split ``test``. Texts are upstream's to the
byte; offsets are in characters.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairforget.data.catalogue import fetch
from fairforget.data.rows import read_rows
from fairforget.errors import DataError, unknown_name

FILES = {"train": "gap-development.tsv", "select": "gap-validation.tsv", "test": "gap-test.tsv"}
"""File of each part."""

COLUMNS = ("ID", "Text", "Pronoun", "Pronoun-offset", "A", "A-offset", "A-coref", "B", "B-offset", "B-coref", "URL")
GENDERS = {"he": "male", "him": "male", "his": "male", "she": "female", "her": "female", "hers": "female"}


@dataclass(frozen=True)
class GapName:
    """One of the two names of a snippet, and whether the pronoun means it."""

    text: str
    offset: int
    refers: bool


@dataclass(frozen=True)
class GapSnippet:
    """One snippet with its pronoun and two names."""

    id: str
    text: str
    part: str
    pronoun: str
    """As it is written in the text."""
    pronoun_offset: int
    gender: str
    """``male`` or ``female``: of the pronoun."""
    names: tuple[GapName, GapName]
    page: str
    """Address of the Wikipedia page: snippets of one page are a cluster."""


def load_gap(part: str, path: Path | None = None) -> list[GapSnippet]:
    """Load the snippets of a part (train 2,000, select 454, test 2,000), in upstream order.

    Args:
        part: ``train``, ``select`` or ``test``.
        path: a file in the upstream format; by default the one of the catalogue.

    Raises:
        UsageError: there is no such part.
        DataError: a column or every row is missing, or a pronoun or name does not stand where the row says.
    """
    if part not in FILES:
        raise unknown_name("part of GAP", part, FILES)
    path = path or fetch("gap", FILES[part])
    return [_snippet(path, number, row, part) for number, row in enumerate(read_rows(path, COLUMNS), start=1)]


def _snippet(path: Path, number: int, row: dict[str, Any], part: str) -> GapSnippet:
    text = row["Text"]
    try:
        names = tuple(GapName(row[name], int(row[f"{name}-offset"]), {"TRUE": True, "FALSE": False}[row[f"{name}-coref"]]) for name in "AB")
        offset, gender = int(row["Pronoun-offset"]), GENDERS[row["Pronoun"].lower()]
    except (KeyError, ValueError) as error:
        raise DataError(f"{path} row {number}: a pronoun, offset or label is none that upstream has: get the file again.") from error
    for word, place in ((row["Pronoun"], offset), *((name.text, name.offset) for name in names)):
        if not text.startswith(word, place):
            raise DataError(f"{path} row {number}: a pronoun or name does not stand at its offset: the text was changed.")
    return GapSnippet(row["ID"], text, part, row["Pronoun"], offset, gender, (names[0], names[1]), row["URL"])
