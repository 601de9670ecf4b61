"""PIQA: two ways to reach an everyday goal, of which one works (Bisk et al. 2020, AAAI).

The validation set; the labels of the test set were never published. Never trained on: parts ``select`` and ``test`` only.
"""

from __future__ import annotations

from pathlib import Path

from fairforget.data.catalogue import fetch
from fairforget.data.choice_questions import ChoiceQuestion, RawQuestion, deal, key_of
from fairforget.data.rows import read_rows, read_text
from fairforget.errors import DataError


def load_piqa(path: Path | None = None, labels: Path | None = None) -> list[ChoiceQuestion]:
    """Load the 1,838 validation questions, in upstream order. `question` is the goal. Clusters: equal goals.

    Args:
        path: a file in the format of ``valid.jsonl``; by default the one of the catalogue.
        labels: a file with 0 or 1 in each line; by default the one of the catalogue.

    Raises:
        DataError: a file is not in the upstream format, or the two do not belong together.
    """
    path, labels = path or fetch("piqa", "valid.jsonl"), labels or fetch("piqa", "valid-labels.lst")
    rows, answers = read_rows(path, ["goal", "sol1", "sol2"]), read_text(labels).split()
    if len(rows) != len(answers) or not set(answers) <= {"0", "1"}:
        raise DataError(f"{labels} is not a line with 0 or 1 for each of the {len(rows)} rows of {path}.")
    raw: list[RawQuestion] = []
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True), start=1):
        options = (row["sol1"], row["sol2"])
        if not all(isinstance(text, str) and text.strip() for text in (row["goal"], *options)):
            raise DataError(f"{path} row {number}: the goal or a solution is blank.")
        raw.append(RawQuestion(row["goal"], options, int(answer), key_of(row["goal"])))
    return deal(raw, "")
