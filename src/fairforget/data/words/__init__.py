"""Word lists, written for this package: gender words and names, religions, race, nationalities."""

from __future__ import annotations

import functools
import importlib.resources
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fairforget.errors import DataError, unknown_name

_NAMES = ("gender", "nationality", "race", "religion")

PRONOUNS = (("he", "him", "his", "himself"), ("she", "her", "hers", "herself"))
"""Pronouns of lists whose pronouns are swapped by rule, male first."""


@dataclass(frozen=True)
class WordList:
    """Words for groups, aligned so that a word of one group can be put for a word of another.

    Attributes:
        name: name of the list.
        groups: names of the G groups.
        rows: words that correspond, each row of length G. A word that stands in several rows follows the first. Words written in small
            letters match in any case, those with a capital ("Polish") only as written or all in capitals.
        one_way: (word, word put for it) for words that are replaced but never produced; two groups only.
        titles: rows that match only before a capitalised word.
        titles_one_way: as `one_way`, for titles.
        names: rows of names.
        pronouns: whether he, she, him, her, his, hers, himself and herself are swapped by rule; two groups, male first.
    """

    name: str
    groups: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    one_way: tuple[tuple[str, str], ...] = ()
    titles: tuple[tuple[str, ...], ...] = ()
    titles_one_way: tuple[tuple[str, str], ...] = ()
    names: tuple[tuple[str, ...], ...] = field(default=(), repr=False)
    pronouns: bool = False

    def __post_init__(self) -> None:
        if len(self.groups) < 2 or len(set(self.groups)) < len(self.groups):
            raise DataError(f"The word list '{self.name}' needs two or more different groups.")
        for row in (*self.rows, *self.titles, *self.names):
            if len(row) != len(self.groups) or not all(row):
                raise DataError(f"The word list '{self.name}' has {len(self.groups)} groups, but a row with {sum(map(bool, row))} words.")
        if len(self.groups) != 2 and (self.one_way or self.titles_one_way or self.pronouns):
            raise DataError(f"The word list '{self.name}' has {len(self.groups)} groups: one-way words and pronouns need exactly two.")


def word_list_names() -> list[str]:
    """Names of the word lists in this package."""
    return list(_NAMES)


@functools.cache
def word_list(name: str) -> WordList:
    """Return a word list by name.

    Raises:
        UsageError: there is no list of that name.
    """
    if name not in _NAMES:
        raise unknown_name("word list", name, _NAMES)
    content = _read(name)
    return WordList(
        name=name,
        groups=tuple(content["groups"]),
        rows=_rows(content["rows"]),
        one_way=tuple(content.get("one_way", {}).items()),
        titles=_rows(content.get("titles", [])),
        titles_one_way=tuple(content.get("title_one_way", {}).items()),
        names=name_pairs() if name == "gender" else (),
        pronouns=content.get("pronouns", False),
    )


def find_word_list(reference: str) -> WordList:
    """Return a word list of this package, or the user's.

    Args:
        reference: name of a list, or path of a JSON or YAML file with rows of corresponding words, e.g. ``[[he, she], [man, woman]]``;
            ``words.json#race`` takes the rows under the key ``race``, as in Bias Bench's ``bias_attribute_words.json``.

    Raises:
        UsageError: there is no such list and no such file.
        DataError: the file cannot be read, or has no rows of equal length there.
    """
    place, _, key = reference.partition("#")
    path = Path(place).expanduser()
    if reference in _NAMES or not (path.suffix or path.is_file()):
        return word_list(reference)
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = f"{path} cannot be read as a word list ({type(error).__name__}): name a JSON or YAML file with rows of words."
        raise DataError(reason) from error
    rows: Any = content.get(key) if key and isinstance(content, dict) else content
    if not (isinstance(rows, list) and rows and all(isinstance(row, list) and len(row) == len(rows[0]) for row in rows)):
        under = f" under the key '{key}'" if key else ""
        raise DataError(f"{path} has no rows of equally many words{under}: write [[he, she], [man, woman]].")
    rows = [tuple(str(word) for word in row) for row in rows]
    return WordList(name=reference, groups=tuple(f"group {number}" for number in range(1, len(rows[0]) + 1)), rows=tuple(rows))


@functools.cache
def stereotype_words() -> tuple[str, ...]:
    """Words that are about no gender, and that people tie to one: occupations, traits, pastimes."""
    return tuple(_read("stereotypes")["words"].split())


def group_words(words: WordList) -> list[list[str]]:
    """All words of each group of a list, pronouns included; names are not."""
    found = [[row[group] for row in words.rows] for group in range(len(words.groups))]
    if words.pronouns:
        for group, pronouns in enumerate(PRONOUNS):
            found[group] += pronouns
    return found


def gender_pairs() -> tuple[tuple[str, str], ...]:
    """Pairs (male word, female word), without pronouns, titles and names."""
    return tuple((male, female) for male, female in word_list("gender").rows)


@functools.cache
def name_pairs() -> tuple[tuple[str, str], ...]:
    """Pairs (male name, female name), one to one."""
    return tuple((male, female) for male, female in _read("names")["names"])


@functools.cache
def word_classes() -> dict[str, frozenset[str]]:
    """Classes of English words, in small letters, that tell "her coat" from "saw her" (see :mod:`fairforget.data.english`)."""
    return {name: frozenset(words.split()) for name, words in _read("classes").items()}


def _rows(rows: list[list[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(row) for row in rows)


def _read(name: str) -> dict[str, Any]:
    text = importlib.resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both loaders are safe ones
