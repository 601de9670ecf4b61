"""CommonsenseQA (Talmor et al. 2019): questions on common sense, answered by the letter of an option."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from fairforget.benchmarks._base import Item
from fairforget.benchmarks._capability import CapabilityBenchmark
from fairforget.benchmarks._prefixed import PrefixedChoiceSettings
from fairforget.settings import Settings

if TYPE_CHECKING:
    from fairforget.data.choice_questions import ChoiceQuestion


class CommonsenseQASettings(PrefixedChoiceSettings):
    """How questions are put and options scored."""

    letters: bool = True
    """Options stand in the prompt and their letters are scored, as in lm-eval; False = the options' own texts are scored after the
    question."""


class CommonsenseQA(CapabilityBenchmark):
    """Accuracy on the validation questions, with the prompt of lm-eval's `commonsense_qa`; four of upstream's five options."""

    name = "commonsenseqa"
    description = "CommonsenseQA (Talmor et al. 2019): questions on common sense, four of the five options; accuracy."
    Settings: ClassVar[type[Settings]] = CommonsenseQASettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"texts": {"letters": False}, **CapabilityBenchmark.presets}
    datasets = ("commonsenseqa",)

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.per_character = not self.settings.letters

    def protocol(self, item: Item, family: str) -> str:
        """How options are scored, and whether they stand in the prompt."""
        return super().protocol(item, family) + ("" if self.settings.letters else ", options not in the prompt")

    def questions(self) -> Sequence[ChoiceQuestion]:
        """The validation questions."""
        from fairforget.data.choice_questions import load_commonsenseqa

        return load_commonsenseqa()

    def prompt(self, question: ChoiceQuestion) -> str:
        """The question, the lettered options, ``Answer:``."""
        lines = [f"Question: {question.question}"]
        if self.settings.letters:
            lines += [f"{letter}. {option}" for letter, option in zip(string.ascii_uppercase, question.options, strict=False)]
        return "\n".join([*lines, "Answer:"])

    def options(self, question: ChoiceQuestion) -> tuple[str, ...]:
        """Letters, or the options' texts."""
        return tuple(string.ascii_uppercase[: len(question.options)]) if self.settings.letters else question.options
