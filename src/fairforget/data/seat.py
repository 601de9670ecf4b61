"""SEAT and WEAT: tests of two target sets and two attribute sets, as sentences (May et al. 2019) or words (Caliskan et al. 2017).

The files are those of W4ngatang/sent-bias. The four tests on religion come from McGill-NLP/bias-bench, which states no licence: they are
read from a folder that the user names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from fairforget.data.catalogue import fetch
from fairforget.data.rows import read_json
from fairforget.errors import DataError, unknown_name

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "gender": ("sent-weat6", "sent-weat6b", "sent-weat7", "sent-weat7b", "sent-weat8", "sent-weat8b"),
    "race": (
        "sent-angry_black_woman_stereotype", "sent-angry_black_woman_stereotype_b", "sent-weat3", "sent-weat3b", "sent-weat4", "sent-weat5",
        "sent-weat5b",
    ),
    "religion": ("sent-religion1", "sent-religion1b", "sent-religion2", "sent-religion2b"),
    "weat": (
        "weat1", "weat2", "weat3", "weat3b", "weat4", "weat5", "weat5b", "weat6", "weat6b", "weat7", "weat7b", "weat8", "weat8b", "weat9",
        "weat10",
    ),
}
"""Tests of each family, in bias-bench's order; `weat` are the tests of single words."""

_SETS = ("targ1", "targ2", "attr1", "attr2")
_FRAME = frozenset(
    (
        "a", "an", "are", "here", "is", "it", "name", "people", "people's", "person", "person's", "that", "the", "there", "these", "they",
        "thing", "things", "this", "those", "was", "were",
    )
)
"""Words of the sentences around a target term."""


@dataclass(frozen=True)
class Target:
    """One target sentence or word."""

    text: str
    cluster: str
    """Category and term: all sentences about one term, singular or plural, in whichever test."""


@dataclass(frozen=True)
class AssociationTest:
    """Whether targets X are nearer to attributes A, and targets Y to B, than the other way round. Texts of a set are distinct."""

    name: str
    family: str
    x: tuple[Target, ...]
    y: tuple[Target, ...]
    a: tuple[str, ...]
    b: tuple[str, ...]
    x_category: str
    y_category: str


def load_seat(families: Sequence[str] = ("gender", "race"), religion: Path | None = None) -> list[AssociationTest]:
    """Load all tests of families, in order.

    Args:
        families: names in :data:`FAMILIES`.
        religion: folder with the four files of the family `religion`.

    Raises:
        UsageError: there is no such family.
        DataError: a file is missing or not in the upstream format, or `religion` is wanted and its folder is not named.
    """
    found: list[AssociationTest] = []
    for family in families:
        if family not in FAMILIES:
            raise unknown_name("family of SEAT tests", family, FAMILIES)
        if family == "religion" and religion is None:
            raise DataError(
                "The SEAT tests on religion have no stated licence and are in no catalogue: get sent-religion*.jsonl from data/seat of "
                "McGill-NLP/bias-bench and set religion to their folder, or leave the family out."
            )
        for name in FAMILIES[family]:
            file = f"{name}.jsonl"
            path = religion.expanduser() / file if religion is not None and family == "religion" else fetch("seat", file)
            found.append(read_association_test(path, family))
    return found


def read_association_test(path: Path, family: str) -> AssociationTest:
    """Read one test: a JSON object of the sets targ1, targ2, attr1 and attr2, each with ``category`` and ``examples``.

    Raises:
        DataError: the file is damaged or not in this format, or a set is empty.
    """
    whole: Any = read_json(path)
    sets: dict[str, tuple[str, tuple[str, ...]]] = {}
    for name in _SETS:
        entry: Any = cast("dict[str, Any]", whole).get(name) if isinstance(whole, dict) else None
        examples: Any = cast("dict[str, Any]", entry).get("examples") if isinstance(entry, dict) else None
        if not isinstance(examples, list) or not examples:
            raise DataError(f"{path} has no set '{name}' with examples: a test needs {', '.join(_SETS)}.")
        texts = [text for text in cast("list[Any]", examples) if isinstance(text, str) and text.strip()]
        if len(texts) < len(cast("list[Any]", examples)):
            raise DataError(f"{path}: the set '{name}' holds an example that is blank or no text.")
        sets[name] = str(cast("dict[str, Any]", entry).get("category", name)), tuple(dict.fromkeys(texts))
    (x_category, x), (y_category, y), (_, a), (_, b) = (sets[name] for name in _SETS)
    if len(x) != len(y):
        raise DataError(f"{path}: the target sets have {len(x)} and {len(y)} distinct texts, and a test needs as many in both.")
    if x_category == y_category:
        raise DataError(f"{path}: both target sets are called '{x_category}', so they cannot be told apart.")
    return AssociationTest(
        path.name.partition(".")[0], family, _targets(x, x_category), _targets(y, y_category), a, b, x_category, y_category
    )


def _targets(texts: Sequence[str], category: str) -> tuple[Target, ...]:
    return tuple(Target(text, f"{category}: {term(text)}") for text in texts)


def term(text: str) -> str:
    """The term that a sentence is about: its words outside the frame ("This is a ..."), in lower case and the singular."""
    words = re.findall(r"[^\W_]+(?:['-][^\W_]+)*", text.lower())
    own = [word for word in words if word not in _FRAME] or words
    return " ".join(_singular(word) for word in own)


def _singular(word: str) -> str:
    """A form that singular and plural share; no dictionary, good enough to keep the sentences of one word together."""
    word = word.removesuffix("'s")
    if re.fullmatch(r"(wo)?men", word):
        return word[:-2] + "an"
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if re.search(r"(ch|sh|ss|us|is|x)es$", word):
        return word[:-2]
    return word[:-1] if len(word) > 3 and re.search(r"[^sui]s$", word) else word
