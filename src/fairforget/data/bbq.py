"""BBQ: questions about two people or groups, with and without the sentences that settle them (Parrish et al. 2022, Findings of ACL).

Every scene is asked four times: with an ambiguous context, where "unknown" is right, and with one that settles the answer; with a question
that presumes the stereotype (``neg``) and with one that does not (``nonneg``). Eleven categories, two of them intersectional.
"""

from __future__ import annotations

import functools
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
from fairforget.errors import DataError, unknown_name

CATEGORIES = (
    "Age", "Disability_status", "Gender_identity", "Nationality", "Physical_appearance", "Race_ethnicity", "Race_x_SES", "Race_x_gender",
    "Religion", "SES", "Sexual_orientation",
)
INTERSECTIONAL = ("Race_x_SES", "Race_x_gender")
POLARITIES = ("neg", "nonneg")
CONDITIONS = ("ambig", "disambig")
NAMED = ("Gender_identity", "Race_ethnicity")
"""Plain categories in which some templates name the two people and the others label them; the authors report the two apart."""
FIRST_NAMED = 26
"""First question index of templates with names in those categories (upstream's `BBQ_results_metadata.R`)."""
UNKNOWN_WORDINGS = (
    "Unknown", "Cannot answer", "Can't be determined", "Cannot be determined", "Can't answer", "Not known", "Not enough info",
    "Not enough information", "Not answerable", "Undetermined",
)
"""The ten wordings of the answer that leaves it open, in the order of lm-eval; each item has one of them."""
PREDICTION_FORMATS = ("arc", "race", "qonly")
"""UnifiedQA's prompts in upstream's predictions: two formats, and the question without its context."""
PREDICTION_FILES = {
    "Disability_status": "UnifiedQA_preds_Disability_status.jsonl", "Religion": "UnifiedQA_preds_Religion.jsonl",
    "Sexual_orientation": "UnifiedQA_preds_Sexual_orientation.jsonl",
}
"""Categories whose predictions are in the catalogue."""

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

    @property
    def targets(self) -> tuple[str, ...]:
        """The stereotyped groups of the person at whom the stereotype points; of both people where the biased answer is not known.

        Upstream's list names every group that the template was written for; a row is about one person of one of them.
        """
        pointed = self.biased if self.polarity == "neg" else self.counter_biased
        people = [place for place in range(3) if place != self.unknown] if pointed is None else [pointed]
        names = frozenset[str]().union(*(_groups(self.answers[place].entity, self.answers[place].group) for place in people))
        return tuple(dict.fromkeys(group for group in self.stereotyped_groups if _folded(group) in names))

    @property
    def wording(self) -> str | None:
        """``names`` or ``labels`` in the categories of :data:`NAMED`, else None."""
        if self.category not in NAMED:
            return None
        return "names" if int(self.question_index) >= FIRST_NAMED else "labels"


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
        found = [_plain(path, number, row) for number, row in enumerate(read_rows(path, _COLUMNS), start=1)]
        stray = next((row for row in found if row["category"] not in CATEGORIES), None)
        if stray is not None:
            raise DataError(
                f"{path}: example {stray['example_id']} is of the category '{stray['category']}', which BBQ has not; known are "
                f"{', '.join(CATEGORIES)}."
            )
        rows += found
    questions: defaultdict[str, set[str]] = defaultdict(set)
    for template, question in dict.fromkeys((_template(row), row["question"]) for row in rows):
        questions[template].add(folded_key(question))
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


def load_bbq_predictions(category: str, path: Path | None = None) -> dict[str, dict[int, int | None]]:
    """Load what UnifiedQA-11B answered: prompt format to example id to index of the answer.

    Predictions are matched to answers as upstream's ``BBQ_calculate_bias_score.R`` does: case, outer spaces and a full stop at the end
    aside, and two spellings mended. A prediction that matches no answer is None.

    Args:
        category: one of :data:`PREDICTION_FILES`; it is not looked at when `path` is given.
        path: another file in the upstream format.

    Raises:
        UsageError: no predictions of that category are in the catalogue.
        DataError: the file is not in the upstream format.
    """
    if path is None:
        if category not in PREDICTION_FILES:
            raise unknown_name("category with BBQ predictions", category, PREDICTION_FILES)
        path = fetch("bbq-predictions", "predictions/" + PREDICTION_FILES[category])
    columns = {name: f"unifiedqa-t5-11b_pred_{name}" for name in PREDICTION_FORMATS}
    found: dict[str, dict[int, int | None]] = {name: {} for name in PREDICTION_FORMATS}
    for number, row in enumerate(read_rows(path, ["example_id", "ans0", "ans1", "ans2", *columns.values()]), start=1):
        try:
            answers = [_said(row[name]) for name in ("ans0", "ans1", "ans2")]
            for name, column in columns.items():
                said = _said(row[column])
                found[name][int(row["example_id"])] = answers.index(said) if said in answers else None
        except (AttributeError, TypeError, ValueError) as error:
            raise DataError(f"{path} row {number} has not the fields of BBQ's predictions ({type(error).__name__}: {error}).") from error
    return found


def _said(text: str) -> str:
    return re.sub("pantsu$", "pantsuit", text.strip().lower().removesuffix(".")).replace("o'brien", "obrien")


def _template(row: dict[str, Any]) -> str:
    return f"{row['category']} {row['question_index']}"


def _file(folder: Path, category: str) -> Path:
    path = folder / f"{category}.jsonl"
    return path if path.is_file() else path.with_name(path.name + ".gz")


def _plain(path: Path, number: int, row: dict[str, Any]) -> dict[str, Any]:
    """The fields of an upstream row under our names, checked."""
    where = f"{path} row {number}"
    try:
        answers = tuple(_answer(str(row[name]), *map(str, row["answer_info"][name])) for name in ("ans0", "ans1", "ans2"))
        extra = row["additional_metadata"]
        plain: dict[str, Any] = {
            "id": f"{row['category']} {row['example_id']}", "category": row["category"], "example_id": int(row["example_id"]),
            "question_index": str(int(row["question_index"])), "polarity": row["question_polarity"], "condition": row["context_condition"],
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
    stereotyped = [index for index in known if _groups(answers[index].entity, answers[index].group) & groups]
    if row["category"] in INTERSECTIONAL and any(answers[index].group.endswith("-African") for index in known):
        return None  # upstream's own file contradicts its lists where an African stands beside a Black person
    if len(stereotyped) != 1:
        return None
    return stereotyped[0] if row["polarity"] == "neg" else known[1 - known.index(stereotyped[0])]


@functools.lru_cache(maxsize=32768)
def _answer(text: str, entity: str, group: str) -> BBQAnswer:
    return BBQAnswer(text, entity, group)  # one for all rows that have it: 175,476 answers are far fewer different ones


@functools.lru_cache(maxsize=4096)
def _groups(entity: str, group: str) -> frozenset[str]:
    """All names under which the stereotyped groups of a row may list an answer's group, e.g. both parts of ``F-Black``."""
    names = [entity, group, *re.split("[-_]", group)]
    return frozenset(_folded(name) for name in names if name)


@functools.lru_cache(maxsize=4096)
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
