"""StrategyQA: yes/no questions whose steps have to be found first (Geva et al. 2021, TACL).

The public training set, which the authors' repository cuts into ``train.json`` and ``dev.json``; the answers of the test set were never
published. Both files are dealt out to ``train``, ``select`` and ``test`` anew.
"""

from __future__ import annotations

from pathlib import Path

from fairforget.data.catalogue import fetch
from fairforget.data.choice_questions import ChoiceQuestion, RawQuestion, deal, key_of
from fairforget.data.parts import TRAIN_SELECT_TEST
from fairforget.data.rows import read_json
from fairforget.errors import DataError


def load_strategyqa(*paths: Path) -> list[ChoiceQuestion]:
    """Load the 2,290 questions, in upstream order; options no and yes. Clusters: questions about one term, or equal ones.

    Args:
        paths: files in the upstream format; by default the two of the catalogue.

    Raises:
        DataError: a file is not a list of questions with their terms and answers.
    """
    raw: list[RawQuestion] = []
    for path in paths or (fetch("strategyqa", "train.json"), fetch("strategyqa", "dev.json")):
        entries = read_json(path)
        if not isinstance(entries, list) or not entries:
            raise DataError(f"{path} is not a list of questions: it is not a StrategyQA file.")
        for number, entry in enumerate(entries, start=1):
            try:
                term, question, answer = str(entry["term"]), str(entry["question"]).strip(), entry["answer"]
            except (KeyError, TypeError) as error:
                raise DataError(f"{path} question {number} has not the fields term, question and answer.") from error
            if not isinstance(answer, bool) or not question:
                raise DataError(f"{path} question {number}: the question is blank, or the answer neither true nor false.")
            keys = key_of(question) | {f"term {next(iter(key_of(term)))}"}  # a folded key has no space: no term is taken for a question
            raw.append(RawQuestion(question, ("no", "yes"), int(answer), keys))
    return deal(raw, "", TRAIN_SELECT_TEST)
