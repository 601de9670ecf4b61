"""Social IQa (Sap et al. 2019): what people do, want and feel in everyday scenes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fairforget.benchmarks._capability import CapabilityBenchmark

if TYPE_CHECKING:
    from fairforget.data.choice_questions import ChoiceQuestion


class SocialIQa(CapabilityBenchmark):
    """Accuracy on the validation questions, with the prompt of lm-eval's `social_iqa`; two of upstream's three options."""

    name = "siqa"
    description = "Social IQa (Sap et al. 2019): questions about everyday scenes, two of the three options; accuracy."
    datasets = ("siqa",)

    def questions(self) -> Sequence[ChoiceQuestion]:
        """The validation questions."""
        from fairforget.data.choice_questions import load_siqa

        return load_siqa()

    def prompt(self, question: ChoiceQuestion) -> str:
        """``Q: SCENE QUESTION A:``."""
        return f"Q: {question.context} {question.question}\nA:"
