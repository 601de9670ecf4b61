"""From a number per token to the words that stand out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fairforget.methods._spans.base import Span, word_spans


def top_words(
    text: str, offsets: Sequence[Span], scores: Sequence[float], share: float, *, threshold: float | None = None
) -> list[Span]:
    """The words of a text with the largest summed scores, or all above a threshold.

    Args:
        text: the text.
        offsets: characters of each token.
        scores: of each token; a token counts for every word it overlaps, one that is not a number for none.
        share: of the words, rounded, at least one; words whose sum is not positive are left out.
        threshold: words whose sum is larger are taken in place of a share.

    Returns:
        Spans in the order of the text.
    """
    words = word_spans(text)
    tokens = [(start, end, score) for (start, end), score in zip(offsets, scores, strict=True) if math.isfinite(score)]
    sums = [sum(score for start, end, score in tokens if start < stop and begin < end) for begin, stop in words]
    if threshold is not None:
        return [word for word, total in zip(words, sums, strict=True) if total > threshold]
    wanted = max(1, round(share * len(words)))
    best = sorted(range(len(words)), key=lambda index: -sums[index])[:wanted]
    return sorted(words[index] for index in best if sums[index] > 0)
