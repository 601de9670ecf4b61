"""Gradient difference: ascent on what is to be forgotten, descent on what is to be retained."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from fairforget.errors import UsageError
from fairforget.methods._forget import FORGET, ForgetMethod, ForgetSettings
from fairforget.methods._trained import Job
from fairforget.models.model import Model
from fairforget.objectives import Ascent
from fairforget.objectives.drift import Reference
from fairforget.settings import Settings
from fairforget.training import Objective


class GradientDifferenceSettings(ForgetSettings):
    """Settings of gradient difference."""

    retain: Literal["none", "cross-entropy", "kl", "hidden"] = "cross-entropy"
    """What holds the model on `retain_text`: its likelihood (the papers' form), divergence from the base, or hidden states."""
    clamp: float = Field(0.0, ge=0)
    """Floor of a forgotten token's probability, in uniform guesses 1 / V: rarer tokens get no gradient. 0 is the papers' form."""


class GradientDifference(ForgetMethod):
    """L = γ mean_f log p - α mean_r log p: `forget_weight` γ on the texts, `retain_weight` α on neutral text."""

    name: ClassVar[str] = "gradient-difference"
    summary: ClassVar[str] = "Raise the loss on biased text and lower it on neutral text."
    source: ClassVar[str] = "Liu et al. 2022 (arXiv 2203.12817); Maini et al. 2024 (arXiv 2401.06121)"
    settings_class: ClassVar[type[Settings]] = GradientDifferenceSettings
    settings: GradientDifferenceSettings

    def check(self, model: Model) -> None:
        """Refuse to run without anything to retain; see :meth:`Method.check`."""
        super().check(model)
        if self.settings.retain == "none" or not self.settings.retain_weight:
            raise UsageError("gradient-difference needs something to retain: set `retain` and `retain_weight`, or use gradient-ascent.")

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """Ascent on the texts; the retain term is added to it."""
        del job, reference
        return [Ascent(self.settings.forget_weight, FORGET, clamp=self.settings.clamp)]
