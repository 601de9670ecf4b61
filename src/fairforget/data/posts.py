"""Posts with labels: EDOS (sexism), HateCheck (functional tests for hate speech), Civil Comments (toxic spans).

All texts are as upstream; EDOS and HateCheck put tokens such as ``[USER]`` and ``[URL]`` in the place of names and links.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fairforget.data.catalogue import fetch
from fairforget.data.rows import read_rows
from fairforget.errors import DataError, unknown_name

Value = TypeVar("Value")

EDOS_PARTS = {"train": "train", "dev": "select", "test": "test"}
"""Our part of each EDOS split."""

TOXIC_SPANS_FILES = {"train": "tsd_train.csv", "select": "tsd_trial.csv", "test": "tsd_test.csv"}
"""File of each part; upstream's trial posts serve for selection."""


@dataclass(frozen=True)
class EdosPost:
    """A post of EDOS (Kirk et al. 2023)."""

    id: str
    text: str
    part: str
    sexist: bool
    category: str | None
    """One of four kinds of sexism; None for a post that is not sexist."""
    vector: str | None
    """One of eleven finer kinds; None for a post that is not sexist."""


@dataclass(frozen=True)
class HateCheckCase:
    """A test case of HateCheck (Röttger et al. 2021). Test data only."""

    id: str
    text: str
    functionality: str
    """Which of 29 functions of a classifier it tests."""
    hateful: bool
    target: str | None
    """The group it is about; None where it is about none."""
    template: str
    """Id of the template it was written from: the cluster."""
    reference: str | None = None
    """Id of the case that it was made from, by another spelling, a negation, a quote; None where it was written on its own."""


@dataclass(frozen=True)
class ToxicSpansPost:
    """A Civil Comments post (Pavlopoulos et al. 2021). `id` is part and row number, since upstream has none."""

    id: str
    text: str
    part: str
    toxic_characters: tuple[int, ...]
    """Offsets of the characters of `text` that annotators found toxic; empty where they found none."""


def load_edos(path: Path | None = None) -> list[EdosPost]:
    """Load all 20,000 EDOS posts, in upstream order.

    Raises:
        DataError: a column or every row is missing, or a label or split is not known.
    """
    path = path or fetch("edos", "edos_labelled_aggregated.csv")
    rows = read_rows(path, ["rewire_id", "text", "label_sexist", "label_category", "label_vector", "split"])
    return [
        EdosPost(
            id=row["rewire_id"], text=row["text"], part=_mapped(path, number, "split", row, EDOS_PARTS.__getitem__),
            sexist=_mapped(path, number, "label_sexist", row, {"sexist": True, "not sexist": False}.__getitem__),
            category=_label(row["label_category"]), vector=_label(row["label_vector"]),
        )
        for number, row in enumerate(rows)
    ]


def load_hatecheck(path: Path | None = None) -> list[HateCheckCase]:
    """Load all 3,728 HateCheck test cases, in upstream order.

    Raises:
        DataError: a column or every row is missing, or a label is not known.
    """
    path = path or fetch("hatecheck", "test_suite_cases.csv")
    rows = read_rows(path, ["functionality", "case_id", "test_case", "label_gold", "target_ident", "templ_id", "ref_case_id"])
    return [
        HateCheckCase(
            id=row["case_id"], text=row["test_case"], functionality=row["functionality"], target=row["target_ident"] or None,
            template=row["templ_id"], hateful=_mapped(path, number, "label_gold", row, {"hateful": True, "non-hateful": False}.__getitem__),
            reference=row["ref_case_id"].removesuffix(".0") or None,
        )
        for number, row in enumerate(rows)
    ]


def load_toxic_spans(part: str = "train", path: Path | None = None) -> list[ToxicSpansPost]:
    """Load the Civil Comments posts of a part (train 7,939, select 690, test 2,000), in upstream order.

    Raises:
        UsageError: there is no such part.
        DataError: a column or every row is missing, or spans are not a list of places in the text.
    """
    if part not in TOXIC_SPANS_FILES:
        raise unknown_name("part of Civil Comments", part, TOXIC_SPANS_FILES)
    path = path or fetch("civil-comments", TOXIC_SPANS_FILES[part])
    posts: list[ToxicSpansPost] = []
    for number, row in enumerate(read_rows(path, ["spans", "text"])):
        offsets = _mapped(path, number, "spans", row, _offsets)
        if any(not 0 <= offset < len(row["text"]) for offset in offsets):
            raise DataError(f"{path} row {number}: spans name characters outside the text.")
        posts.append(ToxicSpansPost(f"{part}-{number}", row["text"], part, offsets))
    return posts


def _offsets(value: str) -> tuple[int, ...]:
    offsets = json.loads(value)
    if not isinstance(offsets, list) or not all(type(offset) is int for offset in offsets):
        raise ValueError
    return tuple(offsets)


def _label(value: str) -> str | None:
    return None if value == "none" else value


def _mapped(path: Path, number: int, column: str, row: dict[str, Any], convert: Callable[[str], Value]) -> Value:
    try:
        return convert(row[column])
    except (KeyError, ValueError) as error:
        raise DataError(f"{path} row {number}: {column} has a value that upstream does not have: get the file again.") from error
