"""BoolQ (Clark et al. 2019): yes/no questions about a passage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fairforget.benchmarks._capability import CapabilityBenchmark

if TYPE_CHECKING:
    from fairforget.data.choice_questions import ChoiceQuestion


class BoolQ(CapabilityBenchmark):
    """Accuracy on the validation questions, with the prompt of lm-eval's `boolq`; passages come without their titles."""

    name = "boolq"
    description = "BoolQ (Clark et al. 2019): yes/no questions about a passage; accuracy."
    datasets = ("boolq",)
    per_character = False

    def questions(self) -> Sequence[ChoiceQuestion]:
        """The validation questions."""
        from fairforget.data.choice_questions import load_boolq

        return load_boolq()

    def prompt(self, question: ChoiceQuestion) -> str:
        """The passage, ``Question: ...?``, ``Answer:``."""
        return f"{question.context}\nQuestion: {question.question}?\nAnswer:"
