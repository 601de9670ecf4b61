"""TriviaQA: trivia questions with all spellings of their answers (Joshi et al. 2017, ACL), a subset of 3,000 questions.

The stored copy is llm-foundry's sample; of what upstream has it keeps the question, the answer and its aliases. Never trained on: parts
``select`` and ``test`` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fairforget.data.catalogue import fetch
from fairforget.data.overlap import folded_key
from fairforget.data.parts import SELECT_TEST, assign_parts, connected_rows
from fairforget.data.rows import read_rows
from fairforget.errors import DataError

STRATUM = "trivia"


@dataclass(frozen=True)
class TriviaQAItem:
    """One question."""

    id: str
    """Row number of the file, from 0."""
    question: str
    answer: str
    """The answer as upstream prefers it; it is among `aliases` too."""
    aliases: tuple[str, ...]
    """Every accepted answer, the preferred one first."""
    cluster: str
    """Questions equal once case, space and punctuation are folded."""
    stratum: str
    part: str
    """``select`` or ``test``."""


def load_triviaqa(path: Path | None = None) -> list[TriviaQAItem]:
    """Load all questions, in the order of the file.

    Args:
        path: a file in the format of llm-foundry's ``triviaqa_sm_sub.jsonl``; by default the one of the catalogue.

    Raises:
        DataError: the file lacks a column, is empty, or a row is no question with an answer.
    """
    path = path or fetch("triviaqa", "triviaqa_sm_sub.jsonl")
    questions: list[str] = []
    answers: list[tuple[str, ...]] = []
    for number, row in enumerate(read_rows(path, ["context", "answer", "aliases"]), start=1):
        context, answer, aliases = row["context"], row["answer"], row["aliases"]
        if not isinstance(context, str) or not context.startswith("Question: ") or not context.endswith("\nAnswer:"):
            raise DataError(f"{path} row {number}: 'context' is not 'Question: ...' and 'Answer:' on the next line.")
        question = context.removeprefix("Question: ").removesuffix("\nAnswer:").strip()
        if not question or not isinstance(answer, str) or not isinstance(aliases, list):
            raise DataError(f"{path} row {number}: this is not a question with an answer and a list of aliases.")
        accepted = tuple(dict.fromkeys(text.strip() for text in (answer, *map(str, aliases)) if text.strip()))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        if not accepted:
            raise DataError(f"{path} row {number}: there is no answer.")
        questions.append(question)
        answers.append(accepted)
    clusters = [f"question {first}" for first in connected_rows([{folded_key(question) or question} for question in questions])]
    parts = assign_parts(clusters, [STRATUM] * len(clusters), SELECT_TEST)
    return [
        TriviaQAItem(str(number), question, accepted[0], accepted, cluster, STRATUM, part)
        for number, (question, accepted, cluster, part) in enumerate(zip(questions, answers, clusters, parts, strict=True))
    ]
