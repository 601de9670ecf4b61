"""STS-B: pairs of English sentences with a score of their likeness (Cer et al. 2017), as upstream's files have them."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from fairforget.data.catalogue import fetch
from fairforget.data.rows import read_text
from fairforget.errors import DataError, unknown_name

FILES = {"train": "stsb-en-train.csv", "select": "stsb-en-dev.csv", "test": "stsb-en-test.csv"}
"""File of each part."""


@dataclass(frozen=True)
class SentencePair:
    """Two sentences and how alike they are, from 0 to 5."""

    first: str
    second: str
    score: float


def load_stsb(part: str, path: Path | None = None) -> list[SentencePair]:
    """Load a part (train 5,749, select 1,500, test 1,379 pairs), in upstream order.

    Raises:
        UsageError: there is no such part.
        DataError: the file is missing or damaged, or a row is not two sentences and a score.
    """
    if part not in FILES:
        raise unknown_name("part of STS-B", part, FILES)
    path = path or fetch("stsb", FILES[part])
    pairs: list[SentencePair] = []
    for number, row in enumerate(csv.reader(io.StringIO(read_text(path))), start=1):
        try:
            first, second, score = row
            pairs.append(SentencePair(first, second, float(score)))
        except ValueError as error:
            raise DataError(f"{path} row {number}: this is not two sentences and a score: get the file again.") from error
    if not pairs:
        raise DataError(f"{path} is empty: get it again.")
    return pairs
