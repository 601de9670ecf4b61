"""PIQA (Bisk et al. 2020): which of two ways leads to an everyday goal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fairforget.benchmarks._capability import CapabilityBenchmark

if TYPE_CHECKING:
    from fairforget.data.choice_questions import ChoiceQuestion


class Piqa(CapabilityBenchmark):
    """Accuracy on the validation questions, with the prompt of lm-eval's `piqa`."""

    name = "piqa"
    description = "PIQA (Bisk et al. 2020): two ways to an everyday goal; accuracy."
    datasets = ("piqa",)

    def questions(self) -> Sequence[ChoiceQuestion]:
        """The validation questions."""
        from fairforget.data.piqa import load_piqa

        return load_piqa()

    def prompt(self, question: ChoiceQuestion) -> str:
        """``Question: GOAL Answer:``."""
        return f"Question: {question.question}\nAnswer:"
