"""ADEPT in its fine-tuning form: stereotype words as near to one group's words as to the other's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from fairforget.methods._trained import Job, TrainedMethod
from fairforget.methods._word_sentences import WordSettings
from fairforget.methods.context_debias import ATTRIBUTE, NEUTRAL, group_streams
from fairforget.objectives.drift import Reference
from fairforget.objectives.prototypes import EvenDistances, LayersMatch
from fairforget.settings import Settings
from fairforget.training import Objective, Stream


class AdeptSettings(WordSettings):
    """Settings of ADEPT."""

    learning_rate: float = Field(5e-4, gt=0, le=1)
    """Peak learning rate of AdamW, for LoRA (ours)."""
    batch_size: int = Field(32, ge=2)
    """Rows in an optimiser step; they are compared with each other."""
    epochs: float = Field(3.0, gt=0, le=1000)
    """Passes over the sentences with stereotype words (ours)."""
    neutral_weight: float = Field(0.3, gt=0)
    """α, weight of the even distances (released code)."""
    attribute_weight: float = Field(0.7, ge=0)
    """β, weight of the distance from the base on sentences about the groups (released code)."""
    radius: float = Field(15.0, gt=0)
    """ρ, the distance over which nearness fades (released code, for BERT-large; all layers as one vector)."""


class Adept(TrainedMethod):
    """L = α mean_{i<j} JS(p_i ‖ p_j) + β mean (h - h_base)², p_i the batch's nearness to group i's mean state."""

    name: ClassVar[str] = "adept"
    summary: ClassVar[str] = "Make stereotype words as near to one group's words as to the other's."
    source: ClassVar[str] = "Yang et al. 2023 (arXiv 2211.05414), eq. 2 to 6, the fine-tuning form; code EmpathYang/ADEPT"
    default_source: ClassVar[str] = "corpus"
    settings_class: ClassVar[type[Settings]] = AdeptSettings
    collapse_stream: ClassVar[str | None] = ATTRIBUTE
    settings: AdeptSettings

    def streams(self, job: Job) -> Mapping[str, Stream]:
        """Sentences with stereotype words, and sentences about the groups."""
        self.groups, streams = group_streams(job, self.settings)
        return streams

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """Both terms."""
        del job
        settings = self.settings
        return [
            EvenDistances(self.groups, settings.neutral_weight, NEUTRAL, radius=settings.radius),
            LayersMatch(reference, settings.attribute_weight, ATTRIBUTE),
        ]
