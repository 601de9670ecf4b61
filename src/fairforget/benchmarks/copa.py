"""COPA (Roemmele et al. 2011): the likelier cause or effect of a premise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from fairforget.benchmarks._base import Item
from fairforget.benchmarks._capability import CapabilityBenchmark
from fairforget.benchmarks._prefixed import PrefixedChoiceSettings
from fairforget.settings import Settings

if TYPE_CHECKING:
    from fairforget.data.choice_questions import ChoiceQuestion

CONNECTOR = {"cause": "because", "effect": "therefore"}


class CopaSettings(PrefixedChoiceSettings):
    """How options are scored."""

    spaces: int = Field(default=1, ge=1)
    """Spaces between premise and option; lm-eval's task has two, since its options begin with one."""


class Copa(CapabilityBenchmark):
    """Accuracy on the validation questions of SuperGLUE, with the prompt of lm-eval's `copa`, by cause and effect."""

    name = "copa"
    description = "COPA (Roemmele et al. 2011): the likelier of two causes or effects; accuracy."
    Settings: ClassVar[type[Settings]] = CopaSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **CapabilityBenchmark.presets, "lm-eval": {**CapabilityBenchmark.presets["lm-eval"], "spaces": 2},
    }
    datasets = ("copa",)

    def questions(self) -> Sequence[ChoiceQuestion]:
        """The validation questions."""
        from fairforget.data.choice_questions import load_copa

        return load_copa()

    def prompt(self, question: ChoiceQuestion) -> str:
        """The premise without its full stop, and ``because`` or ``therefore``."""
        return f"{question.context} {CONNECTOR[question.question]}"

    def options(self, question: ChoiceQuestion) -> tuple[str, ...]:
        """The options with a small first letter."""
        return tuple(option[:1].lower() + option[1:] for option in question.options)

    def item(self, question: ChoiceQuestion, part: str) -> Item:
        """One question, with the spaces between premise and option."""
        item = super().item(question, part)
        return replace(item, payload={**item.payload, "separator": " " * self.settings.spaces})
