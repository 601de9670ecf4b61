"""Harmful words from a list: the user's, or the words that tell hateful posts from others."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fairforget.errors import DataError
from fairforget.methods._spans.base import WORD, Span

PRIOR = 0.1
"""Pseudo-count of a word per word of the prior, which is the two corpora together."""


class LexiconFinder:
    """Marks every occurrence of listed words and phrases, whatever their case.

    Args:
        entries: words or phrases.

    Raises:
        DataError: there is none.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        listed = sorted({entry.strip().lower() for entry in entries if entry.strip()}, key=lambda entry: (-len(entry), entry))
        if not listed:
            raise DataError("The lexicon of harmful words is empty: write one word or phrase a line.")
        self.identity = "lexicon " + hashlib.sha256("\n".join(listed).encode()).hexdigest()
        self.size = len(listed)
        self._pattern = re.compile(r"(?<!\w)(?:" + "|".join(re.escape(entry) for entry in listed) + r")(?!\w)", re.IGNORECASE)

    def find(self, texts: Sequence[str]) -> list[list[Span]]:
        """Occurrences in each text, the longest entry first."""
        return [[match.span() for match in self._pattern.finditer(text)] for text in texts]


def read_lexicon(path: Path) -> list[str]:
    """Entries of a text file, one a line; lines that begin with # are remarks.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The lexicon {path} cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'}).") from error
    return [line for line in lines if not line.lstrip().startswith("#")]


def telling_words(harmful: Sequence[str], others: Sequence[str], *, limit: int = 300, least: float = 3.0) -> list[str]:
    """Words over-used in harmful texts: log-odds with an informative Dirichlet prior (Monroe, Colaresi, Quinn 2008, eq. 16 and 22).

    Args:
        harmful: texts labelled so.
        others: texts labelled otherwise, of the same kind.
        limit: at most so many words, the most telling first.
        least: z-score that a word must have.

    Returns:
        Lower-case words.
    """
    first, second = (Counter(word.lower() for text in texts for word in WORD.findall(text)) for texts in (harmful, others))
    prior = {word: PRIOR * count for word, count in (first + second).items()}
    mass, totals = sum(prior.values()), (sum(first.values()), sum(second.values()))
    scores: dict[str, float] = {}
    for word, alpha in prior.items():
        counts = first[word] + alpha, second[word] + alpha
        odds = [math.log(count / (total + mass - count)) for count, total in zip(counts, totals, strict=True)]
        scores[word] = (odds[0] - odds[1]) / math.sqrt(1 / counts[0] + 1 / counts[1])
    return sorted((word for word, score in scores.items() if score >= least), key=lambda word: -scores[word])[:limit]
