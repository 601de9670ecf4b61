"""NPO: negative preference optimisation, an ascent that fades as a text is forgotten."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from fairforget.methods._forget import FORGET, ForgetMethod, ForgetSettings
from fairforget.methods._trained import Job
from fairforget.objectives import NegativePreference
from fairforget.objectives.drift import Reference
from fairforget.settings import Settings
from fairforget.training import Objective


class NpoSettings(ForgetSettings):
    """Settings of NPO."""

    beta: float = Field(0.1, gt=0)
    """Inverse temperature β (the paper's 0.1): the larger, the sooner the ascent fades; towards 0 it is gradient ascent."""
    retain: Literal["none", "cross-entropy", "kl", "hidden"] = "cross-entropy"
    """What holds the model on `retain_text`; cross-entropy with weight 1 is the default of open-unlearning, `none` the plain loss."""


class Npo(ForgetMethod):
    """L = -(2/β) mean log σ(-β (S - S_ref)), S a text's summed log p of its labelled tokens, without dropout."""

    name: ClassVar[str] = "npo"
    summary: ClassVar[str] = "Treat biased text as dispreferred against the base: ascent that fades as it is forgotten."
    source: ClassVar[str] = "Zhang et al. 2024 (arXiv 2404.05868)"
    settings_class: ClassVar[type[Settings]] = NpoSettings
    settings: NpoSettings

    def objectives(self, job: Job, reference: Reference) -> list[Objective]:
        """The preference term on the texts."""
        del job
        return [NegativePreference(reference, self.settings.beta, self.settings.forget_weight, FORGET)]
