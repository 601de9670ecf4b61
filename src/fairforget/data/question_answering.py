"""Tasks that may be tuned on, all cast as one kind of question, so that stages of a chain differ in what they teach and not in its form.

Ung et al. 2024 (arXiv 2412.16469) cast their safety and capability tasks as question answering. The sets here are those that can be had
with a part that may be trained on. ARC, CommonsenseQA and OpenBookQA come as test or validation files alone; they are dealt out anew, bear
the name ``-resplit``, and their figures compare with no published ones.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from fairforget.data.bbq import load_bbq
from fairforget.data.choice_questions import ChoiceQuestion, load_arc, load_commonsenseqa, load_openbookqa
from fairforget.data.ethics import TRAINED, load_ethics
from fairforget.data.parts import assign_parts
from fairforget.data.posts import load_edos
from fairforget.data.strategyqa import load_strategyqa
from fairforget.data.toxigen import load_annotated
from fairforget.errors import unknown_name

Answers = Literal["letters", "text"]

RESPLIT: Mapping[str, float] = {"train": 0.6, "select": 0.2, "test": 0.2}
"""Shares of a set that comes as one file."""

LETTERS = "ABCDEFGHIJ"

_WITHIN_SELECT: Mapping[str, float] = {"train": 0.8, "select": 0.2}
_NO_YES = ("no", "yes")
_JUDGED = {
    "deontology": ("Is this reasonable?", "{first} {second}"), "justice": ("Is this reasonable?", "{first}"),
    "virtue": ("Does someone here show the trait {second}?", "{first}"),
}


def load_questions(task: str) -> list[ChoiceQuestion]:
    """All questions of a task, each with its part.

    Args:
        task: one of :func:`question_tasks`.

    Raises:
        UsageError: there is no such task.
        DataError: its data are missing or damaged.
    """
    loaders = _loaders()
    if task not in loaders:
        raise unknown_name("question-answering task", task, loaders)
    return loaders[task]()


def question_tasks() -> list[str]:
    """Names of all tasks."""
    return list(_loaders())


TASK_DATASETS = {
    "bbq": "bbq", "safenlp": "safenlp", "edos": "edos", **{f"ethics-{subject}": "ethics" for subject in TRAINED},
    "arc-resplit": "arc", "commonsenseqa-resplit": "commonsenseqa", "openbookqa-resplit": "openbookqa", "strategyqa": "strategyqa",
}
"""Catalogue name of each task's data."""


def put_question(question: ChoiceQuestion, answers: Answers = "letters", order: int = 0) -> tuple[str, tuple[str, ...], int]:
    """A question in the one form that all tasks share.

    ``CONTEXT⏎Question: QUESTION⏎A. OPTION⏎B. OPTION⏎Answer:`` and, as options, the letters or the options' texts. Options stand in an order
    that a hash of the question's id decides, so that no letter means anything.

    Args:
        question: to be put.
        answers: what is answered: a letter, or the text of an option.
        order: another number gives other orders.

    Returns:
        The prompt, the answers that are compared, and the place of the right one among them.
    """
    places = sorted(
        range(len(question.options)), key=lambda place: hashlib.sha256(f"{order}:{question.id}:{place}".encode()).digest()
    )
    options = [question.options[place] for place in places]
    listed = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    lines = [*([question.context] if question.context else []), f"Question: {question.question}", *listed, "Answer:"]
    said = tuple(LETTERS[: len(options)]) if answers == "letters" else tuple(options)
    return "\n".join(lines), said, places.index(question.right)


def at_most_per_cluster(questions: Sequence[ChoiceQuestion], most: int | None) -> list[ChoiceQuestion]:
    """At most so many questions of each cluster, chosen by hash; many clusters say more than many questions of few."""
    if most is None:
        return list(questions)
    ordered: defaultdict[str, list[int]] = defaultdict(list)
    for place, question in enumerate(questions):
        ordered[question.cluster].append(place)
    kept: set[int] = set()
    for places in ordered.values():
        kept.update(sorted(places, key=lambda place: hashlib.sha256(f"few:{questions[place].id}".encode()).digest())[:most])
    return [question for place, question in enumerate(questions) if place in kept]


def _loaders() -> dict[str, Callable[[], list[ChoiceQuestion]]]:
    return {
        "bbq": _bbq,
        "safenlp": _safenlp,
        "edos": _edos,
        **{f"ethics-{subject}": lambda subject=subject: _ethics(subject) for subject in TRAINED},
        "arc-resplit": lambda: _resplit([*load_arc("easy"), *load_arc("challenge")]),
        "commonsenseqa-resplit": lambda: _resplit(load_commonsenseqa()),
        "openbookqa-resplit": lambda: _resplit(load_openbookqa()),
        "strategyqa": load_strategyqa,
    }


def _resplit(questions: Sequence[ChoiceQuestion]) -> list[ChoiceQuestion]:
    parts = assign_parts([entry.cluster for entry in questions], [entry.stratum for entry in questions], RESPLIT, salt="resplit")
    return [replace(question, part=part) for question, part in zip(questions, parts, strict=True)]


def _bbq() -> list[ChoiceQuestion]:
    """Both contexts; groups are the category and the stereotyped groups of the person at whom the stereotype points."""
    return [
        ChoiceQuestion(
            item.id, item.question, tuple(answer.text for answer in item.answers), item.label, item.context,
            (item.category, *(f"target: {group}" for group in item.targets)), item.cluster, item.stratum, item.part,
        )
        for item in load_bbq()
    ]


def _safenlp() -> list[ChoiceQuestion]:
    """Harmful or not, of ToxiGen's annotated sentences; `test` is that of the benchmark ``toxigen``, so that its test is never taught."""
    rows = load_annotated()
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        groups[row.id.partition(" ")[0]].append(row.group)
    first = {row.id.partition(" ")[0]: row for row in reversed(rows)}
    learned = [row for row in first.values() if row.part == "select"]
    dealt = assign_parts([row.cluster for row in learned], [row.stratum for row in learned], _WITHIN_SELECT)
    parts = {row.id: part for row, part in zip(learned, dealt, strict=True)}
    return [
        ChoiceQuestion(
            number, f'Is this statement harmful? "{row.text}"', _NO_YES, int(row.harmful), "", tuple(dict.fromkeys(groups[number])),
            row.cluster, row.stratum, parts.get(row.id, row.part),
        )
        for number, row in sorted(first.items(), key=lambda entry: int(entry[0]))
    ]


def _edos() -> list[ChoiceQuestion]:
    return [
        ChoiceQuestion(
            post.id, f'Is this post sexist? "{post.text}"', _NO_YES, int(post.sexist), "", (post.category or "not sexist",), post.id,
            "sexist" if post.sexist else "not sexist", post.part,
        )
        for post in load_edos()
    ]


def _ethics(subject: str) -> list[ChoiceQuestion]:
    asked, context = _JUDGED[subject]
    return [
        ChoiceQuestion(
            item.id, asked.format(first=item.first, second=item.second), _NO_YES, item.label,
            context.format(first=item.first, second=item.second).strip(), (), item.cluster, item.stratum, item.part,
        )
        for item in load_ethics(subject)
        if item.file != "hard"
    ]
