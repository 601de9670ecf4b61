"""OpenBookQA (Mihaylov et al. 2018): elementary science facts, put to use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fairforget.benchmarks._capability import CapabilityBenchmark

if TYPE_CHECKING:
    from fairforget.data.choice_questions import ChoiceQuestion


class OpenBookQA(CapabilityBenchmark):
    """Accuracy on the test questions, without the book, with the prompt of lm-eval's `openbookqa`."""

    name = "openbookqa"
    description = "OpenBookQA (Mihaylov et al. 2018): beginnings to be completed with one of four options; accuracy."
    datasets = ("openbookqa",)

    def questions(self) -> Sequence[ChoiceQuestion]:
        """The test questions."""
        from fairforget.data.choice_questions import load_openbookqa

        return load_openbookqa()

    def prompt(self, question: ChoiceQuestion) -> str:
        """The question itself, which the option goes on from."""
        return question.question
