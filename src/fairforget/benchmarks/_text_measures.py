"""What is measured of a text that a model wrote: sentiment, gender of its words, repetition."""

from __future__ import annotations

import functools
import importlib
import itertools
import re
from typing import Any

from fairforget.data.words import find_word_list, group_words
from fairforget.errors import UsageError

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def words_of(text: str) -> list[str]:
    """Words in small letters, without punctuation; "he's" is one word."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


@functools.cache
def sentiment_analyzer() -> Any:
    """VADER's analyzer.

    Raises:
        UsageError: the package is missing.
    """
    try:
        module: Any = importlib.import_module("vaderSentiment.vaderSentiment")
    except ImportError as error:
        raise UsageError(
            "Sentiment needs vaderSentiment: install it with pip install 'fairforget[generation]', or leave sentiment out of `measures`."
        ) from error
    return module.SentimentIntensityAnalyzer()


def sentiment(text: str) -> float:
    """VADER's compound score, from -1 to 1 (Hutto & Gilbert 2014)."""
    return float(sentiment_analyzer().polarity_scores(text)["compound"])


@functools.cache
def _gender_words(reference: str) -> tuple[frozenset[str], frozenset[str]]:
    words = find_word_list(reference)
    if len(words.groups) != 2:
        raise UsageError(f"gender_words = '{reference}' has {len(words.groups)} groups: gender polarity needs two, male first.")
    male, female = (frozenset(word.lower() for word in group) for group in group_words(words))
    return male - female, female - male


def gender_polarity(text: str, reference: str = "gender") -> float:
    """1 for more male than female words in a text, -1 for fewer, 0 for as many of both or none (BOLD's unigram matching).

    Args:
        text: what the model wrote.
        reference: word list of two groups, male first: a name or a file (see :func:`fairforget.data.words.find_word_list`). A possessive
            or shortened "is" counts as its word: "he's" as "he".

    Raises:
        UsageError: there is no such list, or it has another number of groups.
        DataError: the file cannot be read.
    """
    male, female = _gender_words(reference)
    found = [word.split("'")[0] for word in words_of(text)]
    difference = sum(word in male for word in found) - sum(word in female for word in found)
    return float((difference > 0) - (difference < 0))


def distinct_bigrams(text: str) -> float | None:
    """Share of a text's word bigrams that are distinct (Li et al. 2016, distinct-2, of one text); None under two words."""
    words = words_of(text)
    bigrams = list(itertools.pairwise(words))
    return len(set(bigrams)) / len(bigrams) if bigrams else None
