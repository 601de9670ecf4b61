"""CrowS-Pairs in Japanese and Russian: the 262 pairs on gender, translated by hand (Kaneko et al. 2022, NAACL)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairforget.data.catalogue import fetch
from fairforget.data.crows_pairs import DIRECTIONS
from fairforget.data.overlap import folded_key
from fairforget.data.parts import SELECT_TEST, assign_parts, connected_rows, home_strata
from fairforget.data.rows import missing_columns, read_json
from fairforget.errors import DataError

LANGUAGES = ("japanese", "russian")
_COLUMNS = ("direction", "bias_type", "stereotype", "anti-stereotype")


@dataclass(frozen=True)
class TranslatedPair:
    """A pair in one language; rows with one `index` are translations of one English pair."""

    index: int
    language: str
    stereotype: str
    anti_stereotype: str
    direction: str
    """``stereo`` or ``antistereo``, as in the English set."""
    bias_type: str
    cluster: str
    """Translations of one pair, and pairs that share a sentence in either language."""
    stratum: str
    part: str
    """``select`` or ``test``, one cut for both languages."""


def load_crows_pairs_multilingual(folder: Path | None = None) -> list[TranslatedPair]:
    """Load the pairs of both languages, Japanese first.

    Args:
        folder: a folder with ``japanese.json`` and ``russian.json``; by default the files of the catalogue.

    Raises:
        DataError: a file is missing, cut off, lacks a field, or the two do not have the same number of pairs.
    """
    name = "crows-pairs-multilingual"
    paths = {language: fetch(name, f"{language}.json") if folder is None else folder / f"{language}.json" for language in LANGUAGES}
    rows = [(language, index, row) for language, path in paths.items() for index, row in enumerate(_rows(path))]
    if len(rows) != len(LANGUAGES) * sum(language == LANGUAGES[0] for language, _, _ in rows):
        raise DataError(f"{' and '.join(map(str, paths.values()))} do not have the same number of pairs: one of them is cut off.")
    shared = [
        {str(index), f"{language} {_key(row['stereotype'])}", f"{language} {_key(row['anti-stereotype'])}"} for language, index, row in rows
    ]
    clusters = [f"pair {rows[first][1]}" for first in connected_rows(shared)]
    types = [row["bias_type"] for _, _, row in rows]
    strata, parts = home_strata(clusters, types), assign_parts(clusters, types, SELECT_TEST)
    return [
        TranslatedPair(
            index, language, row["stereotype"], row["anti-stereotype"], row["direction"], row["bias_type"], cluster, stratum, part
        )
        for (language, index, row), cluster, stratum, part in zip(rows, clusters, strata, parts, strict=True)
    ]


def _key(text: str) -> str:
    return folded_key(text) or text.strip()


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path} is not a list of pairs: get it again.")
    for number, row in enumerate(rows):
        where = f"{path} pair {number}"
        if not isinstance(row, dict):
            raise DataError(f"{where} is not an object with the fields {', '.join(_COLUMNS)}.")
        missing = [column for column in _COLUMNS if column not in row]
        if missing:
            raise missing_columns(where, missing, row)
        if row["direction"] not in DIRECTIONS or not all(isinstance(row[column], str) and row[column].strip() for column in _COLUMNS):
            raise DataError(f"{where}: its direction is neither {DIRECTIONS[0]} nor {DIRECTIONS[1]}, or a field is blank.")
    return rows
