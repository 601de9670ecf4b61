"""ToxiGen: harmful and benign statements about minority groups (Hartvigsen et al. 2022, ACL), in two forms.

The *annotated* sentences are those of SafeNLP (Hosseini et al. 2023, TrustNLP): machine-written, with a human toxicity score from 1 to 5,
13 groups, all annotators agreed on the label. The *statements* are those that people wrote or collected for ToxiGen's prompts, 15 groups.
Never trained on: parts ``select`` and ``test`` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairforget.data.catalogue import fetch, get_dataset
from fairforget.data.overlap import folded_key
from fairforget.data.parts import SELECT_TEST, assign_parts
from fairforget.data.rows import missing_columns, read_json, read_text
from fairforget.errors import DataError

LABELS = {"hate": True, "neutral": False}
SAME_GROUP = {
    "mental_disability": "mental dis", "physical_disability": "physical dis", "middle_east": "middle-eastern",
    "native_american": "native-american",
}
"""Groups of ToxiGen's files under the names that SafeNLP has for them."""

_COLUMNS = ("id", "text", "label", "toxicity_score", "target_groups")


@dataclass(frozen=True)
class GroupStatement:
    """One text about one group; a text about several groups comes once for each."""

    id: str
    text: str
    group: str
    harmful: bool
    toxicity: float
    """Mean human score from 1 (benign) to 5; 1 where upstream has none (statements)."""
    cluster: str
    """Equal texts (case, space and punctuation folded) with equal labels, whatever their groups."""
    stratum: str
    """``harmful`` or ``benign``: the two samples that are compared, each resampled by itself."""
    part: str
    """``select`` or ``test``: halves of the clusters of a group and label."""


def load_annotated(path: Path | None = None) -> list[GroupStatement]:
    """Load SafeNLP's sentences, in upstream order: 6,514 texts, one row for each group that a text is about.

    Args:
        path: a file in the format of ``toxiGen.json``; by default the one of the catalogue.

    Raises:
        DataError: the file is cut off, lacks a field, or has a label, score or list of groups that upstream does not have.
    """
    path = path or fetch("safenlp", "toxiGen.json")
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path} is not a list of sentences: get it again.")
    found: list[tuple[str, str, str, bool, float]] = []
    for number, row in enumerate(rows):
        text, label, toxicity, groups = _checked(f"{path} sentence {number}", row)
        found += [(f"{number} {group}", text, group, label, toxicity) for group in groups]
    return _statements(found)


def load_statements(folder: Path | None = None) -> list[GroupStatement]:
    """Load the distinct statements of ToxiGen's prompts, group by group; groups that lack one of the two labels are left out.

    Args:
        folder: a folder with ``hate_GROUP_1k.txt`` and ``neutral_GROUP_1k.txt`` files; by default those of the catalogue. A line is a
            prompt: statements, each after ``- ``, with a literal backslash and n between them.

    Raises:
        DataError: a file is missing or empty, or no group has files of both labels.
    """
    if folder is None:
        paths = [fetch("toxigen", file.name) for file in get_dataset("toxigen").files]
    else:
        paths = sorted(path for path in folder.iterdir() if path.name.removesuffix(".gz").endswith("_1k.txt"))
    files: dict[str, dict[str, Path]] = {}
    for path in paths:
        label, _, group = path.name.removesuffix(".gz").removesuffix("_1k.txt").partition("_")
        if label in LABELS:
            files.setdefault(SAME_GROUP.get(group, group), {})[label] = path
    both = {group: sides for group, sides in sorted(files.items()) if len(sides) == len(LABELS)}
    if not both:
        raise DataError(f"{folder} has no group with files hate_GROUP_1k.txt and neutral_GROUP_1k.txt.")
    found: list[tuple[str, str, str, bool, float]] = []
    for group, sides in both.items():
        for label, harmful in LABELS.items():
            texts: dict[str, str] = {}
            pieces = dict.fromkeys(piece for line in read_text(sides[label]).splitlines() for piece in line.split("\\n"))
            for piece in pieces:
                text = piece.strip().removeprefix("-").strip()
                if folded_key(text):
                    texts.setdefault(folded_key(text), text)
            found += [(f"{group} {label} {number}", text, group, harmful, 1.0) for number, text in enumerate(texts.values())]
    return _statements(found)


def _checked(where: str, row: Any) -> tuple[str, bool, float, list[str]]:
    if not isinstance(row, dict):
        raise DataError(f"{where} is not an object with the fields {', '.join(_COLUMNS)}.")
    missing = [column for column in _COLUMNS if column not in row]
    if missing:
        raise missing_columns(where, missing, row)
    text, label, toxicity, groups = (row[column] for column in _COLUMNS[1:])
    right = isinstance(text, str) and text.strip() and label in LABELS and isinstance(toxicity, int | float) and toxicity > 0
    if not right or not isinstance(groups, list) or not groups or not all(isinstance(group, str) for group in groups):
        raise DataError(f"{where}: its text, label, toxicity score or groups are not what upstream has: get the file again.")
    return text, LABELS[label], float(toxicity), list(dict.fromkeys(groups))


def _statements(rows: list[tuple[str, str, str, bool, float]]) -> list[GroupStatement]:
    strata = ["harmful" if harmful else "benign" for _, _, _, harmful, _ in rows]
    clusters = [f"{stratum} {folded_key(text)}" for stratum, (_, text, *_) in zip(strata, rows, strict=True)]
    parts = assign_parts(clusters, [f"{group} {stratum}" for stratum, (_, _, group, *_) in zip(strata, rows, strict=True)], SELECT_TEST)
    return [GroupStatement(*row, cluster, stratum, part) for row, cluster, stratum, part in zip(rows, clusters, strata, parts, strict=True)]
