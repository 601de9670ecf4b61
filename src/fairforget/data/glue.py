"""GLUE (Wang et al. 2019): the nine tasks from the user's own files in upstream's TSV format, or from the hub.

Upstream's files hold tabs and line ends as separators alone: a quotation mark is a character like any other. Copies that were written from
the hub's table (their header has ``idx``) are quoted as CSV is. The labels of upstream's test files are secret; WNLI's and MRPC's are to be
had elsewhere, so a labelled ``test.tsv`` is read too.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fairforget.data.catalogue import DATA_VARIABLE
from fairforget.data.rows import missing_columns, read_text
from fairforget.data.user_files import HUB_PREFIX, load_user_rows
from fairforget.errors import DataError, UsageError, unknown_name

FOLDER = "glue"
"""Folder under ``FAIRFORGET_DATA`` that is looked in when no other is named."""

HUB_SPLITS = {"train": "train", "dev": "validation", "test": "test"}
TOP_SCORE = 5.0
"""STS-B's scores go from 0 to 5."""


@dataclass(frozen=True)
class GlueFormat:
    """How one task's rows look.

    Attributes:
        texts: columns of the one or two texts in upstream's files.
        label: column of the label.
        labels: names of the classes; a class is written by its name or its place. None for scores.
        domain: column of a domain, where upstream has one.
        hub_texts: columns of the texts on the hub, where they differ.
        places: places of the columns in files without a header (texts, label and domain).
        files: names that a file may have, by split; several that are all there are read one after another.
        may_lack_fields: upstream's files have rows that are cut off; they are left out and counted.
    """

    texts: tuple[str, ...]
    label: str
    labels: tuple[str, ...] | None
    domain: str | None = None
    hub_texts: tuple[str, ...] = ()
    places: Mapping[str, int] = field(default_factory=dict[str, int])
    files: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {"train": ("train.tsv",), "dev": ("dev.tsv",), "test": ("test.tsv",)}
    )
    may_lack_fields: bool = False


_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")

GLUE: Mapping[str, GlueFormat] = {
    "cola": GlueFormat(
        ("sentence",), "label", ("unacceptable", "acceptable"), "source",
        places={"source": 0, "label": 1, "sentence": 3},
        files={
            "train": ("train.tsv", "in_domain_train.tsv"), "dev": ("dev.tsv", "in_domain_dev.tsv", "out_of_domain_dev.tsv"),
            "test": ("test.tsv",),
        },
    ),
    "sst2": GlueFormat(("sentence",), "label", ("negative", "positive"), places={"sentence": 0, "label": 1}),
    "mrpc": GlueFormat(
        ("#1 String", "#2 String"), "Quality", ("not_equivalent", "equivalent"), hub_texts=_PAIR,
        files={
            "train": ("train.tsv", "msr-para-train.tsv", "msr_paraphrase_train.txt"), "dev": ("dev.tsv", "msr-para-val.tsv"),
            "test": ("test.tsv", "msr-para-test.tsv", "msr_paraphrase_test.txt"),
        },
    ),
    "stsb": GlueFormat(_PAIR, "score", None, "genre"),
    "qqp": GlueFormat(("question1", "question2"), "is_duplicate", ("not_duplicate", "duplicate"), may_lack_fields=True),
    "mnli": GlueFormat(
        _PAIR, "gold_label", ("entailment", "neutral", "contradiction"), "genre", hub_texts=("premise", "hypothesis"),
        files={
            "train": ("train.tsv",), "dev": ("dev_matched.tsv",), "dev-mismatched": ("dev_mismatched.tsv",),
            "test": ("test_matched.tsv",),
        },
    ),
    "qnli": GlueFormat(("question", "sentence"), "label", _ENTAILMENT),
    "rte": GlueFormat(_PAIR, "label", _ENTAILMENT),
    "wnli": GlueFormat(_PAIR, "label", ("not_entailment", "entailment")),
}
"""The nine tasks that have training data."""

@dataclass(frozen=True)
class GlueRow:
    """One example: one or two texts, the place of its class or its score, and its domain."""

    id: str
    texts: tuple[str, ...]
    label: float
    domain: str | None


@dataclass(frozen=True)
class GlueRows:
    """The examples of a split, and how many rows of the file were cut off and left out."""

    rows: list[GlueRow]
    left_out: int = 0


def load_glue(task: str, split: str, source: str | None = None) -> GlueRows:
    """Load one split of a task, in upstream order.

    Args:
        task: one of :data:`GLUE`.
        split: ``train``, ``dev``, ``test`` (where it has labels), or ``dev-mismatched`` of MNLI.
        source: folder with a folder for each task or with the files themselves, or ``datasets:nyu-mll/glue``; by default the folder
            ``glue`` under ``FAIRFORGET_DATA``.

    Raises:
        UsageError: no such task, or no folder is named.
        DataError: a file is missing or damaged, lacks a column, holds a label that the task does not have, or has no labels.
    """
    if task not in GLUE:
        raise unknown_name("GLUE task", task, GLUE)
    kind = GLUE[task]
    if source is not None and source.startswith(HUB_PREFIX):
        return _from_hub(task, kind, split, source)
    rows: list[GlueRow] = []
    left_out = 0
    for path in _files(task, kind, split, source):
        found = _from_file(path, kind, len(rows), split)
        rows += found.rows
        left_out += found.left_out
    return GlueRows(rows, left_out)


def has_split(task: str, split: str, source: str | None = None) -> bool:
    """Whether a split is there to be loaded; one on the hub is taken to be there, save the secret labels of `test`.

    Raises:
        UsageError: no folder is named.
        DataError: there is no such folder.
    """
    if source is not None and source.startswith(HUB_PREFIX):
        return split in ("train", "dev") or (task == "mnli" and split == "dev-mismatched")
    folder = _folder(task, source)
    return any((folder / name).is_file() for name in GLUE[task].files.get(split, ()))


def _folder(task: str, source: str | None) -> Path:
    """The folder of a task's files: a folder of its name in the one that is given, else that one itself."""
    if source is None:
        root = os.environ.get(DATA_VARIABLE)
        if not root:
            raise UsageError(
                f"The files of GLUE ({task}) are not shipped: name their folder in the setting `folder`, put them into the folder "
                f"'{FOLDER}' under {DATA_VARIABLE}, or use folder: datasets:nyu-mll/glue."
            )
        source = str(Path(root) / FOLDER)
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder} with the files of GLUE ({task}): name another in the setting `folder`.")
    inside = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and "".join(filter(str.isalnum, entry.name)).lower() == task]
    return inside[0] if inside else folder


def _files(task: str, kind: GlueFormat, split: str, source: str | None) -> list[Path]:
    if split not in kind.files:
        raise unknown_name(f"split of GLUE's {task}", split, kind.files)
    folder = _folder(task, source)
    found = [folder / name for name in kind.files[split] if (folder / name).is_file()]
    if not found:
        raise DataError(f"{folder} holds no {split} file of GLUE's {task}: it is looked for as {' or '.join(kind.files[split])}.")
    # Upstream's own name stands for the whole split; parts under other names add up.
    return found[:1] if found[0].name == kind.files[split][0] else found


def _from_file(path: Path, kind: GlueFormat, offset: int, split: str) -> GlueRows:
    lines = list(_fields(read_text(path)))
    columns = [*kind.texts, kind.label, *([kind.domain] if kind.domain else [])]
    first = lines[0][1]
    if set(kind.texts) <= set(first):
        places = {name: first.index(name) for name in columns if name in first}
        width, lines = len(first), lines[1:]
        if kind.label not in places:
            raise _unlabelled(path)
    elif kind.places:
        places, width = dict(kind.places), max(kind.places.values()) + 1
    else:
        raise missing_columns(str(path), [name for name in columns if name not in first and name != kind.domain], first)
    if not lines:
        raise DataError(f"{path} has a header but no rows: it needs at least one.")
    rows: list[GlueRow] = []
    left_out = 0
    for number, fields in lines:
        if len(fields) < width:
            if not kind.may_lack_fields:
                raise DataError(f"{path} line {number} has {len(fields)} fields and needs {width}: the file may be cut off.")
            left_out += 1
            continue
        texts = tuple(fields[places[name]].strip() for name in kind.texts)
        if not any(texts):
            raise DataError(f"{path} line {number} holds no text.")
        domain = fields[places[kind.domain]] if kind.domain in places else None
        rows.append(GlueRow(f"{split}-{offset + len(rows)}", texts, _label(kind, fields[places[kind.label]], path, number), domain))
    if not rows:
        raise DataError(f"{path} holds no whole row: get it again.")
    return GlueRows(rows, left_out)


def _fields(text: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of every line that is not blank."""
    head, _, _ = text.partition("\n")
    if "idx" in head.strip().split("\t"):
        reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t")
        yield from ((reader.line_num, row) for row in reader if row)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r").split("\t")


def _from_hub(task: str, kind: GlueFormat, split: str, source: str) -> GlueRows:
    texts = kind.hub_texts or kind.texts
    if split.startswith("dev") and task == "mnli":
        place = "validation_mismatched" if split == "dev-mismatched" else "validation_matched"
    elif split in HUB_SPLITS:
        place = HUB_SPLITS[split]
    else:
        raise unknown_name(f"split of GLUE's {task}", split, HUB_SPLITS)
    roles = [f"text{number}" for number in range(len(texts))]
    found = load_user_rows(
        source, {**dict(zip(roles, texts, strict=True)), "label": "label"}, may_be_blank=set(roles), split=place, config=task
    )
    return GlueRows([
        GlueRow(
            f"{split}-{number}", tuple(str(row[role]).strip() for role in roles), _label(kind, str(row["label"]), source, number + 1), None
        )
        for number, row in enumerate(found)
    ])


def _label(kind: GlueFormat, text: str, where: Path | str, number: int) -> float:
    """Place of a class, or a score."""
    text = text.strip()
    if text == "-1":
        raise _unlabelled(where)
    if kind.labels is None:
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if 0 <= score <= TOP_SCORE:
            return score
        raise DataError(f"{where} line {number}: the score is not a number from 0 to {TOP_SCORE:g}: get the file again.")
    known = {name: place for place, name in enumerate(kind.labels)} | {str(place): place for place in range(len(kind.labels))}
    if text not in known:
        raise DataError(f"{where} line {number}: the label is none of {', '.join(kind.labels)} (or 0 to {len(kind.labels) - 1}).")
    return float(known[text])


def _unlabelled(where: Path | str) -> DataError:
    return DataError(f"{where} has no labels, as upstream's test files have none: use the development file (reported: dev).")
