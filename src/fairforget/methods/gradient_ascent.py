"""Gradient ascent: raise the loss on the text to be forgotten, and stop when the text is no better known than any other."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from fairforget.methods._base import texts_of
from fairforget.methods._forget import FORGET, ForgetMethod, ForgetSettings
from fairforget.methods._memorisation import MemorisationStop
from fairforget.methods._trained import Job
from fairforget.objectives import Ascent
from fairforget.objectives.drift import Reference
from fairforget.settings import Settings
from fairforget.training import Monitor, Objective


class GradientAscentSettings(ForgetSettings):
    """Settings of gradient ascent."""

    clamp: float = Field(0.0, ge=0)
    """Floor of a token's probability, in uniform guesses 1 / V: rarer tokens get no gradient. 1 bounds the loss, 0 is the paper's form."""
    stop_accuracy: float | None = Field(None, gt=0, le=1)
    """Stop once fewer of the tokens of the texts are guessed right (memorisation accuracy); the paper stops at the value of text that
    the model has not seen, 0.2994 for GPT-Neo 125M. With `stop_extraction` both must hold. None: no such stop."""
    stop_extraction: float | None = Field(None, gt=0, le=1)
    """Causal models: stop once the extraction likelihood of 10-grams is lower (0.0499 for GPT-Neo 125M). Each look generates from every
    prefix of the texts looked at. None: no such stop."""


class GradientAscent(ForgetMethod):
    """L = mean_t log p(x_t | context) over the texts, without dropout; as it is, nothing holds the model (see `retain` and `clamp`)."""

    name: ClassVar[str] = "gradient-ascent"
    summary: ClassVar[str] = "Raise the loss on biased text."
    source: ClassVar[str] = "Jang et al. 2023 (arXiv 2210.01504)"
    settings_class: ClassVar[type[Settings]] = GradientAscentSettings
    settings: GradientAscentSettings

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """Ascent on the texts."""
        del job, reference
        return [Ascent(self.settings.forget_weight, FORGET, clamp=self.settings.clamp)]

    def watched(self, job: Job, monitor: Monitor | None) -> Monitor | None:
        """The paper's stop, where it is asked for."""
        settings = self.settings
        if settings.stop_accuracy is None and settings.stop_extraction is None:
            return monitor
        stream = self.text_stream(job, texts_of(job.data))
        return MemorisationStop(job.model, stream, accuracy=settings.stop_accuracy, extraction=settings.stop_extraction, inner=monitor)
