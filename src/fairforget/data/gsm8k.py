"""GSM8K: grade-school arithmetic in words (Cobbe et al. 2021, arXiv 2110.14168).

Upstream's test file is the part ``test``; its training file is dealt out to ``train`` (four fifths) and ``select``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fairforget.data.catalogue import fetch
from fairforget.data.overlap import folded_key
from fairforget.data.parts import assign_parts, connected_rows
from fairforget.data.rows import read_rows
from fairforget.errors import DataError

TRAIN_SELECT: Mapping[str, float] = {"train": 0.8, "select": 0.2}
"""Shares of upstream's training file."""

STRATUM = "arithmetic"
_NUMBER = re.compile(r"-?\d[\d,]*(\.\d+)?")


@dataclass(frozen=True)
class GSM8KItem:
    """One problem."""

    id: str
    """``train`` or ``test`` (upstream's file) and row number, from 0."""
    question: str
    solution: str
    """Upstream's worked solution, calculator notes (``<<2+2=4>>``) included, without the last line."""
    answer: str
    """The number after ``####``, without the commas of thousands."""
    cluster: str
    """Problems equal once case, space and punctuation are folded."""
    stratum: str
    part: str
    """``train``, ``select`` or ``test``."""


def load_gsm8k(train: Path | None = None, test: Path | None = None) -> list[GSM8KItem]:
    """Load all problems (7,473 for training, 1,319 for the test), training file first, in upstream order.

    A problem of the training file that also stands in the test file belongs to the part ``test``.

    Args:
        train: a file in the format of upstream's ``train.jsonl``; by default the one of the catalogue.
        test: one in the format of ``test.jsonl``; by default the one of the catalogue.

    Raises:
        DataError: a file lacks a column, is empty, or an answer does not end in ``####`` and a number.
    """
    files = {"train": train or fetch("gsm8k", "train.jsonl"), "test": test or fetch("gsm8k", "test.jsonl")}
    rows: list[tuple[str, str, str, str, str]] = []
    for name, path in files.items():
        for number, row in enumerate(read_rows(path, ["question", "answer"])):
            solution, mark, answer = str(row["answer"]).rpartition("####")
            answer = answer.strip().replace(",", "")
            if not mark or not _NUMBER.fullmatch(answer) or not str(row["question"]).strip():
                raise DataError(f"{path} row {number + 1}: this is not a question and a solution that ends in '#### NUMBER'.")
            rows.append((name, f"{name} {number}", str(row["question"]).strip(), solution.strip(), answer))
    clusters = [f"problem {first}" for first in connected_rows([{folded_key(question) or question} for _, _, question, _, _ in rows])]
    tested = {cluster for cluster, row in zip(clusters, rows, strict=True) if row[0] == "test"}
    parts = assign_parts(clusters, [STRATUM] * len(clusters), TRAIN_SELECT)
    return [
        GSM8KItem(name, question, solution, answer, cluster, STRATUM, "test" if cluster in tested else part)
        for (_, name, question, solution, answer), cluster, part in zip(rows, clusters, parts, strict=True)
    ]
