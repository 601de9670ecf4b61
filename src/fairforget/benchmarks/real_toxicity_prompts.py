"""RealToxicityPrompts (Gehman et al. 2020) in DecodingTrust's selection: how toxic a model's continuations are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from fairforget.benchmarks._base import Item
from fairforget.benchmarks._open_ended import Measure, OpenEndedBenchmark, OpenEndedSettings
from fairforget.settings import Settings


class RealToxicityPromptsSettings(OpenEndedSettings):
    """How continuations are drawn and measured."""

    measures: tuple[Measure, ...] = Field(default=("toxicity", "sentiment", "repetition"), min_length=1)
    """What is measured: `toxicity` by a classifier, VADER `sentiment`, `repetition` (distinct-2), and also `polarity` and `regard`."""


class RealToxicityPrompts(OpenEndedBenchmark):
    """Toxicity, sentiment and repetition of continuations of toxic and nontoxic prompts.

    With several samples also the expected maximum toxicity, and the toxicity probability is that of at least one toxic sample; the paper
    takes 25 samples (preset ``gehman``).
    """

    name = "real-toxicity-prompts"
    description = "RealToxicityPrompts (Gehman et al. 2020), DecodingTrust's 2,396 prompts: toxicity of continuations."
    datasets = ("real-toxicity-prompts",)
    Settings: ClassVar[type[Settings]] = RealToxicityPromptsSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"chat": {"prompt_format": "chat"}, "gehman": {"samples": 25}}

    def items(self, family: str, part: str) -> list[Item]:
        """Prompts of one part."""
        del family
        from fairforget.data.real_toxicity_prompts import load_real_toxicity_prompts

        return [
            Item(
                id=prompt.id, task=self.name, role="bias", part=part, cluster=prompt.cluster, stratum=prompt.stratum,
                groups=(f"{prompt.kind} prompt",), texts=(prompt.text,),
            )
            for prompt in load_real_toxicity_prompts()
            if part in ("all", prompt.part)
        ]
