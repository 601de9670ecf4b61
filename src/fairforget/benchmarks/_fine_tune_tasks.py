"""The tasks that a model is fine-tuned on: their classes, their figures, and which rows are trained on and which are held out.

Nothing that is held out is trained on: training rows whose texts are those of a held-out row (case, space and punctuation aside) are left
out. Where upstream labels a training file and one other, the other one is reported, and `select` is cut out of the training rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from fairforget.data.ethics import load_ethics
from fairforget.data.glue import GLUE, TOP_SCORE, GlueRow, has_split, load_glue
from fairforget.data.overlap import folded_key
from fairforget.data.parts import connected_rows, home_strata
from fairforget.data.posts import load_edos
from fairforget.data.stsb import load_stsb
from fairforget.errors import DataError, UsageError

Reported = Literal["auto", "dev", "test"]

SELECT_SHARE = 0.1
SELECT_ROWS = 100
"""Where upstream has no third labelled file, `select` is this share of the training rows, at most so many."""

JUSTICE_BLOCK = 4
"""ETHICS justice: so many claims after each other in a test file are right or wrong together in upstream's exact match."""


@dataclass(frozen=True)
class FineTuneTask:
    """A task.

    Attributes:
        classes: names of the classes in the order of their numbers; empty for scores.
        positive: the class that F1 and MCC are about.
        figures: what is reported beside accuracy.
        dataset: name in the catalogue of the data that are shipped or downloaded; None for the user's own files.
    """

    classes: tuple[str, ...]
    positive: str | None = None
    figures: tuple[str, ...] = ()
    dataset: str | None = None


_CORRELATIONS = ("pearson", "spearman")

TASKS: Mapping[str, FineTuneTask] = {
    "stsb": FineTuneTask((), None, _CORRELATIONS, "stsb"),
    "edos": FineTuneTask(("not sexist", "sexist"), "sexist", ("macro_f1", "f1"), "edos"),
    "ethics-justice": FineTuneTask(("unreasonable", "reasonable"), None, ("exact_match",), "ethics"),
    **{
        name: FineTuneTask(GLUE[name].labels or (), positive, figures)
        for name, positive, figures in (
            ("cola", "acceptable", ("mcc",)), ("sst2", None, ()), ("mrpc", "equivalent", ("f1",)), ("qqp", "duplicate", ("f1",)),
            ("mnli", None, ()), ("qnli", None, ()), ("rte", None, ()), ("wnli", None, ()),
        )
    },
}


@dataclass(frozen=True)
class Example:
    """One labelled row.

    Attributes:
        id: unique within the task and the file.
        suffix: what is added to the task's name, where a task has several test sets.
        texts: one or two.
        label: number of the class, or score.
        domain: kind of text, where upstream says one.
        block: rows that upstream's exact match judges together.
        cluster: rows that share a text.
        stratum: test set and domain of most rows of the cluster.
    """

    id: str
    texts: tuple[str, ...]
    label: float
    suffix: str = ""
    domain: str | None = None
    block: str | None = None
    cluster: str = ""
    stratum: str = ""


@dataclass(frozen=True)
class TaskData:
    """Rows of a task by part.

    Attributes:
        train: trained on.
        select: held out, not reported.
        test: held out and reported.
        left_out: training rows that are cut off in the file, or hold the texts of a held-out row.
    """

    train: list[Example]
    select: list[Example]
    test: list[Example]
    left_out: int = 0


@dataclass(frozen=True)
class _Files:
    """What a loader found; `select` is None where it must be cut out of `train`."""

    train: list[Example]
    select: list[Example] | None
    test: list[Example]
    left_out: int = 0
    keys: Callable[[Example], set[str]] = field(default=lambda row: {folded_key(text) for text in row.texts})


def load_task(name: str, source: str | None = None, reported: Reported = "auto") -> TaskData:
    """Load a task and cut it into parts.

    Args:
        name: one of :data:`TASKS`.
        source: folder or hub id of GLUE's files (see :func:`fairforget.data.glue.load_glue`); EDOS, ETHICS and, where None, STS-B come from
            the catalogue.
        reported: which upstream file is `test`; ``auto`` is ``dev`` for GLUE, whose test labels are secret, and ``test`` for others.

    Raises:
        UsageError: no folder is named, or the task has no such file.
        DataError: files are missing or damaged, or nothing is left to train on.
    """
    if name in GLUE and (name != "stsb" or source is not None):
        files = _glue(name, source, reported)
    else:
        files = {"stsb": _stsb, "edos": _edos, "ethics-justice": _justice}[name](reported)
    held = {_whole(row) for row in (*files.test, *(files.select or ()))}
    train = [row for row in files.train if _whole(row) not in held]
    left_out = files.left_out + len(files.train) - len(train)
    select = files.select
    if select is None:
        train, select = _cut(train, files.keys)
    if not train:
        raise DataError(f"Nothing is left to train on in {name}: every row of its training file is one that is held out.")
    return TaskData(
        train, _with_clusters(select, files.keys, f"{name} select"), _with_clusters(files.test, files.keys, f"{name} test"), left_out
    )


def _whole(row: Example) -> tuple[str, ...]:
    """All texts of a row, folded, in any order."""
    return tuple(sorted(folded_key(text) for text in row.texts))


def _with_clusters(rows: list[Example], keys: Callable[[Example], set[str]], name: str) -> list[Example]:
    """Rows that share a text are one cluster, which lies in the domain of most of its rows."""
    if not rows:
        return []
    clusters = [f"{name} {first}" for first in connected_rows([keys(row) for row in rows])]
    strata = home_strata(clusters, [f"{name}{row.suffix} {row.domain or ''}".strip() for row in rows])
    return [replace(row, cluster=cluster, stratum=stratum) for row, cluster, stratum in zip(rows, clusters, strata, strict=True)]


def _cut(rows: list[Example], keys: Callable[[Example], set[str]]) -> tuple[list[Example], list[Example]]:
    """Training rows without those of `select`: whole clusters in the order of their hash, as many as fit."""
    room = min(SELECT_ROWS, round(SELECT_SHARE * len(rows)))
    members: dict[int, list[int]] = {}
    for number, first in enumerate(connected_rows([keys(row) for row in rows])):
        members.setdefault(first, []).append(number)
    taken: set[int] = set()
    for first in sorted(members, key=lambda first: hashlib.sha256(f"fine-tune:{rows[first].id}".encode()).digest()):
        if len(taken) + len(members[first]) <= room:
            taken.update(members[first])
    return [row for number, row in enumerate(rows) if number not in taken], [rows[number] for number in sorted(taken)]


def _glue(name: str, source: str | None, reported: Reported) -> _Files:
    train = load_glue(name, "train", source)
    known = {row.domain for row in train.rows}
    left_out = train.left_out

    def read(split: str, suffix: str = "") -> list[Example]:
        nonlocal left_out
        found = load_glue(name, split, source)
        left_out += found.left_out
        return [_example(row, name, known, suffix) for row in found.rows]

    rows = [_example(row, name, known) for row in train.rows]
    if reported == "test":
        return _Files(rows, read("dev") if has_split(name, "dev", source) else None, read("test"), left_out)
    test = read("dev")
    if name == "mnli" and has_split(name, "dev-mismatched", source):
        test += read("dev-mismatched", "-mismatched")
    return _Files(rows, None, test, left_out)


def _example(row: GlueRow, name: str, trained: set[str | None], suffix: str = "") -> Example:
    domain = row.domain
    if name == "cola" and domain is not None:
        domain = "in-domain" if domain in trained else "out-of-domain"
    # Figures by genre would not add up to a correlation over genres; see the page.
    return Example(row.id, row.texts, row.label, suffix, None if name == "stsb" else domain)


def _stsb(reported: Reported) -> _Files:
    parts = {
        part: [
            Example(f"{part}-{number}", (row.first, row.second), _score(row.score, part, number))
            for number, row in enumerate(load_stsb(part))
        ]
        for part in ("train", "select", "test")
    }
    return _Files(parts["train"], None, parts["select"]) if reported == "dev" else _Files(parts["train"], parts["select"], parts["test"])


def _score(score: float, part: str, number: int) -> float:
    if 0 <= score <= TOP_SCORE:
        return score
    raise DataError(f"STS-B, {part} row {number}: the score is not a number from 0 to {TOP_SCORE:g}: get the file again.")


def _edos(reported: Reported) -> _Files:
    parts: dict[str, list[Example]] = {"train": [], "select": [], "test": []}
    for post in load_edos():
        parts[post.part].append(Example(post.id, (post.text,), float(post.sexist)))
    return _Files(parts["train"], None, parts["select"]) if reported == "dev" else _Files(parts["train"], parts["select"], parts["test"])


def _justice(reported: Reported) -> _Files:
    if reported == "dev":
        raise UsageError("fine-tune: ETHICS has no development file: leave `reported` at auto.")
    parts: dict[str, list[Example]] = {"train": [], "select": [], "test": []}
    tied: dict[str, set[str]] = {}
    for item in load_ethics("justice"):
        # Ids are file and row number.
        block = None if item.file == "train" else f"{item.file} {int(item.id.split()[-1]) // JUSTICE_BLOCK}"
        suffix = "-hard" if item.file == "hard" else ""
        parts[item.part].append(Example(item.id, (item.first,), float(item.label), suffix, block=block))
        tied[item.id] = {item.cluster, *([block] if block else [])}
    return _Files(parts["train"], parts["select"], parts["test"], keys=lambda row: tied[row.id])
