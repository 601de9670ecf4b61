"""StrategyQA (Geva et al. 2021): yes/no questions whose steps have to be found first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from fairforget.benchmarks._capability import CapabilityBenchmark

if TYPE_CHECKING:
    from fairforget.data.choice_questions import ChoiceQuestion


class StrategyQA(CapabilityBenchmark):
    """Accuracy on the public training set, whose `train` part may be trained on; no and yes as in BoolQ, after the question alone."""

    name = "strategyqa"
    description = "StrategyQA (Geva et al. 2021): yes/no questions that need several steps; accuracy."
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"chat": CapabilityBenchmark.presets["chat"]}
    datasets = ("strategyqa",)
    per_character = False

    def questions(self) -> Sequence[ChoiceQuestion]:
        """Questions of all parts."""
        from fairforget.data.strategyqa import load_strategyqa

        return load_strategyqa()

    def prompt(self, question: ChoiceQuestion) -> str:
        """``Q: ... A:``."""
        return f"Q: {question.question}\nA:"
