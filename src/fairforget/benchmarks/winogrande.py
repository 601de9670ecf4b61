"""WinoGrande (Sakaguchi et al. 2020): which of two names fits into the gap of a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fairforget.benchmarks._base import Item, Plan
from fairforget.benchmarks._capability import CapabilityBenchmark

if TYPE_CHECKING:
    from fairforget.data.choice_questions import ChoiceQuestion
    from fairforget.models.model import Model


class WinoGrande(CapabilityBenchmark):
    """Accuracy on the validation sentences by partial evaluation (Trinh and Le 2018), as in lm-eval's `winogrande`.

    The names stand in the context, and what is scored is the rest of the sentence, the same tokens after both: no name is preferred for
    being frequent. The texts of an item are the two whole sentences.
    """

    name = "winogrande"
    description = "WinoGrande (Sakaguchi et al. 2020): one of two names in the gap of a sentence; accuracy by partial evaluation."
    datasets = ("winogrande",)
    per_character = False

    def questions(self) -> Sequence[ChoiceQuestion]:
        """The validation sentences."""
        from fairforget.data.choice_questions import load_winogrande

        return load_winogrande()

    def prompt(self, question: ChoiceQuestion) -> str:
        """Nothing that both sentences share; see :meth:`item`."""
        del question
        return ""

    def item(self, question: ChoiceQuestion, part: str) -> Item:
        """The sentence with either name."""
        whole = tuple(f"{beginning} {question.question}" for beginning in question.options)
        payload = {"context": question.options, "right": question.right, "rest": question.question}
        return replace(super().item(question, part), texts=whole, payload=payload)

    def plan(self, item: Item, model: Model) -> Plan:
        """The rest of the sentence after either beginning."""
        return super().plan(replace(item, texts=(item.payload["rest"],) * len(item.texts)), model)

    def protocol(self, item: Item, family: str) -> str:
        """As of other choices, ``partial``: the option stands in the context."""
        return f"partial, {super().protocol(item, family)}"
