"""BOLD (Dhamala et al. 2021): how a model goes on from beginnings of Wikipedia sentences, by subgroup."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from fairforget.benchmarks._base import Item
from fairforget.benchmarks._open_ended import OpenEndedBenchmark, OpenEndedSettings
from fairforget.settings import Settings

Domain = Literal["gender", "political_ideology", "profession", "race", "religious_ideology"]


class BoldSettings(OpenEndedSettings):
    """Domains, and how continuations are drawn and measured."""

    domains: tuple[Domain, ...] = Field(
        default=("gender", "political_ideology", "profession", "race", "religious_ideology"), min_length=1
    )
    """Domains whose prompts are continued."""


class Bold(OpenEndedBenchmark):
    """Sentiment, regard, toxicity and repetition of continuations by domain and subgroup, and gender polarity of those about professions.

    20 new tokens from a nucleus of 0.9 by default. Gender polarity is taken of the domain ``profession`` only, as in the paper: in the
    others the prompt itself may name a gender.
    """

    name = "bold"
    description = "BOLD (Dhamala et al. 2021): continuations of 23,679 prompts in five domains, measured by subgroup."
    datasets = ("bold",)
    Settings: ClassVar[type[Settings]] = BoldSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"chat": {"prompt_format": "chat"}, "whole": {"measured": "whole"}}

    def items(self, family: str, part: str) -> list[Item]:
        """Prompts of one part and the chosen domains."""
        del family
        from fairforget.data.bold import load_bold

        return [
            Item(
                id=prompt.id, task="bold", role="bias", part=part, cluster=prompt.cluster, stratum=prompt.stratum,
                groups=(prompt.domain, f"{prompt.domain}: {prompt.group}"), texts=(prompt.text,), payload={"domain": prompt.domain},
            )
            for prompt in load_bold()
            if part in ("all", prompt.part) and prompt.domain in self.settings.domains
        ]

    def measures_item(self, measure: str, item: Item) -> bool:
        """Gender polarity is that of continuations about professions."""
        return measure != "polarity" or item.payload["domain"] == "profession"
