"""Posts of a labelled source that are not hateful: what a lexicon, a probe and the non-hateful control compare with."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

import numpy as np

from fairforget.data.posts import load_edos, load_toxic_spans
from fairforget.data.starter import load_starter
from fairforget.errors import UsageError


def negative_texts(source: str) -> list[str]:
    """Texts of the `train` part of a source that do not carry what its training texts carry.

    Args:
        source: ``edos`` (posts labelled not sexist), ``civil-comments`` (posts without a toxic span) or ``starter`` (anti-stereotypes and
            neutral sentences).

    Raises:
        UsageError: the source has no such texts.
    """
    if source == "edos":
        return [post.text for post in load_edos() if post.part == "train" and not post.sexist]
    if source == "civil-comments":
        return [post.text for post in load_toxic_spans("train") if not post.toxic_characters]
    if source == "starter":
        starter = load_starter()
        return [pair.anti for pair in starter.pairs_of("train")] + [text.text for text in starter.neutral]
    raise UsageError(
        f"The training source '{source}' has no texts without harm to compare with; use edos, civil-comments or starter, or a finder that "
        "needs none: method.lexicon with a file of words, contrast, llm, or attribution with method.classifier."
    )


def matched_lengths(texts: Sequence[str], others: Sequence[str], seed: int) -> Iterator[list[str]]:
    """Rounds of other texts, in each one for every text: the nearest in words of those that are left, ties drawn by the seed.

    Args:
        texts: whose lengths are matched.
        others: drawn from, each at most once over all rounds.
        seed: of the draw.
    """
    drawn: list[int] = np.random.default_rng([seed, len(others)]).permutation(len(others)).tolist()
    left = sorted(((len(others[index].split()), place, index) for place, index in enumerate(drawn)))
    while left:
        found: list[str] = []
        for text in texts:
            if not left:
                break
            wanted = len(text.split())
            place = bisect_left(left, (wanted,))
            if place == len(left) or (place and wanted - left[place - 1][0] < left[place][0] - wanted):
                place -= 1
            found.append(others[left.pop(place)[2]])
        yield found
