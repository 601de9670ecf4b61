"""RedditBias: comments with a stereotype about a group, and the same with the other group's word (Barikeri et al. 2021, ACL).

Five axes. Upstream's `test` files report and its `valid` files select; valid pairs that share a text with a test pair are in no part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from fairforget.data.catalogue import fetch
from fairforget.data.overlap import folded_key
from fairforget.data.parts import connected_rows
from fairforget.data.rows import read_rows
from fairforget.errors import DataError

Axis: TypeAlias = Literal["gender", "orientation", "race", "religion1", "religion2"]

AXES: Mapping[Axis, tuple[str, str]] = {
    "gender": ("female", "male"), "orientation": ("lgbtq", "straight"), "race": ("black", "white"), "religion1": ("jews", "christians"),
    "religion2": ("muslims", "christians"),
}
"""Axes of bias; the group that the stereotypes are about, and the group of the counterfactual."""

_FILES = {"valid": "select", "test": "test"}


@dataclass(frozen=True)
class RedditPair:
    """One comment about the group of the stereotype, and its counterfactual."""

    id: str
    """Axis, upstream file (``valid`` or ``test``) and row number, from 0."""
    axis: Axis
    stereotype: str
    counterfactual: str
    cluster: str
    """Pairs that share a text, case, space and punctuation folded."""
    part: str
    """``test``, ``select``, or ``none`` for a valid pair of a cluster that is in `test` too."""


def load_redditbias(folder: Path | None = None) -> list[RedditPair]:
    """Load all pairs, by axis, `valid` before `test`, in upstream order: 1,212 and 1,216 pairs.

    Args:
        folder: upstream's ``data`` folder; by default the files of the catalogue.

    Raises:
        DataError: a file is missing or not in the upstream format, or two files do not belong together.
    """
    return [pair for axis in AXES for pair in _axis(axis, folder)]


def _axis(axis: Axis, folder: Path | None) -> list[RedditPair]:
    texts: list[tuple[str, str, str, str]] = []
    for split in _FILES:
        first, second = (
            folder / name if folder else fetch("redditbias", name)
            for name in (f"{axis}/reddit_comments_{axis}_{group}_biased_{split}_reduced.csv" for group in AXES[axis])
        )
        stereotypes = read_rows(first, ["comments_processed"])
        counterfactuals = read_rows(second, ["comments", "comments_processed"])
        if len(stereotypes) != len(counterfactuals):
            raise DataError(f"{first} has {len(stereotypes)} rows and {second} has {len(counterfactuals)}: they do not belong together.")
        for row, (one, other) in enumerate(zip(stereotypes, counterfactuals, strict=True)):
            if one["comments_processed"] != other["comments"]:
                raise DataError(f"{second} row {row}: 'comments' is not the comment in that row of {first.name}.")
            pair = one["comments_processed"].strip(), other["comments_processed"].strip()
            if not all(pair):
                raise DataError(f"{first} or {second.name} row {row}: a comment is blank.")
            texts.append((f"{axis}/{split}/{row}", split, *pair))
    first_rows = connected_rows([{folded_key(one), folded_key(other)} for _, _, one, other in texts])
    clusters = [texts[row][0] for row in first_rows]
    tested = {cluster for cluster, (_, split, *_) in zip(clusters, texts, strict=True) if split == "test"}
    return [
        RedditPair(name, axis, one, other, cluster, "none" if split == "valid" and cluster in tested else _FILES[split])
        for (name, split, one, other), cluster in zip(texts, clusters, strict=True)
    ]
