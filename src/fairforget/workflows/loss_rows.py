"""Rows whose likelihood is a loss: the right answers of a benchmark's items, or the lines of a text file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np

from fairforget.benchmarks import Benchmark, Item
from fairforget.data.rows import read_text
from fairforget.errors import UsageError
from fairforget.models import Model
from fairforget.scoring.requests import ContinuationRequest, Request
from fairforget.training import IGNORED, Row, TextStream

Element = TypeVar("Element")
GroupedRow: TypeAlias = tuple[Row, tuple[str, ...]]
"""``ids`` and ``labels`` of one row, and the groups of the item that it comes from."""


def benchmark_rows(benchmark: Benchmark, items: Sequence[Item], model: Model) -> list[GroupedRow]:
    """The right option of each item (or its only text) as rows, cut and masked as it is where the benchmark scores it.

    A causal item gives a row; a masked one gives a row for each token of the option, that token masked alone, so that the loss is the
    pseudo-log-likelihood. Items without a right option or too long for the model are left out.

    Args:
        benchmark: that made the items.
        items: of one part.
        model: whose tokenizer and family decide.

    Raises:
        UsageError: no item has a right option.
    """
    rows: list[GroupedRow] = []
    for item in items:
        texts = benchmark.plan(item, model).requests
        right: int | None = item.payload.get("right", 0 if len(texts) == 1 else None)
        if right is not None and texts:
            rows += [(request_row(request), item.groups) for request in texts[right]]
    if not rows:
        raise UsageError(
            f"No item of {benchmark.name} has a right option whose likelihood could be a loss: choose a benchmark of questions, such as "
            "question-answering:bbq, or a text file."
        )
    return rows


def request_row(request: Request) -> Row:
    """The tokens that a request scores as labels, everything else as given."""
    if isinstance(request, ContinuationRequest):
        ids = [*request.context, *request.continuation]
        labels = [*([IGNORED] * len(request.context)), *request.continuation]
        return {"ids": ids, "labels": [IGNORED, *labels[1:]]}  # a first token has no distribution to be read from
    labels = [IGNORED] * len(request.ids)
    for place, target in zip(request.positions, request.targets, strict=True):
        labels[place] = target
    return {"ids": list(request.ids), "labels": labels}


def text_rows(model: Model, path: Path, *, max_length: int = 128, seed: int = 0) -> list[GroupedRow]:
    """The lines of a text file as rows without groups, each cut at `max_length` tokens; masked models get one fixed mask a line.

    Raises:
        DataError: the file cannot be read or is empty.
    """
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    stream = TextStream(model, lines, max_length=max_length, seed=seed)
    return [(stream.example(index, 0), ()) for index in range(len(stream))]


def drawn(items: Sequence[Element], limit: int | None, seed: int = 0) -> list[Element]:
    """At most `limit` items, drawn by the seed, in their order."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[number] for number in sorted(np.random.default_rng([seed, 19]).permutation(len(items))[:limit].tolist())]
