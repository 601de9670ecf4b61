"""Sentences that name a group, in a version for each group: what projections are found from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from fairforget.data.swaps import Swapper
from fairforget.data.training import TrainingSource, TrainingText
from fairforget.data.words import word_list
from fairforget.errors import UsageError

Words = Literal["gender", "nationality", "race", "religion"]
"""Word lists of :mod:`fairforget.data.words`."""

MOST_VERSIONS = 3
"""Versions of a sentence that are made: enough for the three races and religions of Bias Bench."""
DRAWS = 8
"""Seeds that are tried for different exchanges of three or more groups."""
SHORTEST_NEUTRAL = 4
"""Words that a cut sentence without a listed word keeps at least, as in Bias Bench."""

Data = TrainingSource | Sequence[TrainingText] | Sequence[str]


def sentences_of(data: Data) -> list[str]:
    """All texts and counterparts of training data, each once, in order.

    Raises:
        UsageError: there are none.
    """
    rows = data.texts if isinstance(data, TrainingSource) else data
    texts = [text for row in rows for text in ((row,) if isinstance(row, str) else (row.text, row.counterpart)) if text.strip()]
    if not texts:
        raise UsageError("The training data are empty: a projection is found from texts that name groups.")
    return list(dict.fromkeys(texts))


def swapped_versions(sentences: Sequence[str], words: Words, *, names: bool) -> list[tuple[str, ...]]:
    """Each sentence with a listed word, with its groups exchanged in every way that was found, itself first; each set of versions once.

    Args:
        sentences: any.
        words: word list.
        names: exchange first names too (gender only).
    """
    groups = len(word_list(words).groups)
    swappers = [Swapper(words, names=names, seed=seed) for seed in range(DRAWS if groups > 2 else 1)]
    found: list[tuple[str, ...]] = []
    seen: set[str] = set()
    for sentence in sentences:
        if sentence in seen or not swappers[0].count(sentence):
            continue
        versions = dict.fromkeys([sentence, *(swapper.swap(sentence) for swapper in swappers)])
        kept = tuple(versions)[: min(groups, MOST_VERSIONS)]
        if len(kept) > 1:
            found.append(kept)
            seen.update(kept)
    return found


def paired_versions(data: Data) -> list[tuple[str, ...]]:
    """(text, counterpart) of every training text that has one."""
    rows = data.texts if isinstance(data, TrainingSource) else data
    pairs = [(row.text, row.counterpart) for row in rows if isinstance(row, TrainingText) and row.counterpart]
    return list(dict.fromkeys(pair for pair in pairs if pair[0] != pair[1]))


def cut_after(sentence: str, swapper: Swapper, generator: np.random.Generator) -> str:
    """The sentence cut at a random word at or after its first listed word; one without any keeps at least four words."""
    words = sentence.split()
    if swapper.count(sentence):
        first = next(end for end in range(1, len(words) + 1) if end == len(words) or swapper.count(" ".join(words[:end])))
    else:
        first = min(SHORTEST_NEUTRAL, len(words))
    return " ".join(words[: int(generator.integers(first, len(words) + 1))])
