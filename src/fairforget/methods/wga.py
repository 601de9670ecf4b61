"""WGA: gradient ascent in which a token counts by how likely it still is."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from fairforget.methods._forget import FORGET, ForgetMethod, ForgetSettings
from fairforget.methods._trained import Job
from fairforget.objectives import Ascent
from fairforget.objectives.drift import Reference
from fairforget.settings import Settings
from fairforget.training import Objective


class WgaSettings(ForgetSettings):
    """Settings of weighted gradient ascent."""

    beta: float = Field(1.0, ge=0)
    """Exponent β of a token's probability in its weight (1 in open-unlearning); 0 is gradient ascent."""
    retain: Literal["none", "cross-entropy", "kl", "hidden"] = "cross-entropy"
    """What holds the model on `retain_text`; cross-entropy with weight 1 is the default of open-unlearning, `none` the plain loss."""


class Wga(ForgetMethod):
    """L = mean_t p_tᵝ log p_t, the factor p_tᵝ held constant in the gradient, without dropout."""

    name: ClassVar[str] = "wga"
    summary: ClassVar[str] = "Gradient ascent weighted by the probability that a token still has."
    source: ClassVar[str] = "Wang et al. 2025 (arXiv 2502.19301)"
    settings_class: ClassVar[type[Settings]] = WgaSettings
    settings: WgaSettings

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """Weighted ascent on the texts."""
        del job, reference
        return [Ascent(self.settings.forget_weight, FORGET, power=self.settings.beta)]
