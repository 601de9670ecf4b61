"""HellaSwag (Zellers et al. 2019): how a scene goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fairforget.benchmarks._capability import CapabilityBenchmark

if TYPE_CHECKING:
    from fairforget.data.choice_questions import ChoiceQuestion


class HellaSwag(CapabilityBenchmark):
    """Accuracy on the validation questions, with the prompt of lm-eval's `hellaswag`; published figures are mostly `accuracy_norm`."""

    name = "hellaswag"
    description = "HellaSwag (Zellers et al. 2019): four endings of a scene; accuracy."
    datasets = ("hellaswag",)

    def questions(self) -> Sequence[ChoiceQuestion]:
        """The validation questions."""
        from fairforget.data.hellaswag import load_hellaswag

        return load_hellaswag()

    def prompt(self, question: ChoiceQuestion) -> str:
        """``ACTIVITY: SCENE``, which the ending goes on from."""
        return question.question
