"""Fine-tune on gender-flipped Wikipedia snippets (GAP)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from fairforget.data.group_sentences import split_sentences
from fairforget.data.swaps import Swapper
from fairforget.methods._base import texts_of
from fairforget.methods._trained import Job, TrainedMethod, TrainedSettings
from fairforget.objectives import CrossEntropy
from fairforget.objectives.drift import Reference
from fairforget.settings import Settings
from fairforget.training import Objective, Stream


class BecSettings(TrainedSettings):
    """Settings of the fine-tuning on flipped snippets."""

    learning_rate: float = Field(5e-4, gt=0, le=1)
    """Peak learning rate of AdamW. 5e-4 suits low-rank tuning (ours, as for task-vector); the released code tunes all weights with 2e-5."""
    epochs: float = Field(3.0, gt=0, le=1000)
    """Passes over the sentences (released code). `steps` overrides it."""
    warmup_share: float = Field(0.0, ge=0, le=1)
    """Share of the steps in which the learning rate rises (released code: none)."""
    flip: bool = True
    """Whether genders are exchanged: false for texts that are flipped already, such as the authors' gap_flipped.tsv."""
    names: bool = True
    """Whether first names are exchanged with the gender words (ours, so that a name and its pronouns agree)."""
    split: bool = True
    """Whether snippets are cut into sentences (released code), or kept whole."""


class Bec(TrainedMethod):
    """L = CE of the flipped sentences: masked likelihood (masked models) or likelihood (causal)."""

    name: ClassVar[str] = "bec"
    summary: ClassVar[str] = "Fine-tune on gender-flipped Wikipedia snippets (GAP)."
    source: ClassVar[str] = "Bartl, Nissim, Gatt 2020 (arXiv 2010.14534), section on mitigation; code marionbartl/gender-bias-BERT"
    default_source: ClassVar[str] = "gap"
    settings_class: ClassVar[type[Settings]] = BecSettings
    settings: BecSettings

    def streams(self, job: Job) -> Mapping[str, Stream]:
        """The flipped sentences.

        Raises:
            UsageError: there is no text.
        """
        settings = self.settings
        texts = texts_of(job.data)
        if settings.flip:
            swapper = Swapper("gender", names=settings.names)  # before sentences are cut: "his" needs what follows it
            flipped = [swapper.swap(text) for text in texts]
            job.notes["flipped"] = {"texts": len(texts), "changed": sum(new != old for new, old in zip(flipped, texts, strict=True))}
            texts = flipped
        if settings.split:
            texts = [sentence for text in texts for sentence in split_sentences(text)]
        return {"forget": self.text_stream(job, texts)}

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """Likelihood of the flipped sentences."""
        del job, reference
        return [CrossEntropy(stream="forget")]
