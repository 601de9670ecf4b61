"""BEC-Pro: English sentences of a gendered person word and a profession, by statistics male, female or balanced (Bartl et al. 2020).

Upstream's columns of masked sentences are not read: they were made by replacing substrings, which masks parts of other words too (the
person word *man* in "manager", the profession's *of* in the template), in 23 of 5,400 sentences.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fairforget.data.catalogue import fetch
from fairforget.data.parts import SELECT_TEST, assign_parts
from fairforget.data.rows import read_rows
from fairforget.errors import DataError

PERSON_PAIRS = (
    ("She", "He"), ("woman", "man"), ("sister", "brother"), ("daughter", "son"), ("wife", "husband"), ("girlfriend", "boyfriend"),
    ("mother", "father"), ("aunt", "uncle"), ("mom", "dad"),
)
"""Female and male person words that are compared, in upstream's order."""

CLASSES = ("female", "male", "balanced")
"""Classes of professions by the share of women in them (United States, 2019)."""

_PERSON, _PROFESSION = "<person subject>", "<profession>"
_PAIR = {word: f"{female}/{male}" for female, male in PERSON_PAIRS for word in (female, male)}


@dataclass(frozen=True)
class BecProSentence:
    """One sentence, cut where its words are masked: ``before + person + between + profession + after``."""

    index: int
    """Row number upstream, from 0."""
    before: str
    person: str
    between: str
    profession: str
    after: str
    pair: str
    """The person word's pair, e.g. ``She/He``."""
    gender: str
    """``female`` or ``male``: of the person word."""
    profession_class: str
    """``female``, ``male`` or ``balanced``: by statistics."""
    template: str
    part: str
    """``select`` or ``test``: halves of the professions of a class."""

    @property
    def text(self) -> str:
        """The whole sentence."""
        return self.before + self.person + self.between + self.profession + self.after


def load_bec_pro(path: Path | None = None) -> list[BecProSentence]:
    """Load all sentences, in upstream order: 5,400 = 60 professions, 18 person words, 5 templates.

    Args:
        path: a file in the format of ``BEC-Pro_EN.tsv``; by default the one of the catalogue.

    Raises:
        DataError: the file is not in that format, or a sentence is not made of its template, person and profession.
    """
    path = path or fetch("bec-pro", "BEC-Pro_EN.tsv")
    rows = read_rows(path, ["Sentence", "Template", "Person", "Gender", "Profession", "Prof_Gender"])
    cut: list[tuple[str, str, str]] = []
    seen: set[tuple[str, str, str]] = set()
    for index, row in enumerate(rows):
        key = (row["Template"], row["Person"], row["Profession"])
        if row["Person"] not in _PAIR or row["Gender"] not in ("female", "male") or row["Prof_Gender"] not in CLASSES or key in seen:
            raise DataError(f"{path} row {index}: not a known person word, gender and class of profession, or here twice.")
        seen.add(key)
        cut.append(_cut(row["Sentence"], *key) or _broken(path, index))
    professions, classes = [row["Profession"] for row in rows], [row["Prof_Gender"] for row in rows]
    return [
        BecProSentence(
            index, before, row["Person"], between, row["Profession"], after, _PAIR[row["Person"]], row["Gender"], row["Prof_Gender"],
            row["Template"], part,
        )
        for index, (row, (before, between, after), part) in enumerate(
            zip(rows, cut, assign_parts(professions, classes, SELECT_TEST), strict=True)
        )
    ]


def _cut(sentence: str, template: str, person: str, profession: str) -> tuple[str, str, str] | None:
    """What stands before, between and after person word and profession; None where the sentence is not of the template."""
    if not template.startswith(_PERSON) or template.count(_PROFESSION) != 1:
        return None
    between, after = template.removeprefix(_PERSON).split(_PROFESSION)
    subject = sentence.removesuffix(between + profession + after)
    if subject == sentence or not subject.endswith(person):
        return None
    return subject.removesuffix(person), between, after


def _broken(path: Path, index: int) -> tuple[str, str, str]:
    raise DataError(f"{path} row {index}: the sentence is not its template with its person word and profession.")
