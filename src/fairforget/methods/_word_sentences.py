"""Sentences by the words they hold: those of exactly one group, and those with a stereotype word and of no group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from fairforget.data.group_sentences import split_sentences
from fairforget.data.words import find_word_list, group_words, stereotype_words
from fairforget.errors import UsageError
from fairforget.methods._base import texts_of
from fairforget.methods._retain import CORPUS, retain_texts
from fairforget.methods._spans import Span
from fairforget.methods._spans.lexicon import LexiconFinder, read_lexicon
from fairforget.methods._trained import Job, TrainedSettings
from fairforget.objectives.spans import SpanStream

LEFT_CONTEXT = 3
"""Tokens that a causal model has read before a word whose state is looked at."""


class WordSettings(TrainedSettings):
    """Settings of the methods that look at words in sentences."""

    words: str = "gender"
    """Words of the groups: a list of this package (gender, race, religion, nationality) or a file of one's own."""
    stereotypes: str = "package"
    """Words that are to be of no group: `package`, our list of occupations, traits and pastimes, or a text file, one a line."""
    neutral_text: str = CORPUS
    """Where sentences with such words are found, beside the training texts: `lm-corpus-small`, `starter`, or a text file."""
    max_sentences: int = Field(1000, ge=1)
    """Sentences of each group, and of stereotype words, at most, drawn by the seed."""


@dataclass(frozen=True)
class Marked:
    """Sentences with the places of their words."""

    texts: list[str]
    spans: list[list[Span]]


@dataclass(frozen=True)
class WordSentences:
    """Sentences of each group, and of stereotype words."""

    groups: list[Marked]
    neutral: Marked


def word_sentences(job: Job, settings: WordSettings, *, grouped: bool = True) -> WordSentences:
    """Sort the sentences of the training data, and of the neutral text, by their words.

    Args:
        job: model, data, seed.
        settings: words and where they are looked for.
        grouped: whether sentences of each group are needed too; without, none are given.

    Raises:
        UsageError: there is no sentence of some group, or none with a stereotype word alone.
    """
    words = find_word_list(settings.words)
    finders = [LexiconFinder(found) for found in group_words(words)]
    stereotypes = LexiconFinder(stereotype_words() if settings.stereotypes == "package" else read_lexicon(Path(settings.stereotypes)))
    texts = [*texts_of(job.data), *retain_texts(settings.neutral_text, job.seed)]
    sentences = list(dict.fromkeys(sentence for text in texts for sentence in split_sentences(text)))
    by_group = [finder.find(sentences) for finder in finders]
    by_stereotype = stereotypes.find(sentences)
    groups = [
        [number for number, spans in enumerate(found) if spans and not any(other[number] for other in by_group if other is not found)]
        for found in (by_group if grouped else [])
    ]
    neutral = [number for number, spans in enumerate(by_stereotype) if spans and not any(found[number] for found in by_group)]
    for name, numbers in (*zip(words.groups, groups, strict=False), ("stereotype", neutral)):
        if not numbers:
            what = "with a stereotype word and of no group" if name == "stereotype" else f"about the group '{name}' alone"
            raise UsageError(f"No sentence {what} was found in the training data and the neutral text: train on train.source=corpus, or "
                             "set method.words, method.stereotypes or method.neutral_text.")
    most = min([settings.max_sentences, *map(len, groups)])  # a group is not to be known better than another
    job.notes["sentences"] = {"of each group": most if groups else 0, "neutral": min(len(neutral), settings.max_sentences)}

    def drawn(numbers: Sequence[int], spans: Sequence[list[Span]], most: int, salt: int) -> Marked:
        chosen = np.random.default_rng([job.seed, salt]).permutation(numbers)[:most].tolist()
        return Marked([sentences[number] for number in chosen], [spans[number] for number in chosen])

    return WordSentences(
        [drawn(numbers, spans, most, salt) for salt, (numbers, spans) in enumerate(zip(groups, by_group, strict=False))],
        drawn(neutral, by_stereotype, settings.max_sentences, len(by_group)),
    )


def marked_stream(job: Job, marked: Marked, settings: TrainedSettings, *, context: int = LEFT_CONTEXT) -> SpanStream:
    """Sentences as rows whose words are labelled and visible; a causal model must have read so many tokens before a word."""
    return SpanStream(
        job.model, marked.texts, marked.spans, max_length=settings.max_length, whole=True, hide=False,
        context=context + len(job.model.prefix) if context else 0, seed=job.seed,
    )
