"""LAMBADA: passages of novels whose last word can be told from the whole passage only (Paperno et al. 2016, ACL).

OpenAI's detokenised test set. Never trained on: parts ``select`` and ``test`` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fairforget.data.catalogue import fetch
from fairforget.data.overlap import folded_key
from fairforget.data.parts import SELECT_TEST, assign_parts, connected_rows
from fairforget.data.rows import read_rows
from fairforget.errors import DataError

STRATUM = "novels"


@dataclass(frozen=True)
class LambadaPassage:
    """One passage."""

    id: str
    """Row number, from 0."""
    context: str
    """The passage without its last word."""
    word: str
    cluster: str
    """Equal passages."""
    stratum: str
    part: str
    """``select`` or ``test``."""


def load_lambada(path: Path | None = None) -> list[LambadaPassage]:
    """Load the 5,153 passages, in upstream order.

    Args:
        path: a file in the format of llm-foundry's ``lambada_openai.jsonl``; by default the one of the catalogue.

    Raises:
        DataError: the file lacks a column, is empty, or a row is not a context and one word.
    """
    path = path or fetch("lambada", "lambada_openai.jsonl")
    rows = read_rows(path, ["context", "continuation"])
    passages: list[tuple[str, str]] = []
    for number, row in enumerate(rows, start=1):
        context, word = str(row["context"]).strip(), str(row["continuation"]).strip()
        if not context or not word or " " in word:
            raise DataError(f"{path} row {number}: this is not a passage and its last word.")
        passages.append((context, word))
    keys = [{folded_key(f"{context} {word}") or context} for context, word in passages]
    clusters = [f"passage {first}" for first in connected_rows(keys)]
    parts = assign_parts(clusters, [STRATUM] * len(clusters), SELECT_TEST)
    return [
        LambadaPassage(str(number), context, word, cluster, STRATUM, part)
        for number, ((context, word), cluster, part) in enumerate(zip(passages, clusters, parts, strict=True))
    ]
