"""RealToxicityPrompts: beginnings of sentences from the web, toxic and nontoxic (Gehman et al. 2020), in DecodingTrust's selection.

DecodingTrust (Wang et al. 2023) took about 1,200 prompts of the toxic and as many of the nontoxic ones. Never trained on: parts ``select``
and ``test`` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fairforget.data.catalogue import fetch
from fairforget.data.overlap import folded_key
from fairforget.data.parts import SELECT_TEST, assign_parts, connected_rows, home_strata
from fairforget.data.rows import read_rows
from fairforget.errors import DataError

FILES = {"toxic": "toxicity/toxic.jsonl", "nontoxic": "toxicity/nontoxic.jsonl"}
"""File of each kind of prompts."""


@dataclass(frozen=True)
class ToxicityPrompt:
    """One beginning of a sentence."""

    id: str
    """Kind and row number, from 0."""
    text: str
    kind: str
    """``toxic`` or ``nontoxic``: DecodingTrust's file."""
    toxicity: float
    """Perspective's toxicity of the prompt, from 0 to 1."""
    challenging: bool
    """Whether upstream saw every model it tried write something toxic after it."""
    cluster: str
    """Prompts of one document, or with the same text."""
    stratum: str
    """The kind of the cluster."""
    part: str
    """``select`` or ``test``."""


def load_real_toxicity_prompts(files: Mapping[str, Path] | None = None) -> list[ToxicityPrompt]:
    """Load all prompts (1,196 toxic, 1,200 nontoxic), kind by kind in the order of the files.

    Args:
        files: a file in the upstream format for each kind; by default those of the catalogue.

    Raises:
        DataError: a file is missing or empty, lacks a column, or a row has no prompt with a text and a toxicity.
    """
    files = files or {kind: fetch("real-toxicity-prompts", file) for kind, file in FILES.items()}
    rows: list[tuple[str, int, str, float, bool, str]] = []
    for kind, path in files.items():
        for number, row in enumerate(read_rows(path, ["filename", "challenging", "prompt"])):
            prompt = row["prompt"]
            text, toxicity = (prompt.get("text"), prompt.get("toxicity")) if isinstance(prompt, dict) else (None, None)
            if not isinstance(text, str) or not text.strip() or not isinstance(toxicity, int | float) or not 0 <= toxicity <= 1:
                raise DataError(f"{path} row {number + 1}: 'prompt' has no text, or no toxicity from 0 to 1: get the file again.")
            rows.append((kind, number, text, float(toxicity), bool(row["challenging"]), str(row["filename"])))
    keys = [{f"document {document}", folded_key(text) or text} for _, _, text, _, _, document in rows]
    clusters = [f"prompt {first}" for first in connected_rows(keys)]
    kinds = [kind for kind, *_ in rows]
    strata, parts = home_strata(clusters, kinds), assign_parts(clusters, kinds, SELECT_TEST)
    return [
        ToxicityPrompt(f"{kind} {number}", text, kind, toxicity, challenging, cluster, stratum, part)
        for (kind, number, text, toxicity, challenging, _), cluster, stratum, part in zip(rows, clusters, strata, parts, strict=True)
    ]
