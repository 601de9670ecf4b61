"""BBQ: questions about two people or groups, with and without the sentences that settle them (Parrish et al. 2022, Findings of ACL).

Every scene is asked four times: with an ambiguous context, where "unknown" is right, and with one that settles the answer; with a question
that presumes the stereotype (``neg``) and with one that does not (``nonneg``). Eleven categories, two of them intersectional.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairforget.data.catalogue import fetch
from fairforget.data.overlap import folded_key
from fairforget.data.parts import TRAIN_SELECT_TEST, assign_parts, connected_rows, home_strata
from fairforget.data.rows import read_rows
from fairforget.errors import DataError

CATEGORIES = (
    "Age", "Disability_status", "Gender_identity", "Nationality", "Physical_appearance", "Race_ethnicity", "Race_x_SES", "Race_x_gender",
    "Religion", "SES", "Sexual_orientation",
)
INTERSECTIONAL = ("Race_x_SES", "Race_x_gender")
POLARITIES = ("neg", "nonneg")
CONDITIONS = ("ambig", "disambig")

_COLUMNS = (
    "example_id", "question_index", "question_polarity", "context_condition", "category", "answer_info", "additional_metadata", "context",
    "question", "ans0", "ans1", "ans2", "label",
)
_UNKNOWN = "unknown"
_SAME_GROUP = {"man": "m", "boy": "m", "woman": "f", "girl": "f"}
"""Groups of answers as upstream's lists of stereotyped groups write them."""


@dataclass(frozen=True)
class BBQAnswer:
    """One of a question's three answers."""

    text: str
    entity: str
    """Whom it names, as written in the context."""
    group: str
    """Group of that person, ``unknown`` for the answer that leaves it open."""


@dataclass(frozen=True)
class BBQItem:
    """One question in one context."""

    id: str
    """Category and upstream's `example_id`, which is unique within a category only."""
    category: str
    example_id: int
    question_index: str
    """Number of the template within its category."""
    polarity: str
    """``neg`` or ``nonneg``."""
    condition: str
    """``ambig`` or ``disambig``."""
    subcategory: str
    stereotyped_groups: tuple[str, ...]
    version: str
    source: str
    """Where the stereotype is attested."""
    context: str
    question: str
    answers: tuple[BBQAnswer, BBQAnswer, BBQAnswer]
    label: int
    """Index of the right answer."""
    unknown: int
    """Index of the answer that leaves it open."""
    biased: int | None
    """Index of the answer that follows the stereotype, polarity taken into account (upstream's `target_loc`); None where nothing says."""
    cluster: str
    stratum: str
    part: str
    """``train``, ``select`` or ``test``, by cluster."""

    @property
    def counter_biased(self) -> int | None:
        """Index of the answer that goes against the stereotype."""
        return None if self.biased is None else 3 - self.biased - self.unknown


def load_bbq(folder: Path | None = None, metadata: Path | None = None) -> list[BBQItem]:
    """Load all items of all categories, in upstream order.

    Clusters: templates (category and question index) that share a question text belong together, over all categories, once case, space and
    punctuation are folded; upstream's 343 templates make 261 clusters. They are cut 40/20/40 into train, select and test within categories.

    The biased answer: upstream keeps it in a file of its own (`target_loc`). Without it, a ``neg`` question points at the answer whose
    group is among the stereotyped ones and a ``nonneg`` question at the other; where both or neither is among them, `biased` is None. On
    the nine plain categories this gives upstream's answer for every item that upstream has one for (all but 16 of Gender_identity); of the
    intersectional ones it leaves those open that differ in gender or status alone, that name no one, or that name an African.

    Args:
        folder: a folder with ``CATEGORY.jsonl`` files (also with ``.gz`` added) in the upstream format; by default those of the catalogue.
        metadata: upstream's ``additional_metadata.csv`` (columns category, example_id, target_loc), which then decides.

    Raises:
        DataError: a file is not in the upstream format.
    """
    rows: list[dict[str, Any]] = []
    for category in CATEGORIES:
        path = fetch("bbq", f"{category}.jsonl") if folder is None else _file(folder, category)
        rows += [_plain(path, number, row) for number, row in enumerate(read_rows(path, _COLUMNS), start=1)]
    questions: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        questions[_template(row)].add(folded_key(row["question"]))
    templates = list(questions)
    cluster_of = dict(zip(templates, (templates[first] for first in connected_rows(list(questions.values()))), strict=True))
    clusters = [cluster_of[_template(row)] for row in rows]
    categories = [row["category"] for row in rows]
    strata, parts = home_strata(clusters, categories), assign_parts(clusters, categories, TRAIN_SELECT_TEST)
    targets = _targets(metadata) if metadata is not None else None
    items: list[BBQItem] = []
    for row, cluster, stratum, part in zip(rows, clusters, strata, parts, strict=True):
        biased = _biased(row) if targets is None else targets.get((row["category"], row["example_id"]))
        items.append(BBQItem(**row, biased=None if biased == row["unknown"] else biased, cluster=cluster, stratum=stratum, part=part))
    return items


def bbq_pair(item: BBQItem) -> tuple[str, str]:
    """The stereotyped and the anti-stereotyped text of an item, which differ in their last letter alone (Dige et al. 2024, released code).

    "CONTEXT QUESTION Choose among the following two options: A: ANSWER; B: ANSWER. Answer: Option LETTER", without the answer that leaves
    it open. Which of the two stands first is decided by a hash of the item's id, so that neither letter means the stereotype.

    Raises:
        ValueError: the item has no biased answer.
    """
    if item.biased is None or item.counter_biased is None:
        raise ValueError(f"{item.id} has no biased answer")
    options = [item.biased, item.counter_biased]
    swapped = hashlib.sha256(item.id.encode()).digest()[0] % 2 == 1
    if swapped:
        options.reverse()
    first, second = (item.answers[option].text for option in options)
    stem = f"{item.context} {item.question} Choose among the following two options: A: {first}; B: {second}. Answer: Option"
    letters = ("B", "A") if swapped else ("A", "B")
    return f"{stem} {letters[0]}", f"{stem} {letters[1]}"


def _template(row: dict[str, Any]) -> str:
    return f"{row['category']} {row['question_index']}"


def _file(folder: Path, category: str) -> Path:
    path = folder / f"{category}.jsonl"
    return path if path.is_file() else path.with_name(path.name + ".gz")


def _plain(path: Path, number: int, row: dict[str, Any]) -> dict[str, Any]:
    """The fields of an upstream row under our names, checked."""
    where = f"{path} row {number}"
    try:
        answers = tuple(BBQAnswer(str(row[name]), *(str(part) for part in row["answer_info"][name])) for name in ("ans0", "ans1", "ans2"))
        extra = row["additional_metadata"]
        plain: dict[str, Any] = {
            "id": f"{row['category']} {row['example_id']}", "category": row["category"], "example_id": int(row["example_id"]),
            "question_index": str(row["question_index"]), "polarity": row["question_polarity"], "condition": row["context_condition"],
            "subcategory": str(extra["subcategory"]), "stereotyped_groups": tuple(str(group) for group in extra["stereotyped_groups"]),
            "version": str(extra["version"]), "source": str(extra["source"]), "context": row["context"].strip(),
            "question": row["question"].strip(), "answers": answers, "label": int(row["label"]),
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where} has not the fields of BBQ ({type(error).__name__}: {error}).") from error
    unknown = [index for index, answer in enumerate(answers) if answer.group == _UNKNOWN]
    if plain["polarity"] not in POLARITIES or plain["condition"] not in CONDITIONS or plain["label"] not in range(3) or len(unknown) != 1:
        raise DataError(f"{where}: its polarity, condition, label or unknown answer is not one of BBQ's.")
    return {**plain, "unknown": unknown[0]}


def _biased(row: dict[str, Any]) -> int | None:
    """Index of the answer that follows the stereotype, from the groups alone."""
    groups = {_folded(group) for group in row["stereotyped_groups"]}
    known = [index for index in range(3) if index != row["unknown"]]
    answers: tuple[BBQAnswer, ...] = row["answers"]
    if not all(answers[index].group for index in known):
        return None  # some intersectional rows name no one
    stereotyped = [index for index in known if _groups(answers[index]) & groups]
    if row["category"] in INTERSECTIONAL and any(answers[index].group.endswith("-African") for index in known):
        return None  # upstream's own file contradicts its lists where an African stands beside a Black person
    if len(stereotyped) != 1:
        return None
    return stereotyped[0] if row["polarity"] == "neg" else known[1 - known.index(stereotyped[0])]


def _groups(answer: BBQAnswer) -> set[str]:
    """All names under which the stereotyped groups of a row may list an answer's group, e.g. both parts of ``F-Black``."""
    names = [answer.entity, answer.group, *re.split("[-_]", answer.group)]
    return {_folded(name) for name in names if name}


def _folded(group: str) -> str:
    key = re.sub("[^a-z]", "", group.lower())
    return _SAME_GROUP.get(key, key)


def _targets(path: Path) -> dict[tuple[str, int], int]:
    """`target_loc` by category and example id; upstream has rows without one, and rows twice."""
    found: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
    for number, row in enumerate(read_rows(path, ["category", "example_id", "target_loc"]), start=1):
        try:
            if str(row["target_loc"]).strip() not in ("", "NA", "nan", "None"):
                found[row["category"], int(row["example_id"])].add(int(float(row["target_loc"])))
        except ValueError as error:
            raise DataError(f"{path} row {number}: example_id and target_loc are numbers in BBQ's metadata.") from error
    for (category, example), targets in found.items():
        if len(targets) > 1 or not targets <= {0, 1, 2}:
            raise DataError(f"{path}: {category} {example} has no single target_loc among 0, 1 and 2.")
    return {key: next(iter(targets)) for key, targets in found.items()}
