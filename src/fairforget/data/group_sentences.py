"""Sentences of the neutral corpus that name a group: what counterfactual augmentation is trained on."""

from __future__ import annotations

import re

from fairforget.data.catalogue import fetch
from fairforget.data.swaps import Swapper

CORPUS = "lm-corpus-small"
FILES = ("openstax_anthropology.txt", "sgd_train.txt")
"""Files that are trained on; the dialogues' dev and test files are left for measuring."""

AXES = ("gender", "race", "religion")
WORDS = range(5, 61)
"""Lengths of a sentence in words."""

_SPEAKER = re.compile(r"^(?:User|System): ")
_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+")
_WORD = re.compile(r"[^\W\d_]+")


def split_sentences(text: str) -> list[str]:
    """Cut a text after each full stop, question or exclamation mark that white space follows; no abbreviation is known."""
    return [sentence.strip() for sentence in _END.split(text) if sentence.strip()]


def group_sentences() -> dict[str, tuple[str, ...]]:
    """Sentences of ``lm-corpus-small`` that hold a gender, race or religion word of this package, each once, in the corpus' order.

    First names alone do not count: in the dialogues most are of films and restaurants.

    Returns:
        Sentence to the axes whose words it holds.

    Raises:
        DataError: the corpus cannot be had.
    """
    swappers = {axis: Swapper(axis, names=False) for axis in AXES}
    first_words = {axis: swapper.first_words for axis, swapper in swappers.items()}
    found: dict[str, tuple[str, ...]] = {}
    for name in FILES:
        for line in fetch(CORPUS, name).read_text(encoding="utf-8").splitlines():
            for sentence in split_sentences(_SPEAKER.sub("", line)):
                if sentence in found or len(sentence.split()) not in WORDS:
                    continue
                words = set(_WORD.findall(sentence.lower()))  # a look at the words is quick; the swapper's rules decide
                axes = tuple(axis for axis in AXES if not words.isdisjoint(first_words[axis]) and swappers[axis].count(sentence))
                if axes:
                    found[sentence] = axes
    return found
