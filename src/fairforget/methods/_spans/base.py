"""What a span finder is, and the cache that makes its findings last."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from fairforget.errors import FairforgetError
from fairforget.files import atomic_path

Span: TypeAlias = tuple[int, int]
"""Start and end of a stretch of characters."""

WORD = re.compile(r"\w+(?:['’-]\w+)*")


class SpanFinder(Protocol):
    """Says which words of a text carry its harm."""

    @property
    def identity(self) -> str:
        """Name and everything that its findings depend on, for the cache and the record."""
        ...

    def find(self, texts: Sequence[str]) -> list[list[Span]]:
        """Spans of each text, in order and without overlap."""
        ...


def word_spans(text: str) -> list[Span]:
    """Where the words of a text are."""
    return [match.span() for match in WORD.finditer(text)]


def span_jaccard(first: Sequence[Sequence[Span]], second: Sequence[Sequence[Span]]) -> float:
    """How much two findings on the same texts agree: characters that both mark over characters that either marks; 1 where none are.

    Args:
        first: spans of each text.
        second: of the same texts, in the same order.
    """
    both = either = 0
    for ours, theirs in zip(first, second, strict=True):
        marked = [{place for start, end in spans for place in range(start, end)} for spans in (ours, theirs)]
        both += len(marked[0] & marked[1])
        either += len(marked[0] | marked[1])
    return both / either if either else 1.0


def cached_spans(finder: SpanFinder, texts: Sequence[str], file: Path, part: int = 64) -> list[list[Span]]:
    """Spans of every text, those found before taken from a JSON-lines file that the others are added to.

    Args:
        finder: asked for what the file lacks, some texts at a time, so that little is lost to a kill.
        texts: distinct or not.
        file: one line a finding: finder, hash of the text, spans. Texts themselves are not in it.
        part: texts asked for at once.

    Raises:
        FairforgetError: the file is damaged.
    """
    identity = hashlib.sha256(finder.identity.encode()).hexdigest()[:16]
    known: dict[str, list[Span]] = {}
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            if entry["finder"] == identity:
                known[entry["text"]] = [(int(start), int(end)) for start, end in entry["spans"]]
        except (ValueError, KeyError, TypeError) as error:
            problem = f"{file}, line {number}: this is no finding of a span finder; remove the file to find them again."
            raise FairforgetError(problem) from error
    keys = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    missing = list(dict.fromkeys((key, text) for key, text in zip(keys, texts, strict=True) if key not in known))
    for start in range(0, len(missing), part):
        asked = missing[start : start + part]
        for (key, _), spans in zip(asked, finder.find([text for _, text in asked]), strict=True):
            known[key] = spans
            lines.append(json.dumps({"finder": identity, "text": key, "spans": spans}))
        with atomic_path(file) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [known[key] for key in keys]


def random_spans(texts: Sequence[str], spans: Sequence[Sequence[Span]], seed: int) -> list[list[Span]]:
    """As many words of each text as its spans cover, drawn from its other words where these suffice: the control of equal rate."""
    drawn: list[list[Span]] = []
    for number, (text, found) in enumerate(zip(texts, spans, strict=True)):
        words = word_spans(text)
        hit = [word for word in words if any(word[0] < end and start < word[1] for start, end in found)]
        others = [word for word in words if word not in hit]
        generator = np.random.default_rng([seed, number])
        first = generator.permutation(len(others))[: len(hit)].tolist()
        rest = generator.permutation(len(hit))[: len(hit) - len(first)].tolist()
        drawn.append(sorted([others[index] for index in first] + [hit[index] for index in rest]))
    return drawn
