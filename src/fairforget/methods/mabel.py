"""MABEL: contrastive learning of sentences that go together, alike with genders swapped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from fairforget.data.swaps import Swapper
from fairforget.data.training import TrainingSource, TrainingText
from fairforget.data.words import find_word_list
from fairforget.errors import UsageError
from fairforget.methods._trained import Job, TrainedMethod, TrainedSettings
from fairforget.objectives import CrossEntropy
from fairforget.objectives.alignment import EntailmentAlignment, QuadrupleStream
from fairforget.objectives.drift import Reference
from fairforget.settings import Settings
from fairforget.training import Objective, Stream

PAIRS, TEXTS = "forget", "language"


class MabelSettings(TrainedSettings):
    """Settings of MABEL."""

    learning_rate: float = Field(5e-4, gt=0, le=1)
    """Peak learning rate of AdamW, for LoRA (ours); the released code tunes all weights with 5e-5."""
    batch_size: int = Field(32, ge=2)
    """Pairs in an optimiser step, compared with each other (released code)."""
    epochs: float = Field(2.0, gt=0, le=1000)
    """Passes over the pairs (released code)."""
    words: str = "gender"
    """Words that are exchanged: a list of this package or a file."""
    names: bool = False
    """Whether first names are exchanged too (released code: no)."""
    temperature: float = Field(0.05, gt=0)
    """τ (released code)."""
    align_weight: float = Field(0.05, ge=0)
    """Weight of the alignment of originals and swaps (released code, where one flag sets both this and τ)."""
    language_weight: float = Field(0.1, ge=0)
    """Weight of the language-modelling loss on all four texts (released code)."""


class Mabel(TrainedMethod):
    """L = L_CL + a L_AL + λ L_LM on pairs of texts that go together and on their swaps."""

    name: ClassVar[str] = "mabel"
    summary: ClassVar[str] = "Contrastive learning of sentences that go together, alike with genders swapped."
    source: ClassVar[str] = "He et al. 2022 (arXiv 2210.14975), eq. 1 to 3; code princeton-nlp/MABEL. The data are our reconstruction"
    default_source: ClassVar[str] = "stsb"
    settings_class: ClassVar[type[Settings]] = MabelSettings
    settings: MabelSettings

    def streams(self, job: Job) -> Mapping[str, Stream]:
        """Pairs with a listed word and their swaps, and all their texts.

        Raises:
            UsageError: fewer than two pairs have a listed word.
        """
        swapper = Swapper(find_word_list(self.settings.words), names=self.settings.names, seed=job.seed)
        rows = job.data.texts if isinstance(job.data, TrainingSource) else job.data
        pairs = [(row.text, row.partner) for row in rows if isinstance(row, TrainingText) and row.partner]
        named = [pair for pair in pairs if any(swapper.count(text) for text in pair)]
        found = [(first, second, swapper.swap(first), swapper.swap(second)) for first, second in named]
        job.notes["pairs"] = {"given": len(pairs), "with a listed word": len(found)}
        if len(found) < 2:
            raise UsageError(
                f"MABEL is trained on pairs of texts that go together, and {len(found)} of {len(pairs)} have a word of the list "
                f"'{self.settings.words}': use train.source=stsb, or a file with a column for the role `partner`."
            )
        texts = list(dict.fromkeys(text for quadruple in found for text in quadruple))
        streams: dict[str, Stream] = {PAIRS: QuadrupleStream(job.model, found, max_length=self.settings.max_length)}
        return streams | ({TEXTS: self.text_stream(job, texts)} if self.settings.language_weight else {})

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """The terms."""
        del job, reference
        settings = self.settings
        terms: list[Objective] = [EntailmentAlignment(stream=PAIRS, temperature=settings.temperature, align=settings.align_weight)]
        return terms + ([CrossEntropy(settings.language_weight, TEXTS)] if settings.language_weight else [])
