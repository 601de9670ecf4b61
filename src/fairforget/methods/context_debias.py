"""Context-Debias: states of stereotype words at right angles to the groups' mean states, at every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from fairforget.methods._trained import Job, TrainedMethod
from fairforget.methods._word_sentences import Marked, WordSettings, marked_stream, word_sentences
from fairforget.objectives.drift import Reference
from fairforget.objectives.prototypes import LayersMatch, OrthogonalWords
from fairforget.objectives.spans import SpanStream
from fairforget.settings import Settings
from fairforget.training import Objective, Stream

NEUTRAL, ATTRIBUTE = "neutral", "attribute"


class ContextDebiasSettings(WordSettings):
    """Settings of Context-Debias."""

    learning_rate: float = Field(5e-4, gt=0, le=1)
    """Peak learning rate of AdamW, for LoRA (ours); the released code tunes all weights with 5e-5."""
    batch_size: int = Field(32, ge=1)
    """Rows in an optimiser step (released code)."""
    epochs: float = Field(3.0, gt=0, le=1000)
    """Passes over the sentences with stereotype words (released code)."""
    neutral_weight: float = Field(0.2, gt=0)
    """α, weight of the right angles (released code)."""
    attribute_weight: float = Field(0.8, ge=0)
    """β, weight of the distance from the base on sentences about the groups (released code)."""
    square_of_mean: bool = False
    """Square the mean over rows and layers, as the released code does, in place of the mean of squares, as the paper says."""


class ContextDebias(TrainedMethod):
    """L = α Σ_g mean ⟨v_g, h⟩² + β mean (h - h_base)², v_g the mean state of group g's words, renewed before each pass."""

    name: ClassVar[str] = "context-debias"
    summary: ClassVar[str] = "Turn the states of stereotype words at right angles to the groups'."
    source: ClassVar[str] = "Kaneko, Bollegala 2021 (arXiv 2101.09523), eq. 1 to 4; code kanekomasahiro/context-debias"
    default_source: ClassVar[str] = "corpus"
    settings_class: ClassVar[type[Settings]] = ContextDebiasSettings
    collapse_stream: ClassVar[str | None] = ATTRIBUTE
    settings: ContextDebiasSettings

    def streams(self, job: Job) -> Mapping[str, Stream]:
        """Sentences with stereotype words, and sentences about the groups."""
        self.groups, streams = group_streams(job, self.settings)
        return streams

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """Both terms."""
        del job
        settings = self.settings
        return [
            OrthogonalWords(self.groups, settings.neutral_weight, NEUTRAL, square_of_mean=settings.square_of_mean),
            LayersMatch(reference, settings.attribute_weight, ATTRIBUTE),
        ]


def group_streams(job: Job, settings: WordSettings) -> tuple[list[SpanStream], dict[str, Stream]]:
    """Rows of each group, for its mean state; and the streams: stereotype words, and the sentences of all groups in turn."""
    found = word_sentences(job, settings)
    turns = range(len(found.groups[0].texts))
    mixed = Marked(
        [group.texts[turn] for turn in turns for group in found.groups], [group.spans[turn] for turn in turns for group in found.groups]
    )
    groups = [marked_stream(job, group, settings) for group in found.groups]
    return groups, {NEUTRAL: marked_stream(job, found.neutral, settings), ATTRIBUTE: marked_stream(job, mixed, settings)}
