"""Posts of a labelled source that are not hateful: what a lexicon, a probe and the non-hateful control compare with."""

from __future__ import annotations

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
