"""WinoBias: sentences about two occupations whose pronoun follows or breaks a stereotype (Zhao et al. 2018, NAACL).

Type 1 needs knowledge of the world to say whom the pronoun means, type 2 only syntax. Every sentence of the pro-stereotyped files stands in
the anti-stereotyped files with the pronouns of the other gender. Never trained on: parts ``select`` and ``test`` only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fairforget.data.catalogue import fetch
from fairforget.data.parts import SELECT_TEST, assign_parts, connected_rows
from fairforget.data.rows import read_text
from fairforget.errors import DataError

TYPES = (1, 2)
SPLITS = ("dev", "test")
STRATUM = "winobias"

_GENDER = {
    "he": "male", "him": "male", "his": "male", "himself": "male", "she": "female", "her": "female", "hers": "female", "herself": "female",
}
_PRONOUN = re.compile(rf"\[({'|'.join(_GENDER)})\]", re.IGNORECASE)
_NUMBERED = re.compile(r"\s*\d+\s+(\S.*)")


@dataclass(frozen=True)
class WinoBiasPair:
    """A pro-stereotyped sentence and its anti-stereotyped counterpart, each as text, pronoun, text, ... in turn."""

    id: str
    """Type, split and line number, e.g. ``type1 dev 17``."""
    type: int
    pro: tuple[str, ...]
    """Pieces of the pro-stereotyped sentence; every second one is a pronoun."""
    anti: tuple[str, ...]
    gender: str
    """``male`` or ``female``: of the pronoun that follows the stereotype, so of the occupation's stereotype."""
    minimal: bool
    """Whether the two differ in the gender of the pronouns alone; 21 of upstream's 1,584 pairs do not."""
    cluster: str
    """Pairs about the same two occupations, and the two pairs that upstream wrote together."""
    stratum: str
    part: str
    """``select`` or ``test``: halves of the clusters, one cut for both types and both of upstream's splits."""


def load_winobias(folder: Path | None = None) -> list[WinoBiasPair]:
    """Load all pairs of both types and both splits, in upstream order: 1,584.

    Args:
        folder: a folder with upstream's eight sentence files and its two lists of occupations; by default the files of the catalogue.

    Raises:
        DataError: a file is missing, empty or not in the upstream format, or two files do not have the same sentences.
    """
    occupations = [
        occupation.strip().lower() for gender in ("male", "female") for occupation in _lines(_path(folder, f"{gender}_occupations.txt"))
    ]
    rows: list[tuple[str, int, tuple[str, ...], tuple[str, ...]]] = []
    shared: list[set[str]] = []
    for type_ in TYPES:
        for split in SPLITS:
            sides = [_path(folder, f"{side}_stereotyped_type{type_}.txt.{split}") for side in ("pro", "anti")]
            pro, anti = (_sentences(path) for path in sides)
            if len(pro) != len(anti):
                raise DataError(f"{sides[0]} has {len(pro)} sentences and {sides[1]} has {len(anti)}: one of them is cut off.")
            for number, (first, second) in enumerate(zip(pro, anti, strict=True)):
                words = " ".join(first).lower()
                named = sorted(occupation for occupation in occupations if re.search(rf"\b{re.escape(occupation)}\b", words))
                if not named:
                    raise DataError(f"{sides[0]} line {number + 1} names none of the {len(occupations)} occupations.")
                rows.append((f"type{type_} {split} {number + 1}", type_, first, second))
                shared.append({" and ".join(named), f"type{type_} {split} sentences {number // 2}"})
    clusters = [rows[first][0] for first in connected_rows(shared)]
    parts = assign_parts(clusters, [STRATUM] * len(rows), SELECT_TEST)
    return [
        WinoBiasPair(name, type_, pro, anti, _GENDER[pro[1].lower()], _minimal(pro, anti), cluster, STRATUM, part)
        for (name, type_, pro, anti), cluster, part in zip(rows, clusters, parts, strict=True)
    ]


def _path(folder: Path | None, name: str) -> Path:
    return fetch("winobias", name) if folder is None else folder / name


def _lines(path: Path) -> list[str]:
    return [line for line in read_text(path).splitlines() if line.strip()]


def _sentences(path: Path) -> list[tuple[str, ...]]:
    """Text and pronouns in turn; the brackets around occupations, which some lines lack, are gone."""
    sentences: list[tuple[str, ...]] = []
    for number, line in enumerate(_lines(path), start=1):
        found = _NUMBERED.fullmatch(line.rstrip())
        pieces = _PRONOUN.split(found[1]) if found else []
        if len(pieces) < 3:
            raise DataError(f"{path} line {number} is not a number and a sentence with a pronoun in brackets.")
        sentences.append(tuple(re.sub(" +", " ", re.sub(r"[\[\]]", "", piece)) for piece in pieces))
    return sentences


def _minimal(pro: tuple[str, ...], anti: tuple[str, ...]) -> bool:
    genders = [{_GENDER[pronoun.lower()] for pronoun in pieces[1::2]} for pieces in (pro, anti)]
    return pro[::2] == anti[::2] and all(len(gender) == 1 for gender in genders) and genders[0] != genders[1]
