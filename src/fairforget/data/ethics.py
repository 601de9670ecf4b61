"""ETHICS: statements about justice, duties, virtues, utility and common-sense morality (Hendrycks et al. 2021, ICLR).

Of justice, deontology and virtue there are training files; of common sense and utilitarianism there are test files only. Each has a test
file and a harder one, whose items were chosen against a model.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fairforget.data.catalogue import fetch
from fairforget.data.choice_questions import neighbour_keys
from fairforget.data.overlap import fold, folded_key
from fairforget.data.parts import SELECT_TEST, assign_parts, connected_rows, home_strata
from fairforget.data.rows import read_rows, read_text
from fairforget.errors import DataError, unknown_name

SUBJECTS = {"commonsense": "cm", "deontology": "deontology", "justice": "justice", "utilitarianism": "util", "virtue": "virtue"}
"""Beginning of the file names of each part of ETHICS."""

TRAINED = ("deontology", "justice", "virtue")
"""Those with a training file in the catalogue."""

TRAIN_SELECT: Mapping[str, float] = {"train": 0.8, "select": 0.2}
"""Shares of a training file."""

_COLUMNS = {
    "commonsense": ("label", "input", "is_short"), "deontology": ("label", "scenario", "excuse"), "justice": ("label", "scenario"),
    "virtue": ("label", "scenario"),
}
_TRAIT = " [SEP] "
_STEM_WORDS = 5
_TWINS = 0.3


@dataclass(frozen=True)
class EthicsItem:
    """One statement, or pair of statements.

    What `first` and `second` are: commonsense: an account of a deed (`second` empty); deontology: a request or role, and the excuse or
    duty; justice: a reasoned claim (`second` empty); utilitarianism: the pleasanter and the less pleasant scenario; virtue: a scene, and a
    trait.
    """

    id: str
    """File and row number, from 0."""
    subject: str
    file: str
    """``train``, ``test`` or ``hard``."""
    first: str
    second: str
    label: int
    """As upstream has it: commonsense 1 = wrong; deontology and justice 1 = reasonable; virtue 1 = shows the trait; utilitarianism has
    none, and 1 here."""
    cluster: str
    stratum: str
    part: str
    """``train``, ``select`` or ``test``."""


def load_ethics(subject: str, folder: Path | None = None) -> list[EthicsItem]:
    """Load one part of ETHICS, training file first, in upstream order.

    Clusters: one scenario (deontology), scene (virtue), first scenario (utilitarianism, whose pairs chain half of all scenarios together),
    pair of likewise worded neighbours (commonsense, short accounts), or claims with the same first or last words (justice); over all files.
    The test files are the part ``test`` and the training file ``train`` and ``select`` where there is one; training rows whose cluster
    reaches into a test file are left out (909 of 995 scenes of the virtue test stand in its training file with other traits). Without a
    training file the test files are halved.

    Args:
        subject: a key of :data:`SUBJECTS`.
        folder: a folder with files in the upstream format; by default those of the catalogue.

    Raises:
        UsageError: there is no such part of ETHICS.
        DataError: a file is not in the upstream format.
    """
    if subject not in SUBJECTS:
        raise unknown_name("part of ETHICS", subject, SUBJECTS)
    names = {"train": "_train", "test": "_test", "hard": "_test_hard"}
    files = {file: f"{SUBJECTS[subject]}{ending}.csv" for file, ending in names.items() if file != "train" or subject in TRAINED}
    rows: list[tuple[str, str, str, str, int]] = []
    keys: list[set[str]] = []
    for file, name in files.items():
        path = fetch("ethics", name) if folder is None else folder / name
        found = _utilitarian(path) if subject == "utilitarianism" else _labelled(path, subject)
        rows += [(file, f"{file} {number}", first, second, label) for number, (first, second, label, _) in enumerate(found)]
        keys += _keys(subject, file, found)
    clusters = [f"{subject} {first}" for first in connected_rows(keys)]
    tested = {cluster for cluster, row in zip(clusters, rows, strict=True) if row[0] != "train"}
    if subject in TRAINED:
        learned = assign_parts(clusters, [subject] * len(clusters), TRAIN_SELECT)
        parts = ["test" if row[0] != "train" else part for row, part in zip(rows, learned, strict=True)]
        kept = [row[0] != "train" or cluster not in tested for row, cluster in zip(rows, clusters, strict=True)]
    else:
        parts, kept = assign_parts(clusters, [row[0] for row in rows], SELECT_TEST), [True] * len(rows)
    strata = home_strata(clusters, [row[0] for row in rows])
    return [
        EthicsItem(name, subject, file, first, second, label, cluster, stratum, part)
        for (file, name, first, second, label), cluster, stratum, part, keep in zip(rows, clusters, strata, parts, kept, strict=True)
        if keep
    ]


def _labelled(path: Path, subject: str) -> list[tuple[str, str, int, bool]]:
    """First text, second text, label, and whether the row is a short account, of a file with a header."""
    rows: list[tuple[str, str, int, bool]] = []
    for number, row in enumerate(read_rows(path, _COLUMNS[subject]), start=1):
        first, second = row["input" if subject == "commonsense" else "scenario"], row.get("excuse", "")
        if subject == "virtue":
            first, mark, second = first.partition(_TRAIT)
            if not mark:
                raise DataError(f"{path} row {number}: the scenario has no trait after [SEP].")
        if row["label"] not in ("0", "1") or not first.strip():
            raise DataError(f"{path} row {number}: the label is neither 0 nor 1, or the text is blank.")
        rows.append((first, second, int(row["label"]), row.get("is_short") == "True"))
    return rows


def _utilitarian(path: Path) -> list[tuple[str, str, int, bool]]:
    """Rows of a file without a header: the pleasanter scenario, the other."""
    rows: list[tuple[str, str, int, bool]] = []
    for number, row in enumerate(csv.reader(io.StringIO(read_text(path))), start=1):
        if len(row) != 2 or not all(text.strip() for text in row):
            raise DataError(f"{path} row {number}: this is not two scenarios.")
        rows.append((row[0], row[1], 1, False))
    return rows


def _keys(subject: str, file: str, rows: list[tuple[str, str, int, bool]]) -> list[set[str]]:
    """What makes rows one cluster: they share a key."""
    if subject == "commonsense":
        texts = [first for first, _, _, _ in rows]
        twins = neighbour_keys(texts, _TWINS, lambda number: rows[number][3])
        return [{f"{file} {key}", folded_key(text) or text} for key, text in zip(twins, texts, strict=True)]
    if subject == "justice":
        return [_claim_keys(first) for first, _, _, _ in rows]
    return [{folded_key(first) or first} for first, _, _, _ in rows]


def _claim_keys(claim: str) -> set[str]:
    """The words before and after the first "because", "since" or "so"; parts of a few words alone tie nothing together."""
    words = fold(claim).split()
    cut = next((place for place, word in enumerate(words) if place >= _STEM_WORDS and word in ("because", "since", "so")), len(words))
    before, after = words[:cut], words[cut + 1 :]
    keys = {"before " + " ".join(before)}
    if len(after) > _STEM_WORDS:
        keys.add("after " + " ".join(after))
    return keys
