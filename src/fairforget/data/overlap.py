"""Does text that is trained on occur in text that is reported?

*Equal*: a test text is a training text, or a sentence of one, once case, space and punctuation are folded; counterfactual swaps of
either side count too. *Near*: half or more of a test text's runs of eight words occur in the training texts. A run refuses the first and
warns of the second.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

GRAM_WORDS = 8
"""Length of the word runs that are compared."""

NEAR_SHARE = 0.5
"""Share of a test text's word runs from which on it is near to the training texts."""

_WORD = re.compile(r"[^\W_]+")
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|\n+")


def fold(text: str) -> str:
    """Words of a text in one case, without punctuation, one space between; apostrophes join (``don't`` is ``dont``)."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(_WORD.findall(plain.replace("'", "").replace("’", "")))


def folded_key(text: str) -> str:
    """A text folded and without spaces: equal for texts that differ in case, space and punctuation only."""
    return fold(text).replace(" ", "")


@dataclass(frozen=True)
class OverlapMatch:
    """One test text that occurs in the training texts."""

    test: int
    """Index of the test text."""
    train: int
    """Index of the first training text that it was found in."""
    kind: str
    """``equal`` or ``near``."""
    share: float
    """Share of the test text's word runs found in any training text; 1 for equal texts."""


@dataclass(frozen=True)
class OverlapReport:
    """What of the test texts occurs in the training texts."""

    equal: int
    """Number of test texts equal to a training text or to a sentence of one."""
    near: int
    """Number of test texts, not equal, with half or more of their word runs in the training texts."""
    matches: tuple[OverlapMatch, ...]
    """All of them, by index of the test text."""


def find_overlap(train_texts: Sequence[str], test_texts: Sequence[str], swap: Callable[[str], str] | None = None) -> OverlapReport:
    """Find test texts that occur in training texts.

    Training texts are compared whole and sentence by sentence; test texts whole, as they are scored. Texts without a letter or digit
    match nothing; texts under eight words have no word runs and can only be equal. Memory grows with the test texts, not with the
    training texts.

    Args:
        train_texts: what is trained on.
        test_texts: what is reported.
        swap: gives the counterfactual of a text; applied to both sides.
    """
    forms = _forms(test_texts, swap)
    wanted_keys = {key for _, key, _ in forms}
    wanted_grams = {gram for _, _, grams in forms for gram in grams}
    key_found: dict[str, int] = {}
    gram_found: dict[int, int] = {}
    for index, text in enumerate(train_texts):
        for variant in _variants(text, swap):
            for key in {folded_key(variant), *(folded_key(sentence) for sentence in _SENTENCE_END.split(variant))}:
                if key in wanted_keys:
                    key_found.setdefault(key, index)
            for gram in _grams(fold(variant)):
                if gram in wanted_grams:
                    gram_found.setdefault(gram, index)
    best: dict[int, OverlapMatch] = {}
    for index, key, grams in forms:
        match = _match(index, key, grams, key_found, gram_found)
        if match and (index not in best or match.share > best[index].share or (match.kind == "equal" and best[index].kind != "equal")):
            best[index] = match
    matches = tuple(best[index] for index in sorted(best))
    equal = sum(match.kind == "equal" for match in matches)
    return OverlapReport(equal, len(matches) - equal, matches)


def _match(index: int, key: str, grams: list[int], key_found: dict[str, int], gram_found: dict[int, int]) -> OverlapMatch | None:
    if key in key_found:
        return OverlapMatch(index, key_found[key], "equal", 1.0)
    found = [gram_found[gram] for gram in grams if gram in gram_found]
    if found and len(found) >= NEAR_SHARE * len(grams):
        return OverlapMatch(index, min(found), "near", len(found) / len(grams))
    return None


def _forms(texts: Sequence[str], swap: Callable[[str], str] | None) -> list[tuple[int, str, list[int]]]:
    """(index, key, word runs) of each test text and of its counterfactual, where that differs."""
    return [
        (index, key, list(_grams(fold(variant))))
        for index, text in enumerate(texts)
        for variant in _variants(text, swap)
        if (key := folded_key(variant))
    ]


def _variants(text: str, swap: Callable[[str], str] | None) -> tuple[str, ...]:
    return (text,) if swap is None or (swapped := swap(text)) == text else (text, swapped)


def _grams(folded: str) -> Iterable[int]:
    words = folded.split()
    # 64-bit hashes instead of the runs themselves: a tenth of the memory, and no collision to be expected among 10^8 runs
    return (hash(tuple(words[start : start + GRAM_WORDS])) for start in range(len(words) - GRAM_WORDS + 1))
