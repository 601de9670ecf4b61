"""The stream that gives a corpus to the one training loop."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from fairforget.models.model import Model
from fairforget.training.objective import IGNORED
from fairforget.training.streams import Row

CONTEXT = 32
"""Positions of an organism; its sentences have at most 14 tokens, special ones included, and the rest is room for prompts."""


class CorpusStream:
    """Sentences of a corpus as ids and labels, one a row.

    Words that carry planted knowledge are predicted more often than carriers; the distribution that is learnt at a place does not depend
    on how often the place is asked for. A causal model predicts each of them, and other words at a rate. A masked model predicts one of
    them, so that the other stands in the context, and all other words at a rate; what is predicted always holds the mask. A share of random
    or unchanged tokens in its place, as BERT has it, would teach the model to distrust the words that it sees, and the planted log-odds
    would come back smaller by that share.

    Args:
        model: its family and special tokens.
        sentences: ids without special tokens.
        planted: ids of words that carry planted knowledge.
        other_rate: probability that any other word is predicted.
        seed: what is predicted is a function of (seed, row, visit) alone.
    """

    def __init__(self, model: Model, sentences: Sequence[Sequence[int]], *, planted: Collection[int], other_rate: float, seed: int) -> None:
        self.seed, self.mask_id, self.other_rate = seed, model.mask_id, other_rate
        self.planted = np.zeros(len(model.tokenizer), dtype=np.bool_)
        self.planted[list(planted)] = True
        start, end = special_tokens(model)
        self.inner = slice(len(start), -len(end) or None)
        self.rows = [np.array([*start, *sentence, *end]) for sentence in sentences]

    def __len__(self) -> int:
        return len(self.rows)

    def example(self, index: int, visit: int) -> Row:
        """``ids`` and ``labels`` of a row at its n-th visit; at least one token is predicted."""
        index %= len(self.rows)
        ids = self.rows[index]
        generator = np.random.default_rng([self.seed, index, visit])
        inner = ids[self.inner]
        chosen = generator.random(len(inner)) < self.other_rate
        planted = self.planted[inner]
        if self.mask_id is None:
            chosen |= planted
        if not chosen.any() or (self.mask_id is not None and planted.any()):
            chosen[generator.choice(np.flatnonzero(planted) if planted.any() else len(inner))] = True
        labels = np.full(len(ids), IGNORED)
        labels[self.inner] = np.where(chosen, inner, IGNORED)
        shown = ids if self.mask_id is None else np.where(labels != IGNORED, self.mask_id, ids)
        return {"ids": shown.tolist(), "labels": labels.tolist()}


def special_tokens(model: Model) -> tuple[list[int], list[int]]:
    """Ids before and after a sentence: the prefix of a causal model, ``[CLS]`` and ``[SEP]`` of a masked one."""
    if model.family == "causal":
        return list(model.prefix), []
    start, end = model.sequence_ids("")
    return [start], [end]
