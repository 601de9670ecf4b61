"""Benchmarks of questions that a model answers in its own words: greedy decoding, and a match of the answer with an accepted one."""

from __future__ import annotations

import hashlib
import re
import string
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import polars as pl
from pydantic import Field

from fairforget.benchmarks._base import Item, MetricDefinition
from fairforget.benchmarks._generation import GenerationBenchmark, GenerationSettings
from fairforget.scoring.generation import Answer, Decoding

if TYPE_CHECKING:
    from fairforget.models.model import Model

Example = TypeVar("Example")

EXACT_MATCH = MetricDefinition(
    "exact_match", (100 * pl.col("correct"),), (pl.col("correct").is_not_null().cast(pl.Float64),), "%", "higher",
    description="Share of answers that equal an accepted one after normalisation.",
)
SHOTS_SEPARATOR = "\n\n"
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class ExactMatchSettings(GenerationSettings):
    """How questions are asked; answers are greedy."""

    shots: int = Field(default=0, ge=0, le=64)
    """Answered questions before the one that is asked, the same for all and none of them its own."""


class ExactMatchBenchmark(GenerationBenchmark):
    """Common part of benchmarks that compare what was written with accepted answers. Items hold the prompt in ``payload["prompt"]``."""

    stop: tuple[str, ...] = ()
    """Strings at which an answer ends."""

    def decoding(self) -> Decoding:
        """Greedy, up to a stop string."""
        return Decoding(self.settings.max_new_tokens, temperature=0.0, stop=self.stop)

    def prompt(self, item: Item) -> str:
        """Answered questions and the question; the chat format has the same text as one message."""
        return item.payload["prompt"]

    def answered(self, items: Sequence[Item], answers: Sequence[Sequence[Answer]], model: Model, *, store: bool) -> list[dict[str, Any]]:
        """The rows of :meth:`judged` for every item; a prompt that is too long is skipped in each of them."""
        del store
        rows: list[dict[str, Any]] = []
        for item, (answer, *_) in zip(items, answers, strict=True):
            known = self.identity(item, model)
            for judgement in self.judged(item, answer.text):
                found = {"correct": None, "skipped": answer.skipped} if answer.skipped else {"answer": answer.text}
                rows.append({**known, **judgement, **found})
        return rows

    @abstractmethod
    def judged(self, item: Item, answer: str) -> list[dict[str, Any]]:
        """What an answer is worth: ``correct``, and ``task`` where there are several ways of reading it."""

    def protocol(self, item: Item, family: str) -> str:
        """``exact match, greedy`` with the number of shots."""
        del item, family
        engine: Literal["transformers", "vllm"] = self.settings.engine
        return f"exact match, {self.settings.shots} shots, greedy{', vllm' if engine == 'vllm' else ''}"

    def metrics(self) -> list[MetricDefinition]:
        """Exact match."""
        return [EXACT_MATCH]


def normalised(text: str, ignored: Sequence[str] = (), *, punctuation: bool = False) -> str:
    """A text as lm-eval's ``exact_match`` compares it: without ignored patterns, in small letters, without punctuation where asked.

    Args:
        text: an answer.
        ignored: regular expressions (``regexes_to_ignore``), taken out in turn.
        punctuation: whether ASCII punctuation is taken out (``ignore_punctuation``).
    """
    for pattern in ignored:
        text = re.sub(pattern, "", text)
    text = text.lower()
    return text.translate(_PUNCTUATION) if punctuation else text


def hashed_order(examples: Sequence[tuple[str, Example]]) -> list[tuple[str, Example]]:
    """(key, example) in the order of their keys' hashes: the same few come first on every machine."""
    return sorted(examples, key=lambda pair: (hashlib.sha256(f"shots:{pair[0]}".encode()).digest(), pair[0]))


def few_shot(shots: Sequence[tuple[str, str]], own: str, count: int, question: str) -> str:
    """The first `count` answered questions that are not of the cluster `own`, and the question.

    Args:
        shots: (cluster, question with its answer), in the order in which they are taken.
        own: cluster of the question that is asked.
        count: how many.
        question: with the words that ask for the answer.
    """
    chosen: list[str] = []
    for cluster, text in shots:
        if len(chosen) == count:
            break
        if cluster != own:
            chosen.append(text)
    return SHOTS_SEPARATOR.join([*chosen, question])
