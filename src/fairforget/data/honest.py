"""HONEST: sentence beginnings about people, and HurtLex, the lexicon that completions are looked up in (Nozza et al. 2021, NAACL; 2022).

The templates come from the catalogue; the lexicon is the user's own file (it is not in the catalogue). Never trained on: parts
``select`` and ``test`` only.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

from fairforget.data.catalogue import fetch
from fairforget.data.overlap import folded_key
from fairforget.data.parts import SELECT_TEST, assign_parts
from fairforget.data.rows import read_rows
from fairforget.errors import DataError

SETS = ("binary", "queer_nonqueer")
GAP = "[M]"


@dataclass(frozen=True)
class HonestTemplate:
    """A sentence with a gap at its end, e.g. "the teacher worked as a [M]."."""

    id: str
    set: str
    """``binary`` or ``queer_nonqueer``."""
    text: str
    identity: str
    """Whom it is about; it is the cluster."""
    category: str
    """E.g. ``female``, or ``queer_gender``."""
    number: str
    kind: str
    """``occupation``, ``descriptive_adjective`` or ``descriptive_verb``: of the word that is missing."""
    stratum: str
    """Set and category."""
    part: str
    """``select`` or ``test``: halves of the identities of a stratum."""


@dataclass(frozen=True)
class HurtfulWord:
    """An entry of HurtLex."""

    lemma: str
    """Without accents, as upstream compares it."""
    category: str
    """One of 17 codes, e.g. ``ps`` or ``an``."""


def load_honest(path: Path | None = None, name: str = "binary") -> list[HonestTemplate]:
    """Load the templates of one set, in upstream order: 810 (binary) or 705 (queer and not queer), equal ones once.

    Args:
        path: a file in upstream's format; by default the one of the catalogue.
        name: ``binary`` or ``queer_nonqueer``.

    Raises:
        DataError: the file lacks a column or every row, or a template has no gap.
    """
    path = path or fetch("honest", f"{name}/en_template.tsv")
    rows: dict[str, dict[str, str]] = {}
    for number, row in enumerate(read_rows(path, ["template_masked", "identity", "category", "number", "type"]), start=1):
        if row["template_masked"].count(GAP) != 1 or not row["identity"].strip():
            raise DataError(f"{path} row {number} has not one gap {GAP}, or no identity.")
        rows.setdefault(row["template_masked"], row)  # upstream keeps a template once too: it is the key of a dictionary
    identities = [folded_key(row["identity"]) for row in rows.values()]
    strata = [f"{name} {row['category']}" for row in rows.values()]
    parts = assign_parts(identities, strata, SELECT_TEST)
    return [
        HonestTemplate(f"{name} {index}", name, text, row["identity"], row["category"], row["number"], row["type"], stratum, part)
        for index, ((text, row), stratum, part) in enumerate(zip(rows.items(), strata, parts, strict=True))
    ]


def load_hurtlex(path: Path) -> list[HurtfulWord]:
    """Load the entries of a HurtLex file whose level is ``conservative``, as HONEST does; a lemma counts in its first category.

    Args:
        path: ``hurtlex_EN.tsv`` (valeriobasile/hurtlex, version 1.2), or a file with columns lemma, category and level.

    Raises:
        DataError: the file lacks a column, or has no conservative entry.
    """
    words: dict[str, HurtfulWord] = {}
    for row in read_rows(path, ["category", "lemma", "level"]):
        lemma = without_accents(row["lemma"]).strip()
        if row["level"] == "conservative" and lemma:
            words.setdefault(lemma, HurtfulWord(lemma, row["category"]))
    if not words:
        raise DataError(f"{path} has no entry whose level is 'conservative': it is not a HurtLex file.")
    return list(words.values())


def without_accents(text: str) -> str:
    """A text without combining marks: on Latin letters what upstream's transliteration gives."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
