"""Items that the edit turned: counted by transition, and the strongest of them with their texts."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from fairforget.report import number_words
from fairforget.tables import read_table

STRONGEST = 50
"""Most items listed per task."""
PAGE_ITEMS = 600
"""Most items listed on a page (about 0.5 MB): many tasks share them out."""
TEXT_LIMIT = 600
"""Characters of a text that are shown."""

_UNCHANGED = ("kept", "never", "skipped")
_KEYS = ["benchmark", "task", "item"]

Segment = tuple[str, bool]
"""A run of words and whether it differs from the other text."""


@dataclass(frozen=True)
class ChangedItem:
    """One item whose outcome the edit changed."""

    item: str
    groups: str
    transition: str
    before: str
    after: str
    change: str
    texts: Sequence[Sequence[Segment]]


@dataclass(frozen=True)
class TransitionCount:
    """How many items of a task went one way."""

    transition: str
    items: int
    share: str
    changed: bool


@dataclass(frozen=True)
class TaskChanges:
    """What happened to the items of one task."""

    benchmark: str
    task: str
    role: str
    items: int
    changed: int
    figure: str
    counts: Sequence[TransitionCount]
    strongest: Sequence[ChangedItem]


def is_change(transition: str) -> bool:
    """Whether a transition of the ledger is a change of outcome ("stereotype kept" and "never" are none)."""
    return not any(word in _UNCHANGED for word in transition.split())


def changed_items(ledger: pl.DataFrame, item_tables: Sequence[Path]) -> list[TaskChanges]:
    """Count the transitions of each task and pick the items that moved most.

    Args:
        ledger: one row per (task, item) with ``transition`` and ``<figure>_before`` / ``<figure>_after`` columns.
        item_tables: Parquet item tables of the run; texts are taken from them by (benchmark, task, item).
    """
    ledger = ledger.filter(pl.col("transition").is_not_null() & (pl.col("transition") != ""))
    tasks = ledger.select("benchmark", "task").unique(maintain_order=True).rows()
    limit = min(STRONGEST, max(5, PAGE_ITEMS // max(len(tasks), 1)))
    picked = [_strongest(ledger.filter(benchmark=benchmark, task=task), limit) for benchmark, task in tasks]
    texts = _texts_of(pl.concat([frame.select(_KEYS) for frame, _, _ in picked]), ledger, item_tables) if picked else {}
    return [
        _task_changes(ledger.filter(benchmark=benchmark, task=task), *pick, texts)
        for (benchmark, task), pick in zip(tasks, picked, strict=True)
    ]


def text_differences(texts: Sequence[str]) -> list[list[Segment]]:
    """Split the first two texts into runs of words that they share and runs in which they differ; further texts stay whole."""
    shown = [text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT] + "…" for text in texts]
    if len(shown) < 2:
        return [[(text, False)] for text in shown]
    first, second = shown[0].split(), shown[1].split()
    sides: tuple[list[Segment], list[Segment]] = ([], [])
    for operation, i1, i2, j1, j2 in difflib.SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        for side, words in zip(sides, (first[i1:i2], second[j1:j2]), strict=True):
            if words:
                side.append((" ".join(words), operation != "equal"))
    return [*sides, *([(text, False)] for text in shown[2:])]


def _strongest(rows: pl.DataFrame, limit: int) -> tuple[pl.DataFrame, int, str]:
    """The changed rows that moved most, how many changed at all, and the name of the figure that says so."""
    figure = "margin" if _has_values(rows, "margin") else "nll" if _has_values(rows, "nll") else "correct"
    changed = rows.filter(pl.col("transition").is_in([name for name in rows["transition"].unique() if is_change(name)]))
    if f"{figure}_before" in rows.columns and f"{figure}_after" in rows.columns:
        movement = (pl.col(f"{figure}_after") - pl.col(f"{figure}_before")).cast(pl.Float64)
        ordered = changed.with_columns(movement.alias("_movement")).sort(
            pl.col("_movement").abs(), descending=True, nulls_last=True, maintain_order=True
        )
    else:
        ordered = changed.with_columns(pl.lit(None, pl.Float64).alias("_movement"))
    return ordered.head(limit), changed.height, figure


def _has_values(rows: pl.DataFrame, figure: str) -> bool:
    return all(name in rows.columns and rows[name].is_not_null().any() for name in (f"{figure}_before", f"{figure}_after"))


def _task_changes(
    rows: pl.DataFrame, strongest: pl.DataFrame, changed: int, figure: str, texts: dict[tuple[str, ...], list[str]]
) -> TaskChanges:
    unit = "" if figure == "correct" else "nats"
    counts = rows.group_by("transition").len("items").sort("items", "transition", descending=[True, False])
    return TaskChanges(
        benchmark=rows["benchmark"][0],
        task=rows["task"][0],
        role=str(rows["role"][0] or ""),
        items=rows.height,
        changed=changed,
        figure=figure,
        counts=[
            TransitionCount(name, items, number_words.quantity(100 * items / rows.height, "%"), is_change(name))
            for name, items in counts.iter_rows()
        ],
        strongest=[_changed_item(row, figure, unit, texts) for row in strongest.iter_rows(named=True)],
    )


def _changed_item(row: dict[str, Any], figure: str, unit: str, texts: dict[tuple[str, ...], list[str]]) -> ChangedItem:
    groups = row.get("groups")
    return ChangedItem(
        item=str(row["item"]),
        groups=", ".join(groups) if isinstance(groups, list) else str(groups or ""),
        transition=row["transition"],
        before=number_words.number(row.get(f"{figure}_before"), unit, signed=figure == "margin"),
        after=number_words.number(row.get(f"{figure}_after"), unit, signed=figure == "margin"),
        change=number_words.quantity(row["_movement"], unit, signed=True),
        texts=text_differences(texts.get(tuple(str(row[key]) for key in _KEYS), [])),
    )


def _texts_of(keys: pl.DataFrame, ledger: pl.DataFrame, item_tables: Sequence[Path]) -> dict[tuple[str, ...], list[str]]:
    """Texts by (benchmark, task, item), from the ledger where it holds them, else from the item tables."""
    frames = [ledger] if "texts" in ledger.columns else []
    found: dict[tuple[str, ...], list[str]] = {}
    for frame in (*frames, *(read_table(path, [*_KEYS, "texts"]) for path in item_tables)):
        wanted = frame.select(*_KEYS, "texts").join(keys, on=_KEYS, how="semi")
        for benchmark, task, item, texts in wanted.iter_rows():
            if texts:
                found.setdefault((str(benchmark), str(task), str(item)), list(texts))
    return found
