"""ASE: pronouns predicted on both sides of a flip, stereotype words off the gender direction, weights held by their information."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from fairforget.data.swaps import Swapper
from fairforget.data.training import TrainingSource
from fairforget.data.words import PRONOUNS, find_word_list, group_words
from fairforget.errors import UsageError
from fairforget.methods._base import texts_of
from fairforget.methods._spans.lexicon import LexiconFinder
from fairforget.methods._trained import Job, TrainedMethod
from fairforget.methods._word_sentences import WordSettings, marked_stream, word_sentences
from fairforget.objectives import CrossEntropy
from fairforget.objectives.drift import Reference
from fairforget.objectives.elastic import ElasticWeightConsolidation
from fairforget.objectives.prototypes import OrthogonalToDirection
from fairforget.objectives.spans import SpanStream
from fairforget.settings import Settings
from fairforget.training import Objective, Stream

PRONOUN, NEUTRAL = "pronoun", "neutral"


class AseSettings(WordSettings):
    """Settings of ASE."""

    learning_rate: float = Field(5e-4, gt=0, le=1)
    """Peak learning rate of AdamW, for LoRA (ours); the released code tunes all weights with 2e-5."""
    max_length: int = Field(164, ge=2)
    """Tokens kept of a text (released code)."""
    epochs: float = Field(1.0, gt=0, le=1000)
    """Passes over the snippets and their flips (ours; the released code makes 50, Collapsed Language Models 5)."""
    direction_weight: float = Field(1.0, ge=0)
    """Weight of the stereotype words' product with the gender direction (released code, whose term is a sum over a batch: see the page)."""
    consolidation_weight: float = Field(0.5, ge=0)
    """Weight of Σ F (θ - θ₀)² (released code)."""
    fisher_texts: int = Field(64, ge=1)
    """Snippets that the Fisher information F is taken on: of the training data, never of a benchmark (the released code takes WinoBias'
    test sentences)."""
    faithful_fisher: bool = False
    """Square the *sum* of the gradients so far at each text, as the released code does, which never sets them to zero."""


class Ase(TrainedMethod):
    """L = CE(pronouns | snippet and flip) + w₁ mean |⟨h, g⟩| + w₂ Σ F (θ - θ₀)²."""

    name: ClassVar[str] = "ase"
    summary: ClassVar[str] = "Predict pronouns evenly, keep stereotype words off the gender direction, hold what matters."
    source: ClassVar[str] = "BERT-ASE, WSDM 2023 (Never Too Late to Learn), as used by Xu et al. 2025 (arXiv 2410.04472)"
    default_source: ClassVar[str] = "gap"
    settings_class: ClassVar[type[Settings]] = AseSettings
    settings: AseSettings

    def streams(self, job: Job) -> Mapping[str, Stream]:
        """Snippets and their flips with pronouns to be predicted, and sentences with stereotype words.

        Raises:
            UsageError: snippets of a set on which such methods are measured.
        """
        if isinstance(job.data, TrainingSource) and job.data.name == "winogender":
            raise UsageError("ase is measured on Winogender's sentences and must not learn from them: train on gap.")
        settings = self.settings
        swapper = Swapper("gender")
        texts = [version for text in texts_of(job.data) for version in dict.fromkeys((text, swapper.swap(text)))]
        spans = LexiconFinder([word for group in PRONOUNS for word in group]).find(texts)
        self.pronouns = SpanStream(job.model, texts, spans, max_length=settings.max_length, seed=job.seed)
        job.notes["snippets"] = {"with flips": len(texts), "with a pronoun": len(self.pronouns)}
        neutral = word_sentences(job, settings, grouped=False).neutral
        return {PRONOUN: self.pronouns, NEUTRAL: marked_stream(job, neutral, settings, context=0)}

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """The three terms."""
        del job, reference
        settings = self.settings
        male, female = group_words(find_word_list(settings.words))[:2]
        terms: list[Objective] = [CrossEntropy(stream=PRONOUN)]
        if settings.direction_weight:
            terms.append(OrthogonalToDirection(male, female, settings.direction_weight, NEUTRAL))
        if settings.consolidation_weight:
            # The term is half the weighted square; the released code's is the whole.
            terms.append(ElasticWeightConsolidation(
                self.pronouns, 2 * settings.consolidation_weight, settings.fisher_texts, cumulative=settings.faithful_fisher
            ))
        return terms
