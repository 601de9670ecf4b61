"""CrowS-Pairs: minimal pairs of sentences on nine kinds of social bias (Nangia et al. 2020, EMNLP).

`sent_more` is the more stereotypical sentence in either direction: with direction ``stereo`` it demonstrates a stereotype of a
disadvantaged group, with ``antistereo`` its partner violates one. Never trained on (its authors ask for that): parts ``select`` and
``test`` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fairforget.data.catalogue import fetch
from fairforget.data.overlap import folded_key
from fairforget.data.parts import SELECT_TEST, assign_parts, connected_rows, home_strata
from fairforget.data.rows import read_rows
from fairforget.errors import DataError

DIRECTIONS = ("stereo", "antistereo")


@dataclass(frozen=True)
class CrowsPair:
    """One pair. `index` is its row number upstream, from 0."""

    index: int
    sent_more: str
    sent_less: str
    direction: str
    bias_type: str
    cluster: str
    """Pairs written to the same prompt, or that share a sentence."""
    stratum: str
    """The bias type of the cluster (its most frequent one; 17 clusters of the real data hold pairs of two types)."""
    part: str
    """``select`` or ``test``: halves of the clusters of a stratum."""


def load_crows_pairs(path: Path | None = None, prompts: Path | None = None) -> list[CrowsPair]:
    """Load all pairs, in upstream order.

    Clusters: two pairs belong together when their writers saw the same prompt or when they share a sentence, once case, space and
    punctuation are folded. Upstream's 1,508 rows make 1,486 clusters (21 prompts were used twice, and two rows hold the same two
    sentences). Other rows are texts of their own: no two of them share a run of eight words.

    Args:
        path: a file in the upstream format; by default the one of the catalogue.
        prompts: upstream's ``prompts.csv`` for that file; without it a given file is clustered by shared sentences alone.

    Raises:
        DataError: the file lacks a column, is empty, or has a direction that is not ``stereo`` or ``antistereo``.
    """
    if path is None:
        path = fetch("crows-pairs", "crows_pairs_anonymized.csv")
        prompts = fetch("crows-pairs", "prompts.csv")
    rows: list[dict[str, str]] = read_rows(path, ["sent_more", "sent_less", "stereo_antistereo", "bias_type"])
    for index, row in enumerate(rows):
        if row["stereo_antistereo"] not in DIRECTIONS:
            raise DataError(f"{path} row {index}: stereo_antistereo is neither {DIRECTIONS[0]} nor {DIRECTIONS[1]}.")
        for column in ("sent_more", "sent_less", "bias_type"):
            if not row[column].strip():
                raise DataError(f"{path} row {index}: {column} is blank.")
    shared = [{folded_key(row["sent_more"]), folded_key(row["sent_less"])} for row in rows]
    if prompts is not None:
        seen: list[dict[str, str]] = read_rows(prompts, ["prompt"])
        if len(seen) != len(rows):
            raise DataError(f"{prompts} has {len(seen)} rows and {path} has {len(rows)}: they do not belong together.")
        for keys, row in zip(shared, seen, strict=True):
            keys.add("prompt " + folded_key(row["prompt"]))  # a folded key has no space, so a prompt is never taken for a sentence
    clusters = [f"pair {first}" for first in connected_rows(shared)]
    types = [row["bias_type"] for row in rows]
    strata, parts = home_strata(clusters, types), assign_parts(clusters, types, SELECT_TEST)
    return [
        CrowsPair(index, row["sent_more"], row["sent_less"], row["stereo_antistereo"], row["bias_type"], cluster, stratum, part)
        for index, (row, cluster, stratum, part) in enumerate(zip(rows, clusters, strata, parts, strict=True))
    ]
