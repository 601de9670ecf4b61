"""ARC (Clark et al. 2018): grade-school science questions, an easy and a hard set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fairforget.benchmarks._capability import CapabilityBenchmark
from fairforget.benchmarks._prefixed import PrefixedChoiceSettings
from fairforget.settings import Settings

if TYPE_CHECKING:
    from fairforget.data.choice_questions import ChoiceQuestion


class ArcSettings(PrefixedChoiceSettings):
    """Which set of ARC is asked, and how options are scored."""

    subset: Literal["both", "easy", "challenge"] = "both"
    """`easy`, `challenge`, or `both` as two tasks."""


class Arc(CapabilityBenchmark):
    """Accuracy on ``arc-easy`` and ``arc-challenge``, with the prompt of lm-eval's `arc_easy` and `arc_challenge`."""

    name = "arc"
    description = "ARC (Clark et al. 2018): science questions of grade schools, easy and challenge set; accuracy."
    Settings: ClassVar[type[Settings]] = ArcSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "easy": {"subset": "easy"}, "challenge": {"subset": "challenge"}, **CapabilityBenchmark.presets,
    }
    datasets = ("arc",)

    def questions(self) -> Sequence[ChoiceQuestion]:
        """Test questions of the chosen sets."""
        from fairforget.data.choice_questions import ARC_FILES, load_arc

        return [question for subset in ARC_FILES if self.settings.subset in ("both", subset) for question in load_arc(subset)]

    def prompt(self, question: ChoiceQuestion) -> str:
        """``Question: ... Answer:``."""
        return f"Question: {question.question}\nAnswer:"

    def task(self, question: ChoiceQuestion) -> str:
        """``arc-easy`` or ``arc-challenge``."""
        return f"arc-{question.stratum}"
